"""The live trip: what a caller is told whatever the worker does. Real Redis; a fake worker or real processes."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from shared import streams
from shared.contracts.inference import ChatMessage, Generate, ModelRef
from shared.errors import HeliuError, LimitExceeded, Unavailable
from shared.kept import Keep
from shared.live_client import LiveClient, last_entry
from shared.live_server import LiveContext, LiveServer
from shared.metrics import Metrics
from shared.queue import Publisher
from shared.streams import Entry
from shared.telemetry import Tracing
from tests.harness import Harness, platform, wait_for

WORKER = "tests.integration.live_worker"
MODEL = ModelRef(name="echo", base_artifact="sha256:" + "0" * 64)
LONG = 120.0


def generate(order: str) -> Generate:
    return Generate(model=MODEL, messages=(ChatMessage(role="user", content=order),))


class FakeWorker:
    """Stands where the queue and a worker are: keeps what was sent and answers entry by entry."""

    def __init__(self, redis_url: str) -> None:
        self.sent: list[dict[str, Any]] = []
        self.waiting = 0
        self._redis = redis.Redis.from_url(redis_url)

    def backlog(self, queue: str) -> int:
        return self.waiting

    def send_live(
        self, queue: str, envelope: Mapping[str, Any], *, expires_s: float, parent: str | None
    ) -> None:
        self.sent.append(dict(envelope))

    def say(self, attempt: int, seq: int, type_: str, data: dict[str, Any] | None = None) -> None:
        """One entry of the answer to attempt number `attempt`."""
        envelope = self.sent[-1]
        entry = Entry(envelope["request"], attempt, seq, type_, data or {})
        self._redis.xadd(envelope["reply"], entry.pack())  # type: ignore[arg-type]

    def accept(self, attempt: int) -> None:
        self.say(attempt, 0, "accepted", {"worker": f"worker-{attempt}"})

    def beat(self, attempt: int) -> None:
        beat = Entry("", 0, -1, "beat", {self.sent[-1]["request"]: attempt})
        self._redis.xadd(self.sent[-1]["reply"], beat.pack())  # type: ignore[arg-type]

    async def asked(self, attempt: int) -> None:
        """Wait until attempt number `attempt` was sent."""
        while len(self.sent) < attempt:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def client_of(publisher: Any, redis_url: str, silence_s: float = LONG) -> AsyncIterator[LiveClient]:
    client = LiveClient(publisher, redis_url, silence_s=silence_s)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def call(
    client: LiveClient, order: str = "speak", accept_s: float = LONG, cap: int = 8
) -> AsyncIterator[Entry]:
    return client.call(
        generate(order), pool="default", tenant="acme", max_in_flight=cap, accept_s=accept_s, parent=None
    )


async def texts(entries: AsyncIterator[Entry]) -> list[str]:
    return [entry.data["text"] async for entry in entries if entry.type in ("token", "done")]


def with_fake(
    redis_url: str, scene: Callable[[LiveClient, FakeWorker], Awaitable[None]], silence_s: float = LONG
) -> None:
    async def run() -> None:
        fake = FakeWorker(redis_url)
        async with client_of(fake, redis_url, silence_s) as client:
            await scene(client, fake)

    asyncio.run(run())


def test_an_answer_comes_in_its_order_and_ends_with_done(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        fake.say(1, 1, "token", {"text": "a"})
        fake.say(1, 2, "token", {"text": "b"})
        fake.say(1, 3, "done", {"text": "ab"})
        assert await answer == ["a", "b", "ab"]
        assert client.in_flight == 0

    with_fake(redis_url, scene)


def test_a_caller_that_leaves_as_an_entry_comes_has_left(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        (box,) = client.replies.boxes.values()
        while box.worker is None:
            await asyncio.sleep(0)
        # Both in one turn of the loop: the entry that would be taken next must not undo the cancelling.
        client.replies.hand_out(Entry(fake.sent[0]["request"], 1, 1, "token", {"text": "a"}))
        answer.cancel()
        await asyncio.wait([answer], timeout=20)
        assert answer.cancelled()
        assert client.in_flight == 0

    with_fake(redis_url, scene)


def test_redis_forgets_what_was_read_of_long_answers(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        with redis.Redis.from_url(redis_url) as server:
            for number in range(1, 5):
                answer = asyncio.create_task(texts(call(client)))
                await fake.asked(number)
                fake.accept(1)
                for seq in range(1, 41):
                    fake.say(1, seq, "token", {"text": "x" * 100_000})
                fake.say(1, 41, "done", {"text": ""})
                assert len(await answer) == 41
            reply = fake.sent[-1]["reply"]
            # Sixteen megabytes went through.
            async with asyncio.timeout(20):
                while server.memory_usage(reply) > 8 * 1024 * 1024:
                    fake.beat(1)
                    await asyncio.sleep(0.01)

    with_fake(redis_url, scene)


def test_an_entry_written_twice_is_passed_over(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        fake.say(1, 1, "token", {"text": "a"})
        fake.accept(1)
        fake.say(1, 1, "token", {"text": "a"})
        fake.say(1, 2, "done", {"text": "a"})
        assert await answer == ["a", "a"]

    with_fake(redis_url, scene)


def test_a_gap_in_the_numbers_is_an_error_and_no_quiet_end(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        fake.say(1, 2, "token", {"text": "b"})
        with pytest.raises(Unavailable, match="entry 1 is missing") as caught:
            await answer
        assert caught.value.code == "worker_lost"

    with_fake(redis_url, scene)


def test_silence_before_the_first_token_is_one_retry_whose_answer_alone_counts(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        await fake.asked(2)
        assert [envelope["attempt"] for envelope in fake.sent] == [1, 2]
        assert fake.sent[0]["request"] == fake.sent[1]["request"]
        fake.say(1, 1, "token", {"text": "too late"})
        fake.accept(2)
        fake.say(2, 1, "token", {"text": "second"})
        fake.say(1, 2, "done", {"text": "too late"})
        fake.say(2, 2, "done", {"text": "second"})
        assert await answer == ["second", "second"]

    with_fake(redis_url, scene, silence_s=0.2)


def test_silence_of_the_second_worker_too_is_worker_lost(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        await fake.asked(2)
        fake.accept(2)
        with pytest.raises(Unavailable) as caught:
            await answer
        assert caught.value.code == "worker_lost"
        assert len(fake.sent) == 2

    with_fake(redis_url, scene, silence_s=0.2)


def test_silence_after_the_first_token_is_no_retry(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        fake.say(1, 1, "token", {"text": "a"})
        with pytest.raises(Unavailable) as caught:
            await answer
        assert caught.value.code == "worker_lost"
        assert len(fake.sent) == 1

    with_fake(redis_url, scene, silence_s=0.2)


def test_without_a_worker_the_deadline_is_no_worker_and_the_request_is_marked_given_up(
    redis_url: str,
) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        fake.waiting = 1
        with pytest.raises(Unavailable) as caught:
            await texts(call(client, accept_s=0.1))
        assert caught.value.code == "no_worker"
        with redis.Redis.from_url(redis_url) as r:
            assert r.exists(streams.cancelled_key(fake.sent[0]["request"]))

    with_fake(redis_url, scene)


def test_a_request_that_left_the_line_and_was_never_accepted_is_sent_once_more(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(2)
        fake.accept(2)
        fake.say(2, 1, "done", {"text": "found"})
        assert await answer == ["found"]

    with_fake(redis_url, scene, silence_s=0.2)


def test_a_request_that_still_waits_in_the_line_is_not_sent_again(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        fake.waiting = 1
        with pytest.raises(Unavailable) as caught:
            await texts(call(client, accept_s=1.5))
        assert caught.value.code == "no_worker"
        assert len(fake.sent) == 1

    with_fake(redis_url, scene, silence_s=0.2)


def test_a_workers_error_keeps_its_code_and_param(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        fake.say(
            1, 1, "error", {"code": "too_long", "message": "no", "param": "messages", "retryable": False}
        )
        with pytest.raises(HeliuError) as caught:
            await answer
        assert (caught.value.code, caught.value.param) == ("too_long", "messages")

    with_fake(redis_url, scene)


def test_one_request_over_a_tenants_cap_is_refused_until_one_ends(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        first = asyncio.create_task(texts(call(client, cap=1)))
        await fake.asked(1)
        with pytest.raises(LimitExceeded):
            await texts(call(client, cap=1))
        fake.accept(1)
        fake.say(1, 1, "done", {"text": "x"})
        await first
        second = asyncio.create_task(texts(call(client, cap=1)))
        await fake.asked(2)
        fake.accept(1)
        fake.say(1, 1, "done", {"text": "y"})
        assert await second == ["y"]

    with_fake(redis_url, scene)


def test_what_is_no_entry_on_the_reply_stream_harms_nobody(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        with redis.Redis.from_url(redis_url) as r:
            for garbage in ({"x": "y"}, {"e": "not json"}, {"e": "[1]"}, {"e": '["r", 1, 0, "beat", 3]'}):
                r.xadd(fake.sent[0]["reply"], garbage)  # type: ignore[arg-type]
        fake.accept(1)
        fake.say(1, 1, "done", {"text": "x"})
        assert await answer == ["x"]

    with_fake(redis_url, scene)


def test_an_error_of_the_reader_itself_does_not_end_it(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        real, failed = client._redis.xread, asyncio.Event()

        async def broken(*_: Any, **__: Any) -> None:
            client._redis.xread = real  # type: ignore[method-assign]
            failed.set()
            raise RuntimeError("of a kind that nobody foresaw")

        client._redis.xread = broken  # type: ignore[method-assign]
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        await asyncio.wait_for(failed.wait(), 60)
        fake.accept(1)
        fake.say(1, 1, "done", {"text": "x"})
        assert await answer == ["x"]

    with_fake(redis_url, scene)


def test_a_loop_that_stood_still_takes_nobody_for_dead(redis_url: str) -> None:
    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        answer = asyncio.create_task(texts(call(client)))
        await fake.asked(1)
        fake.accept(1)
        await asyncio.sleep(0.1)  # the answer is being waited for now
        for _ in range(20):
            # No other task of the loop runs meanwhile, so that the beats lie unread for twice the silence.
            time.sleep(0.1)
            fake.beat(1)
        await asyncio.sleep(0)
        fake.say(1, 1, "done", {"text": "x"})
        assert await answer == ["x"]
        assert len(fake.sent) == 1

    with_fake(redis_url, scene, silence_s=1.0)


@pytest.fixture
def served(redis_url: str) -> Iterator[Callable[[Callable[[LiveContext, Any], dict[str, Any]]], LiveServer]]:
    made: list[LiveServer] = []

    def serve(handler: Callable[[LiveContext, Any], dict[str, Any]]) -> LiveServer:
        server = LiveServer(
            redis_url, {Generate: handler}, worker_id="w", tracing=Tracing("test"), metrics=Metrics()
        )
        made.append(server)
        return server

    yield serve
    for server in made:
        server.close()


def test_an_entry_that_is_no_json_fails_its_own_request_and_the_next_is_answered(
    redis_url: str, served: Callable[[Callable[[LiveContext, Any], dict[str, Any]]], LiveServer]
) -> None:
    def handler(context: LiveContext, asked: Generate) -> dict[str, Any]:
        value = float("nan") if asked.messages[0].content == "nan" else 1.0
        context.send("token", {"text": "x", "value": value})
        return {"text": "x"}

    server = served(handler)

    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        bad = asyncio.create_task(texts(call(client, "nan")))
        await fake.asked(1)
        await asyncio.to_thread(server.serve, {**fake.sent[0], "sent_at": 0.0})
        with pytest.raises(HeliuError) as caught:
            await bad
        assert caught.value.code == "internal_error"
        good = asyncio.create_task(texts(call(client)))
        await fake.asked(2)
        await asyncio.to_thread(server.serve, {**fake.sent[1], "sent_at": 0.0})
        assert await good == ["x", "x"]

    with_fake(redis_url, scene)


def test_half_a_surrogate_pair_in_an_answer_does_not_silence_the_worker(
    redis_url: str, served: Callable[[Callable[[LiveContext, Any], dict[str, Any]]], LiveServer]
) -> None:
    def handler(context: LiveContext, asked: Generate) -> dict[str, Any]:
        raise HeliuError("no \ud83d", code="refused")

    server = served(handler)

    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        for attempt in (1, 2):
            answer = asyncio.create_task(texts(call(client)))
            await fake.asked(attempt)
            await asyncio.to_thread(server.serve, {**fake.sent[-1], "sent_at": 0.0})
            with pytest.raises(HeliuError, match="no") as caught:
                await answer
            assert caught.value.code == "refused"

    with_fake(redis_url, scene)


def test_a_second_attempt_at_the_worker_that_has_the_first_gives_that_up_and_stands_by_itself(
    redis_url: str, served: Callable[[Callable[[LiveContext, Any], dict[str, Any]]], LiveServer]
) -> None:
    begun: queue.Queue[LiveContext] = queue.Queue()

    def handler(context: LiveContext, asked: Generate) -> dict[str, Any]:
        begun.put(context)
        assert context.cancelled.wait(60)
        return {"text": ""}

    server = served(handler)
    envelope = {
        "request": "r",
        "call": Generate.name,
        "payload": generate("x").dump(),
        "reply": streams.reply_stream("g"),
        "deadline": time.time() + 600,
        "tenant": "acme",
        "sent_at": 0.0,
    }
    threads, contexts = [], []
    for attempt in (1, 2):
        threads.append(threading.Thread(target=server.serve, args=({**envelope, "attempt": attempt},)))
        threads[-1].start()
        contexts.append(begun.get(timeout=60))
    threads[0].join(60)
    assert not threads[0].is_alive()
    assert (server.busy, contexts[1].cancelled.is_set()) == (1, False)
    with redis.Redis.from_url(redis_url) as r:
        r.xadd(streams.cancel_stream("w"), {"r": "r"})
    threads[1].join(60)
    assert (server.busy, contexts[1].cancelled.is_set()) == (0, True)


@pytest.fixture
def live(database_url: str, redis_url: str) -> Iterator[Harness]:
    with platform(database_url, redis_url) as harness:
        yield harness


def with_workers(
    harness: Harness, scene: Callable[[LiveClient], Awaitable[None]], silence_s: float = 2.5
) -> None:
    async def run() -> None:
        publisher = Publisher(harness.settings.redis_url, Tracing("test"))
        async with client_of(publisher, harness.settings.redis_url, silence_s) as client:
            await scene(client)
        publisher.close()

    asyncio.run(run())


def go(harness: Harness) -> None:
    (harness.settings.home / "go").touch()


def test_a_worker_frozen_before_its_first_token_is_replaced_by_a_second_attempt(live: Harness) -> None:
    first = live.start("inference", 0, module=WORKER)

    async def scene(client: LiveClient) -> None:
        entries = call(client, "hold")
        accepted = await anext(entries)
        first.signal(signal.SIGSTOP)
        live.start("inference", 1, module=WORKER)
        go(live)
        done = await last_entry(entries)
        assert accepted.attempt == 1
        assert (done.attempt, done.data["worker"]) == (2, 1)
        first.signal(signal.SIGCONT)

    with_workers(live, scene)


def test_a_worker_killed_after_its_first_token_is_worker_lost(live: Harness) -> None:
    worker = live.start("inference", 0, module=WORKER)

    async def scene(client: LiveClient) -> None:
        entries = call(client, "break")
        assert [(await anext(entries)).type for _ in range(2)] == ["accepted", "token"]
        worker.kill()
        with pytest.raises(Unavailable) as caught:
            await anext(entries)
        assert caught.value.code == "worker_lost"

    with_workers(live, scene)


def test_a_caller_that_goes_away_cancels_the_handler_and_frees_its_slot(live: Harness) -> None:
    live.start("inference", 0, module=WORKER, HELIU_SLOTS="1")
    go(live)

    async def scene(client: LiveClient) -> None:
        # One slot and the two threads that are left for doorbells: three callers hold all that there is.
        held = [call(client, "endless") for _ in range(3)]
        for entries in held:
            await anext(entries)
        await held[0].aclose()  # type: ignore[attr-defined]
        told = live.settings.home / "cancelled"
        await asyncio.to_thread(wait_for, told.exists, 60, "the handler to hear of it")
        assert (await last_entry(call(client))).data["text"] == "said"
        for entries in held[1:]:
            await entries.aclose()  # type: ignore[attr-defined]

    with_workers(live, scene, silence_s=LONG)


def test_a_drain_lets_the_answers_that_have_begun_end(live: Harness) -> None:
    worker = live.start("inference", 0, module=WORKER)

    async def scene(client: LiveClient) -> None:
        entries = call(client, "hold")
        await anext(entries)
        stopping = asyncio.create_task(asyncio.to_thread(worker.stop, 60))
        wait = lambda: "Warm shutdown" in worker.log.read_text()  # noqa: E731
        await asyncio.to_thread(wait_for, wait, 30, "the drain to begin")
        go(live)
        assert (await last_entry(entries)).data["text"] == "said"
        assert await stopping == 0

    with_workers(live, scene, silence_s=LONG)


def test_what_is_kept_says_when_another_attempt_begins_and_when_none_will(redis_url: str) -> None:
    keep = Keep("chatcmpl-1", 60.0)

    async def scene(client: LiveClient, fake: FakeWorker) -> None:
        entries = client.call(
            generate("speak"),
            pool="default",
            tenant="acme",
            max_in_flight=8,
            accept_s=LONG,
            parent=None,
            keep=keep,
        )
        answer = asyncio.create_task(texts(entries))
        await fake.asked(2)
        assert [envelope["keep"] for envelope in fake.sent] == [keep.dump()] * 2
        with pytest.raises(Unavailable):
            await answer
        with redis.Redis.from_url(redis_url) as server:
            told = [Entry.unpack(fields) for _, fields in server.xrange(streams.kept_stream(keep.answer))]  # type: ignore[union-attr]
            assert 0 < server.pttl(streams.kept_stream(keep.answer)) <= 60_000  # type: ignore[operator]
        assert [(entry.attempt, entry.type) for entry in told] == [(2, "attempt"), (2, "error")]
        assert told[1].data["code"] == "worker_lost"

    with_fake(redis_url, scene, silence_s=0.2)
