"""Decides what each step computes: decodes first, then prefill chunks; priorities, fairness, preemption, prefixes.

Plain Python; knows nothing of torch, text or time.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field

from services.inference.engine.blocks import BlockAllocator
from services.inference.engine.fair_queue import FairQueue
from services.inference.engine.request import Priority


@dataclass(eq=False, slots=True)
class Sequence:
    """One request's tokens and cache. `computed` tokens have their keys and values in `blocks`.

    `salt` tells apart sequences that may not share a prefix: adapters compute other keys and values, and who
    shares with another tenant could learn from the time that an answer takes what that one has asked. `cached`
    tokens were found in the cache when it was admitted; `keys` are those of its full blocks so far.
    """

    id: str
    tenant: str
    priority: Priority
    order: int
    tokens: list[int]
    prompt_length: int
    adapter: str | None = None
    salt: bytes = b""
    computed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    preemptions: int = 0

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be computed; 1 is a decode."""
        return len(self.tokens) - self.computed

    def block_keys(self, block_size: int) -> list[bytes]:
        """One key a full block: a hash of its tokens and of all before them."""
        for start in range(len(self.keys) * block_size, len(self.tokens) - block_size + 1, block_size):
            before = self.keys[-1] if self.keys else self.salt
            tokens = array("q", self.tokens[start : start + block_size]).tobytes()
            self.keys.append(hashlib.blake2b(tokens, key=before, digest_size=16).digest())
        return self.keys


@dataclass(frozen=True, slots=True)
class Row:
    """`count` tokens of `sequence` from position `start`; `samples` when they reach its last token."""

    sequence: Sequence
    start: int
    count: int
    samples: bool


@dataclass(frozen=True)
class Plan:
    rows: list[Row]
    preempted: list[Sequence]


class Scheduler:
    """Admits sequences into `max_slots` slots and plans steps of about `step_tokens` tokens.

    A sequence must fit the cache alone (`fits`), so the oldest one always makes progress. While live answers grow,
    a step has about `live_step_tokens` tokens: a long prompt must not make somebody's stream stutter.
    """

    def __init__(
        self,
        allocator: BlockAllocator,
        max_slots: int,
        step_tokens: int,
        live_step_tokens: int | None = None,
    ) -> None:
        self.allocator = allocator
        self.max_slots = max_slots
        self.step_tokens = step_tokens
        self.live_step_tokens = min(step_tokens, live_step_tokens or step_tokens)
        self.admitting: frozenset[Priority] = frozenset(Priority)
        self.running: list[Sequence] = []
        self._waiting: dict[Priority, FairQueue[Sequence]] = {p: FairQueue() for p in Priority}
        # Of the prefixes that running sequences are still computing.
        self._coming: set[bytes] = set()

    def fits(self, tokens: int) -> bool:
        return self.allocator.blocks_for(tokens) <= self.allocator.total

    def add(self, sequence: Sequence) -> None:
        self._waiting[sequence.priority].push(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that finished, failed or was cancelled; its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self._waiting[sequence.priority].remove(sequence)
        self._release(sequence)

    def computed(self, row: Row) -> None:
        """The row's tokens are in the cache, and blocks that they fill can be found by others."""
        sequence, size = row.sequence, self.allocator.block_size
        first = sequence.computed // size
        sequence.computed += row.count
        last = sequence.computed // size
        for number, key in enumerate(sequence.block_keys(size)[first:last], first):
            self.allocator.remember(sequence.blocks[number], key)

    def waiting(self, priority: Priority) -> int:
        return len(self._waiting[priority])

    def preempt_batch(self) -> list[Sequence]:
        """Send every running batch row back to the queue, with the tokens it has."""
        rows = [sequence for sequence in self.running if sequence.priority is Priority.BATCH]
        for sequence in reversed(rows):
            self._preempt(sequence)
        return rows

    def shrink(self) -> None:
        """Plan steps of half the tokens from now on, as memory does not hold more; a block at least."""
        self.step_tokens = max(self.step_tokens // 2, self.allocator.block_size)
        self.live_step_tokens = min(self.live_step_tokens, self.step_tokens)

    def schedule(self) -> Plan:
        """The next step: every decode, then prefill chunks, live before batch, up to the token budget."""
        planned: dict[str, Row] = {}
        preempted: list[Sequence] = []
        self.running.sort(key=_age)
        self._plan_decodes(planned, preempted)
        live = any(row.sequence.priority is Priority.LIVE for row in planned.values())
        tokens = self.live_step_tokens if live else self.step_tokens
        # However many decodes there are, prefill moves on by a block.
        budget = max(tokens - len(planned), self.allocator.block_size)
        self._coming = {key for sequence in self.running for key in self._uncomputed(sequence)}
        for priority in (Priority.LIVE, Priority.BATCH):
            for sequence in self.running:
                if sequence.priority is priority and sequence.id not in planned and budget > 0:
                    budget -= self._plan_prefill(sequence, budget, planned)
            while budget > 0 and (admitted := self._admit(priority, planned, preempted)) is not None:
                budget -= self._plan_prefill(admitted, budget, planned)
        return Plan(list(planned.values()), preempted)

    def _plan_decodes(self, planned: dict[str, Row], preempted: list[Sequence]) -> None:
        # Oldest live first; a victim is always younger than who needs its blocks, so never yet planned.
        for sequence in list(self.running):
            if sequence.remaining != 1 or sequence in preempted:
                continue
            while not self._grow(sequence, len(sequence.tokens)):
                victim = self.running[-1]
                self._preempt(victim)
                preempted.append(victim)
                if victim is sequence:
                    break
            else:
                planned[sequence.id] = Row(sequence, sequence.computed, 1, samples=True)

    def _plan_prefill(self, sequence: Sequence, budget: int, planned: dict[str, Row]) -> int:
        count = min(sequence.remaining, budget)
        planned[sequence.id] = Row(sequence, sequence.computed, count, samples=count == sequence.remaining)
        return count

    def _admit(
        self, priority: Priority, planned: dict[str, Row], preempted: list[Sequence]
    ) -> Sequence | None:
        queue = self._waiting[priority]
        sequence = queue.peek()
        if sequence is None or priority not in self.admitting:
            return None
        keys = self._shareable(sequence)
        shared = self.allocator.find(keys)
        if len(shared) < len(keys) and keys[len(shared)] in self._coming:
            # What another computes in this step costs nothing in the next.
            return None
        while not self._has_room(sequence, shared):
            victim = self._youngest_batch() if priority is Priority.LIVE else None
            if victim is None:
                return None
            planned.pop(victim.id, None)
            self._preempt(victim)
            preempted.append(victim)
        queue.pop()
        self.allocator.hold(shared)
        sequence.blocks = shared
        sequence.computed = sequence.cached = len(shared) * self.allocator.block_size
        self._grow(sequence, len(sequence.tokens))
        self.running.append(sequence)
        self._coming |= set(self._uncomputed(sequence))
        return sequence

    def _shareable(self, sequence: Sequence) -> list[bytes]:
        """Keys of the blocks that another may have computed: never the last token's, which is to be sampled from."""
        size = self.allocator.block_size
        return sequence.block_keys(size)[: (len(sequence.tokens) - 1) // size]

    def _uncomputed(self, sequence: Sequence) -> list[bytes]:
        """Keys of the full blocks that a prefill has yet to compute."""
        if sequence.remaining <= 1:
            return []
        size = self.allocator.block_size
        return sequence.block_keys(size)[sequence.computed // size :]

    def _has_room(self, sequence: Sequence, shared: list[int]) -> bool:
        """A slot, blocks for all its tokens, and for batch rows a reserve so that the others can grow."""
        reserve = len(self.running) // 4 if sequence.priority is Priority.BATCH else 0
        needed = self.allocator.blocks_for(len(sequence.tokens)) - len(shared) + reserve
        free = self.allocator.free - self.allocator.unheld(shared)
        return len(self.running) < self.max_slots and needed <= free

    def _youngest_batch(self) -> Sequence | None:
        rows = [sequence for sequence in self.running if sequence.priority is Priority.BATCH]
        return max(rows, key=_age) if rows else None

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        needed = self.allocator.blocks_for(tokens) - len(sequence.blocks)
        if needed <= 0:
            return True
        blocks = self.allocator.take(needed)
        if blocks is None:
            return False
        sequence.blocks.extend(blocks)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.preemptions += 1
        self._waiting[sequence.priority].push_front(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.allocator.give_back(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0


def _age(sequence: Sequence) -> tuple[bool, int]:
    """Sort key: live before batch, older before younger."""
    return (sequence.priority is Priority.BATCH, sequence.order)
