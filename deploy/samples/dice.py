"""Draws from a seed. Everything comes from Random.random(), the one sequence that Python promises never to change."""

from collections.abc import MutableSequence, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A seeded source of choices that gives the same answers on every machine and Python version."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1; limit is at least 1."""
        return int(self._random.random() * limit)

    def chance(self, share: float) -> bool:
        """True for that share of the draws, 0 to 1."""
        return self._random.random() < share

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Fisher-Yates in place: Random.shuffle is free to change between versions."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


class Deck:
    """Deals the items in random order and reshuffles when empty, so that all are used about equally often."""

    def __init__(self, items: Sequence[str], dice: Dice) -> None:
        self._items = list(items)
        self._dice = dice
        self._left: list[str] = []

    def deal(self) -> str:
        if not self._left:
            self._left = list(self._items)
            self._dice.shuffle(self._left)
        return self._left.pop()
