"""Slots hold what the blocks hold, whoever comes, grows and leaves."""

from __future__ import annotations

import random

import pytest
import torch

from services.inference.engine.attention import StepBatch
from services.inference.engine.blocks import BlockAllocator
from services.inference.engine.decode_slots import DecodeSlots, SlotStep, cut
from services.inference.engine.paged_cache import PagedCache
from services.inference.engine.request import Priority
from services.inference.engine.scheduler import Sequence

SIZE, HEADS, WIDTH, LAYERS = 4, 2, 3, 2


class Cache:
    """A cache of two layers, and beside it what each sequence must have in them."""

    def __init__(self, blocks: int = 200) -> None:
        self.allocator = BlockAllocator(blocks * SIZE, SIZE)
        self.paged = PagedCache(blocks + 1, SIZE)
        self.truth: dict[Sequence, list[torch.Tensor]] = {}

    def sequence(self, length: int) -> Sequence:
        """One whose `length` tokens are in the cache, and whose next is to be decoded."""
        blocks = self.allocator.take(self.allocator.blocks_for(length + 1))
        assert blocks is not None
        made = Sequence(
            "s", "", Priority.BATCH, 0, [0] * (length + 1), length, computed=length, blocks=blocks
        )
        self.truth[made] = []
        for layer in range(LAYERS):
            values = torch.randn(length, HEADS, WIDTH)
            self._write(layer, [(made, place) for place in range(length)], values)
            self.truth[made].append(values)
        return made

    def decode(self, slots: DecodeSlots, rows: list[Sequence]) -> SlotStep:
        """A step of one token each, written to the blocks and the slots."""
        for sequence in rows:
            while len(sequence.blocks) * SIZE <= sequence.computed:
                sequence.blocks += self.allocator.take(1) or pytest.fail("the test's cache is full")
        step = slots.step()
        for layer in range(LAYERS):
            new = torch.randn(len(rows), HEADS, WIDTH)
            self._write(layer, [(sequence, sequence.computed) for sequence in rows], new)
            step.write(self.paged, layer, new, -new)
            for row, sequence in enumerate(rows):
                self.truth[sequence][layer] = torch.cat([self.truth[sequence][layer], new[row : row + 1]])
        return step

    def check(self, step: SlotStep, rows: list[Sequence]) -> None:
        assert [place for group in step.groups for place in range(group.start, group.end)] == list(
            range(len(rows))
        )
        for layer in range(LAYERS):
            for group in step.groups:
                keys, values = (
                    each.view(-1, HEADS, group.width, WIDTH)
                    for each in (group.keys(self.paged, layer), group.values(self.paged, layer))
                )
                table = group.value_table(self.paged, layer)
                summed = group.rows(HEADS, table.shape[2])
                assert torch.equal(table.reshape(-1, WIDTH)[summed].view(values.shape), values)
                for place, sequence in enumerate(rows[group.start : group.end]):
                    expected = self.truth[sequence][layer].transpose(0, 1)
                    length = sequence.computed + 1
                    assert torch.equal(keys[place, :, :length], expected)
                    assert torch.equal(values[place, :, :length], -expected)
                    assert group.lengths[place] == length

    def _write(self, layer: int, places: list[tuple[Sequence, int]], keys: torch.Tensor) -> None:
        slots = [s.blocks[place // SIZE] * SIZE + place % SIZE for s, place in places]
        step = StepBatch(self.paged, torch.tensor(slots, dtype=torch.long), [], [])
        self.paged.write(layer, keys, -keys, step.write_index(HEADS))


@pytest.mark.parametrize("seed", range(8))
def test_slots_hold_what_the_blocks_hold_whoever_comes_and_leaves(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    cache, slots = Cache(), DecodeSlots(6, 48, SIZE)
    running: list[Sequence] = []
    for _ in range(30):
        while len(running) < 6 and rng.random() < 0.5:
            running.append(cache.sequence(rng.randint(0, 30)))
        rng.shuffle(running)
        # Some pause for a step, as those do that are preempted.
        placed = slots.place([s for s in running if rng.random() < 0.9])
        step = cache.decode(slots, placed)
        cache.check(step, placed)
        for sequence in placed:
            sequence.computed += 1
        running = [s for s in running if s.computed < 40 and rng.random() < 0.85]


def test_a_step_that_is_repeated_reads_the_same() -> None:
    cache, slots = Cache(), DecodeSlots(4, 32, SIZE)
    rows = [cache.sequence(5), cache.sequence(9)]
    for _ in range(2):
        placed = slots.place(rows)
        for sequence in placed:
            # What the failed pass has written is written again.
            cache.truth[sequence] = [layer[: sequence.computed] for layer in cache.truth[sequence]]
        cache.check(cache.decode(slots, placed), placed)


def test_after_a_pass_that_failed_between_two_layers_all_is_copied_again() -> None:
    cache, slots = Cache(), DecodeSlots(4, 32, SIZE)
    placed = slots.place([cache.sequence(5)])
    slots.step()  # and nothing is written
    slots.clear()
    assert slots.bytes() == 0
    placed = slots.place(placed)
    cache.check(cache.decode(slots, placed), placed)


def test_a_sequence_longer_than_a_slot_has_none() -> None:
    cache, slots = Cache(), DecodeSlots(4, 18, SIZE)
    fits, too_long = cache.sequence(15), cache.sequence(16)
    assert slots.place([fits, too_long]) == [fits]


def test_more_sequences_than_slots_leave_the_last_without() -> None:
    cache, slots = Cache(), DecodeSlots(2, 32, SIZE)
    rows = [cache.sequence(4) for _ in range(3)]
    assert set(slots.place(rows)) == set(rows[:2])


def test_who_comes_takes_the_slot_of_who_left_and_the_others_stay() -> None:
    cache, slots = Cache(), DecodeSlots(4, 64, SIZE)
    rows = [cache.sequence(8) for _ in range(4)]
    first = slots.place(rows)
    comes = cache.sequence(8)
    assert slots.place([*(s for s in rows if s is not first[1]), comes]) == [
        first[0],
        comes,
        first[2],
        first[3],
    ]


def test_one_that_leaves_is_replaced_by_the_last() -> None:
    cache, slots = Cache(), DecodeSlots(4, 64, SIZE)
    rows = [cache.sequence(8) for _ in range(4)]
    first = slots.place(rows)
    assert slots.place([s for s in rows if s is not first[0]]) == [first[3], first[1], first[2]]


def test_slots_are_put_in_order_when_padding_costs_too_much() -> None:
    cache, slots = Cache(3000), DecodeSlots(16, 2048, SIZE)
    rows = [cache.sequence(length) for length in (4, 1000) * 4]
    slots.place(rows[:1])
    assert [s.computed for s in slots.place(rows)] == [4] * 4 + [1000] * 4


def test_a_cut_keeps_padding_and_size_under_their_limits() -> None:
    rng = random.Random(3)
    for _ in range(200):
        lengths = [rng.randint(1, 100) for _ in range(rng.randint(0, 20))]
        runs = cut(lengths, waste=120, most=300)
        assert [place for start, end in runs for place in range(start, end)] == list(range(len(lengths)))
        for start, end in runs:
            some = lengths[start:end]
            padded = max(some) * len(some)
            assert len(some) == 1 or (padded - sum(some) <= 120 and padded <= 300)
