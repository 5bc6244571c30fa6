"""Kills a run that goes on in this process at a chosen moment of a chosen kind, as if the process had died there.

What a killed process leaves is on the disk and in the frames that it sent; so that nothing else survives, the kill is
an exception that no code of a run catches, and whoever resumes knows the last checkpoint that was told and no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from services.training import checkpoint as checkpoints
from services.training.run import Run
from services.training.spec import parse_spec
from shared.frames import Frame
from tests.unit.training import tiny_runs

# Moments of a step, and of the writing of a checkpoint in their order.
STEP = ("backward", "stepped", "step told")
CHECKPOINT = ("filling", "filled", "sealed", "renamed", "checkpoint told")


class Killed(BaseException):
    """Not an Exception: a run must not be able to make anything of it."""


@dataclass
class Fault:
    """Dies at the `count`-th crossing of `moment` since it was armed."""

    moment: str
    count: int

    def cross(self, moment: str) -> None:
        if moment == self.moment:
            self.count -= 1
            if self.count == 0:
                raise Killed(self.moment)


@dataclass
class Attempt:
    """One life of a run: what it told, and how it ended (a result, or None)."""

    frames: list[Frame] = field(default_factory=list)
    result: Any = None

    @property
    def checkpoint(self) -> str | None:
        told = [frame["path"] for frame in self.frames if frame["type"] == "checkpoint"]
        return told[-1] if told else None

    def curve(self) -> dict[int, dict[str, float]]:
        """What each step told of itself, without its speed."""
        told: dict[int, dict[str, float]] = {}
        for frame in self.frames:
            if frame["type"] == "metrics":
                values = {k: v for k, v in frame["data"].items() if k != "tokens_per_second"}
                told.setdefault(frame["step"], {}).update(values)
        return told


def attempt(asked: dict[str, Any], fault: Fault | None = None) -> Attempt:
    """Run until the end or the fault, whichever comes first."""
    made = Attempt()

    def emit(frame: Frame) -> None:
        # The frame is out, and then the process dies.
        made.frames.append(frame)
        if fault is not None and frame["type"] in ("metrics", "checkpoint"):
            fault.cross("step told" if frame["type"] == "metrics" else "checkpoint told")

    with _armed(fault) if fault is not None else _unarmed():
        try:
            made.result = tiny_runs._runner(asked)(parse_spec(asked), Run(emit))
        except Killed:
            assert fault is not None
    return made


def faults(seed: int, kills: int, *, steps: int, checkpoints_each: int = 2) -> list[Fault]:
    """So many seeded moments: every kind at least once, if they suffice, and the rest by chance."""
    dice = random.Random(seed)
    kinds = [*STEP, *CHECKPOINT]
    drawn = kinds[:kills] + [dice.choice(kinds) for _ in range(kills - len(kinds))]
    dice.shuffle(drawn)
    most = {**dict.fromkeys(STEP, steps), **dict.fromkeys(CHECKPOINT, checkpoints_each)}
    return [Fault(kind, dice.randint(1, most[kind])) for kind in drawn]


@contextmanager
def _unarmed() -> Iterator[None]:
    yield


@contextmanager
def _armed(fault: Fault) -> Iterator[None]:
    """`filling` is between the weights and the state, `filled` before anything of it is synced or listed, `sealed`
    before the folder gets its name, `renamed` before the frame that tells of it."""

    def then(moment: str, work: Callable[..., Any], *, first: bool = False) -> Callable[..., Any]:
        def crossed(*arguments: Any, **named: Any) -> Any:
            if first:
                fault.cross(moment)
            found = work(*arguments, **named)
            if not first:
                fault.cross(moment)
            return found

        return crossed

    write = checkpoints.CheckpointStore.write
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: fault.cross("backward")),
        register_optimizer_step_post_hook(lambda *_: fault.cross("stepped")),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", then("filling", torch.save, first=True))
        sealed = then("sealed", then("filled", checkpoints.seal, first=True))
        patch.setattr(checkpoints, "seal", sealed)
        patch.setattr(checkpoints.CheckpointStore, "write", then("renamed", write))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def survive(asked: dict[str, Any], moments: list[Fault], folder: Path) -> tuple[list[Attempt], Attempt]:
    """(killed attempts, the one that came to its end): each goes on from the last checkpoint that was told.

    All lives share one work folder, so each also finds what the ones before it left half done.
    """
    known: str | None = None
    killed: list[Attempt] = []
    for fault in moments:
        told = attempt({**asked, "resume_from": known, "workdir": str(folder / "work")}, fault)
        assert told.result is None, f"the run ended before it could be killed at {fault.moment}"
        killed.append(told)
        known = told.checkpoint or known
    return killed, attempt({**asked, "resume_from": known, "workdir": str(folder / "work")})
