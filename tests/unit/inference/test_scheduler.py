"""What the scheduler plans, in plain Python."""

from __future__ import annotations

from services.inference.engine.blocks import BlockAllocator
from services.inference.engine.fair_queue import FairQueue
from services.inference.engine.request import Priority
from services.inference.engine.scheduler import Plan, Scheduler, Sequence

LIVE, BATCH = Priority.LIVE, Priority.BATCH


class Orders:
    """Makes sequences that arrive one after the other."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, length: int, priority: Priority = LIVE, tenant: str = "a") -> Sequence:
        self.count += 1
        # No two begin alike, unless a test says so.
        return Sequence(f"s{self.count}", tenant, priority, self.count, [self.count] * length, length)


def scheduler(blocks: int = 64, size: int = 4, slots: int = 8, budget: int = 32) -> Scheduler:
    return Scheduler(BlockAllocator(blocks * size, size), slots, budget)


def carry_out(planner: Scheduler, plan: Plan) -> None:
    """What the runtime does: the tokens are computed, and each sampled row gets one more."""
    for row in plan.rows:
        planner.computed(row)
        if row.samples:
            row.sequence.tokens.append(1)


def counts(plan: Plan) -> dict[str, int]:
    return {row.sequence.id: row.count for row in plan.rows}


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    make, planner = Orders(), scheduler(budget=10)
    planner.add(make(25))
    seen = []
    for _ in range(4):
        plan = planner.schedule()
        seen.append([(row.count, row.samples) for row in plan.rows])
        carry_out(planner, plan)
    assert seen == [[(10, False)], [(10, False)], [(5, True)], [(1, True)]]


def test_decodes_come_before_prefill_and_count_against_the_budget() -> None:
    make, planner = Orders(), scheduler(budget=8)
    planner.add(make(3))
    carry_out(planner, planner.schedule())
    planner.add(make(20))
    assert counts(planner.schedule()) == {"s1": 1, "s2": 7}


def test_prefill_moves_on_by_a_block_however_many_decode() -> None:
    make, planner = Orders(), scheduler(budget=2, slots=8)
    for _ in range(4):
        planner.add(make(1))
    carry_out(planner, planner.schedule())
    planner.add(make(20))
    assert counts(planner.schedule())["s5"] == 4


def test_a_long_prompt_goes_slower_while_live_answers_grow_and_not_beside_batch_rows() -> None:
    for priority, chunk in ((LIVE, 7), (BATCH, 31)):
        make = Orders()
        planner = Scheduler(BlockAllocator(256, 4), 8, 32, live_step_tokens=8)
        planner.add(make(3, priority))
        carry_out(planner, planner.schedule())
        planner.add(make(100, priority))
        assert counts(planner.schedule()) == {"s1": 1, "s2": chunk}


def test_live_is_admitted_before_batch() -> None:
    make, planner = Orders(), scheduler(slots=1)
    planner.add(make(4, BATCH))
    planner.add(make(4, LIVE))
    assert counts(planner.schedule()) == {"s2": 4}


def test_tenants_take_turns_within_a_priority() -> None:
    make, queue = Orders(), FairQueue()
    for tenant in ("a", "a", "a", "b", "b", "c"):
        queue.push(make(1, tenant=tenant))
    assert [queue.pop().tenant for _ in range(6)] == ["a", "b", "c", "a", "b", "a"]


def test_a_live_arrival_takes_the_slot_of_the_youngest_batch_row() -> None:
    make, planner = Orders(), scheduler(slots=2)
    planner.add(make(4, BATCH))
    planner.add(make(4, BATCH))
    carry_out(planner, planner.schedule())
    planner.add(make(4, LIVE))
    plan = planner.schedule()
    assert [sequence.id for sequence in plan.preempted] == ["s2"]
    assert counts(plan) == {"s1": 1, "s3": 4}


def test_a_live_arrival_takes_the_blocks_of_batch_rows() -> None:
    make, planner = Orders(), scheduler(blocks=6, slots=8)
    planner.add(make(7, BATCH))
    planner.add(make(7, BATCH))
    carry_out(planner, planner.schedule())
    planner.add(make(16, LIVE))
    plan = planner.schedule()
    assert [sequence.id for sequence in plan.preempted] == ["s2"]
    assert counts(plan)["s3"] == 16


def test_a_batch_arrival_never_preempts() -> None:
    make, planner = Orders(), scheduler(slots=1)
    planner.add(make(4, BATCH))
    carry_out(planner, planner.schedule())
    planner.add(make(4, BATCH))
    plan = planner.schedule()
    assert plan.preempted == []
    assert counts(plan) == {"s1": 1}


def test_a_decode_without_a_block_preempts_the_youngest_row() -> None:
    make, planner = Orders(), scheduler(blocks=2, size=4)
    planner.add(make(4, LIVE))
    planner.add(make(4, LIVE))
    carry_out(planner, planner.schedule())
    plan = planner.schedule()
    assert [sequence.id for sequence in plan.preempted] == ["s2"]
    assert counts(plan) == {"s1": 1}
    assert planner.waiting(LIVE) == 1


def test_a_preempted_row_starts_over_with_the_tokens_it_has() -> None:
    make, planner = Orders(), scheduler(slots=1)
    row = make(3, BATCH)
    planner.add(row)
    carry_out(planner, planner.schedule())
    planner.preempt_batch()
    assert (row.computed, row.blocks, row.preemptions, len(row.tokens)) == (0, [], 1, 4)
    assert counts(planner.schedule()) == {"s1": 4}


def test_a_preempted_row_goes_before_those_that_wait() -> None:
    make, planner = Orders(), scheduler(slots=1)
    planner.add(make(3, BATCH))
    carry_out(planner, planner.schedule())
    planner.add(make(4, BATCH, tenant="b"))
    planner.preempt_batch()
    assert counts(planner.schedule()) == {"s1": 4}


def test_removing_a_sequence_frees_its_blocks_at_once() -> None:
    make, planner = Orders(), scheduler(blocks=8)
    running, waiting = make(9), make(40)
    planner.add(running)
    planner.add(waiting)
    planner.schedule()
    planner.remove(running)
    planner.remove(waiting)
    assert planner.allocator.free == 8
    assert planner.schedule().rows == []


def test_the_oldest_row_always_ends_in_a_cache_that_only_one_fits() -> None:
    make, planner = Orders(), scheduler(blocks=4, size=4, slots=4)
    rows = [make(5, BATCH) for _ in range(4)]
    for row in rows:
        planner.add(row)
    ended = []
    for _ in range(200):
        carry_out(planner, planner.schedule())
        for row in [row for row in planner.running if len(row.tokens) >= 16]:
            planner.remove(row)
            ended.append(row.id)
    assert sorted(ended) == ["s1", "s2", "s3", "s4"]
    assert planner.allocator.free == 4


def test_blocks_are_taken_whole_or_not_at_all() -> None:
    allocator = BlockAllocator(12, 4)
    assert allocator.take(4) is None
    assert allocator.free == 3
    assert sorted(allocator.take(3) or []) == [1, 2, 3]


def alike(make: Orders, tokens: list[int], salt: bytes = b"") -> Sequence:
    sequence = make(len(tokens))
    sequence.tokens, sequence.salt = list(tokens), salt
    return sequence


def test_what_begins_alike_is_computed_once_and_shared() -> None:
    make, planner = Orders(), scheduler(size=4)
    prefix = list(range(10))
    first, second = alike(make, [*prefix, 50]), alike(make, [*prefix, 60, 61])
    planner.add(first)
    carry_out(planner, planner.schedule())
    planner.add(second)
    # Two full blocks of the ten tokens are there; the rest is the second's own.
    assert counts(planner.schedule()) == {"s1": 1, "s2": 4}
    assert second.blocks[:2] == first.blocks[:2]
    assert not set(second.blocks[2:]) & set(first.blocks)
    assert (first.cached, second.cached) == (0, 8)


def test_who_would_compute_the_same_waits_a_step_for_who_does() -> None:
    make, planner = Orders(), scheduler(size=4)
    for last in (50, 60, 70):
        planner.add(alike(make, [*range(8), last]))
    plan = planner.schedule()
    assert counts(plan) == {"s1": 9}
    carry_out(planner, plan)
    assert counts(planner.schedule()) == {"s1": 1, "s2": 1, "s3": 1}


def test_the_last_token_of_a_prompt_that_is_wholly_cached_is_computed_again() -> None:
    make, planner = Orders(), scheduler(size=4)
    planner.add(alike(make, list(range(8))))
    carry_out(planner, planner.schedule())
    planner.add(alike(make, list(range(8))))
    assert counts(planner.schedule()) == {"s1": 1, "s2": 4}


def test_another_salt_shares_nothing() -> None:
    make, planner = Orders(), scheduler(size=4)
    planner.add(alike(make, list(range(9)), b"tenant a"))
    carry_out(planner, planner.schedule())
    planner.add(alike(make, list(range(9)), b"tenant b"))
    assert counts(planner.schedule()) == {"s1": 1, "s2": 9}


def test_a_prefix_outlives_its_sequence_until_its_blocks_are_needed() -> None:
    make, planner = Orders(), scheduler(blocks=4, size=4)
    first = alike(make, list(range(9)))
    planner.add(first)
    carry_out(planner, planner.schedule())
    planner.remove(first)
    assert planner.allocator.free == 4
    again = alike(make, list(range(9)))
    planner.add(again)
    carry_out(planner, planner.schedule())
    assert again.cached == 8
    planner.remove(again)
    other = make(16)
    planner.add(other)
    carry_out(planner, planner.schedule())
    planner.remove(other)
    planner.add(late := alike(make, list(range(9))))
    planner.schedule()
    assert late.cached == 0


def test_a_preempted_sequence_finds_what_it_had_computed() -> None:
    make, planner = Orders(), scheduler(slots=1, size=4)
    row = make(12, BATCH)
    planner.add(row)
    carry_out(planner, planner.schedule())
    planner.add(live := make(4))
    carry_out(planner, planner.schedule())
    assert row.preemptions == 1
    planner.remove(live)
    # Thirteen tokens by now, of which three full blocks are still there.
    assert counts(planner.schedule()) == {row.id: 1}
