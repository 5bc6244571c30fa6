"""How a fine-tuning run computes: packing, parts of a step, checkpointing, precision, compiling.

Chosen from model, data and machine where nobody asked for it, each with its reason. Pure arithmetic, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.training.hyperparameters import SftHyperparameters
from services.training.tuning.packing import fill
from shared.errors import InvalidInput

# Sequences of like length stand together, so that few batches are padded by more.
FULL_ENOUGH = 0.9


@dataclass(frozen=True)
class Machine:
    """Where the run computes: `memory` are the bytes that activations may take, `compiler` is one of C++."""

    device: str
    bf16: bool
    memory: float
    compiler: bool
    processes: int = 1


@dataclass(frozen=True)
class Shape:
    """Of the model: what activations are in proportion to."""

    layers: int
    hidden: int
    intermediate: int

    def token_bytes(self, width: int, *, checkpointing: bool) -> float:
        """Bytes that the backward pass needs of one token, `width` bytes a number.

        A layer keeps about nine vectors of its width (inputs, norms, query, key, value, attention) and four of its
        feed-forward's; checkpointed, its input alone, and one layer at a time the rest. After Korthikanti et al. 2022
        (arXiv:2205.05198), without a table of attention, which is never held.
        """
        layer = 9 * self.hidden + 4 * self.intermediate
        return float(width * (self.layers * self.hidden + layer if checkpointing else self.layers * layer))


@dataclass(frozen=True)
class Choices:
    """`parts` is in how many a process computes its share of a step; `rows` sequences or, packed, one pack of
    `capacity` tokens make a part."""

    packing: bool
    parts: int
    rows: int
    capacity: int
    checkpointing: bool
    precision: str
    compile: bool
    processes: int
    reasons: dict[str, str]

    def told(self, *, ours_loss: bool) -> tuple[str, dict[str, Any]]:
        """The choices in a line, and each with its reason."""
        facts = {
            "packing": self.packing,
            "gradient_accumulation_steps": self.parts,
            "gradient_checkpointing": self.checkpointing,
            "precision": self.precision,
            "compile": self.compile,
            "processes": self.processes,
        }
        reasons = self.reasons | {
            "optimizer": "AdamW in one fused kernel",
            "loss": "logits are made in parts, at learned positions alone"
            if ours_loss
            else "logits are made in parts by TRL, since the model scales or caps them or has experts",
        }
        message = ", ".join(
            [
                f"computing in {self.precision}",
                ("packed" if self.packing else "not packed") + f" ({self.reasons['packing']})",
                f"each step in {self.parts} part{'s' if self.parts > 1 else ''}",
                *(["activations computed twice"] if self.checkpointing else []),
                *(["compiled"] if self.compile else []),
                *([f"sharded over {self.processes} processes"] if self.processes > 1 else []),
            ]
        )
        return message, {**facts, "reasons": reasons}

    def state(self) -> dict[str, Any]:
        """What decides the order of rows and sums: a resumed run keeps it, whatever the machine."""
        return {
            "packing": self.packing,
            "parts": self.parts,
            "rows": self.rows,
            "capacity": self.capacity,
            "checkpointing": self.checkpointing,
            "processes": self.processes,
        }

    def smaller(self, longest: int) -> Choices | None:
        """The same step in more parts, or with activations computed twice; None where there is no less."""
        if self.packing and self.capacity >= 2 * longest:
            return replace(self, parts=2 * self.parts, capacity=-(-self.capacity // 2))
        if not self.packing and self.rows > 1:
            rows = max(size for size in range(1, self.rows) if self.rows % size == 0)
            return replace(self, parts=self.parts * (self.rows // rows), rows=rows)
        return None if self.checkpointing else replace(self, checkpointing=True)

    def kept(self, state: dict[str, Any]) -> Choices:
        """These choices with the `state` of the checkpoint that a run is resumed from, where it has one.

        Fewer processes than before compute a step in more parts.
        """
        parts = state.get("parts", self.parts) * state.get("processes", self.processes) // self.processes
        return replace(self, **{**state, "parts": parts, "processes": self.processes})


def choose(
    wanted: SftHyperparameters,
    shape: Shape,
    machine: Machine,
    lengths: Sequence[int],
    batch_size: int,
    unpackable: str | None,
) -> Choices:
    """Raises InvalidInput where what was asked for cannot be had. `unpackable` says why the model cannot be packed."""
    reasons: dict[str, str] = {}
    share = _share(batch_size, machine.processes)
    precision = "bfloat16" if machine.device == "cuda" and machine.bf16 else "float32"
    reasons["precision"] = (
        "the GPU computes it natively"
        if precision == "bfloat16"
        else f"the {machine.device} has nothing faster"
    )
    width = 2 if precision == "bfloat16" else 4
    longest = max(lengths)
    parts, checkpointing = _fit(wanted, shape, machine, share, longest, width, reasons)
    rows = share // parts
    packing = _packing(wanted, machine, lengths, rows, unpackable, reasons)
    mean = math.fsum(lengths) / len(lengths)
    if wanted.compile and not machine.compiler:
        raise InvalidInput(
            "compile is asked for, but this worker has no C++ compiler; leave it out, or install g++ there",
            param="hyperparameters.compile",
        )
    reasons["compile"] = "asked for" if wanted.compile else "not asked for"
    return Choices(
        packing=packing,
        parts=parts,
        rows=1 if packing else rows,
        capacity=max(longest, round(rows * mean)) if packing else longest,
        checkpointing=checkpointing,
        precision=precision,
        compile=wanted.compile,
        processes=machine.processes,
        reasons=reasons,
    )


def _share(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise InvalidInput(
            f"batch_size {batch_size} cannot be shared out evenly among {processes} processes; it must be a multiple",
            param="hyperparameters.batch_size",
        )
    return batch_size // processes


def _fit(
    wanted: SftHyperparameters,
    shape: Shape,
    machine: Machine,
    share: int,
    longest: int,
    width: int,
    reasons: dict[str, str],
) -> tuple[int, bool]:
    """(parts, checkpointing): as few parts as fit, and activations twice only where one sequence would not."""

    def room(checkpointing: bool) -> int:
        """Sequences of the greatest length that fit."""
        return int(machine.memory / (longest * shape.token_bytes(width, checkpointing=checkpointing)))

    checkpointing = wanted.gradient_checkpointing
    if checkpointing is None:
        checkpointing = room(False) < 1
        reasons["gradient_checkpointing"] = (
            "not one sequence would fit without it" if checkpointing else "activations fit without it"
        )
    else:
        reasons["gradient_checkpointing"] = "asked for" if checkpointing else "asked to be off"
    if wanted.gradient_accumulation_steps is not None:
        parts = wanted.gradient_accumulation_steps
        if share % parts:
            raise InvalidInput(
                f"{share} sequences a process cannot be computed in {parts} equal parts",
                param="hyperparameters.gradient_accumulation_steps",
            )
        reasons["gradient_accumulation_steps"] = "asked for"
        return parts, checkpointing
    most = max(1, room(checkpointing))
    rows = max(size for size in range(1, share + 1) if share % size == 0 and size <= most)
    reasons["gradient_accumulation_steps"] = (
        "the whole step fits into memory"
        if rows == share
        else f"{most} sequences of {longest} tokens fit into {machine.memory / 2**30:.1f} GiB"
    )
    return share // rows, checkpointing


def _packing(
    wanted: SftHyperparameters,
    machine: Machine,
    lengths: Sequence[int],
    rows: int,
    unpackable: str | None,
    reasons: dict[str, str],
) -> bool:
    if wanted.packing is False:
        reasons["packing"] = "asked to be off"
        return False
    if unpackable is None and wanted.compile and machine.device == "cpu":
        unpackable = "compiled attention on a CPU takes no borders"
    if unpackable is not None:
        if wanted.packing:
            raise InvalidInput(
                f"packing is asked for, but not for this model: {unpackable}; leave it out",
                param="hyperparameters.packing",
            )
        reasons["packing"] = unpackable
        return False
    if wanted.packing:
        reasons["packing"] = "asked for"
        return True
    full = fill(sorted(lengths), rows)
    reasons["packing"] = f"batches of like length are {full:.0%} full"
    return full < FULL_ENOUGH
