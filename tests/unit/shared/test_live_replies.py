"""A mailbox gives every entry once, in order, and forgets neither an entry nor that its owner was cancelled."""

from __future__ import annotations

import asyncio
import time

from shared.live_replies import PATIENCE_S, Mailbox
from shared.streams import Entry


def token(seq: int) -> Entry:
    return Entry("r", 1, seq, "token", {"text": str(seq)})


async def waiting(box: Mailbox) -> asyncio.Task[Entry | None]:
    """A task that waits for the next entry."""
    task = asyncio.create_task(box.next())
    await asyncio.sleep(0)
    return task


def test_entries_come_in_order_and_those_at_hand_need_no_wait() -> None:
    async def scene() -> None:
        box = Mailbox()
        task = await waiting(box)
        for seq in range(3):
            box.put(token(seq))
        assert await task == token(0)
        assert [len(box), await box.next(), await box.next(), len(box)] == [2, token(1), token(2), 0]

    asyncio.run(scene())


def test_what_was_written_twice_comes_once() -> None:
    async def scene() -> None:
        box = Mailbox()
        for seq in (0, 0, 1, 0, 1, 2):
            box.put(token(seq))
        assert [(await box.next()) for _ in range(3)] == [token(0), token(1), token(2)]
        assert len(box) == 0

    asyncio.run(scene())


def test_another_attempt_begins_with_nothing_of_the_one_before() -> None:
    async def scene() -> None:
        box = Mailbox()
        box.put(token(0))
        box.put(token(1))
        box.begin(2)
        assert len(box) == 0
        again = Entry("r", 2, 0, "accepted", {})
        box.put(again)
        assert await box.next() == again

    asyncio.run(scene())


def test_who_has_waited_long_enough_is_told_that_there_is_none() -> None:
    async def scene() -> None:
        box = Mailbox()
        task = await waiting(box)
        box.look(time.monotonic())
        await asyncio.sleep(0)
        assert not task.done()
        box.look(time.monotonic() + PATIENCE_S)
        assert await task is None

    asyncio.run(scene())


def test_an_entry_that_comes_as_its_owner_is_cancelled_stays_there() -> None:
    async def scene() -> None:
        box = Mailbox()
        task = await waiting(box)
        box.put(token(0))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await box.next() == token(0)

    asyncio.run(scene())
