"""`python -m tests.bench.packed MODEL QUICK`: useful tokens a processor second, packed and padded, in turns.

Prints one JSON object a lap: the way, its rate, and how full its batches were.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from services.training.hyperparameters import SftHyperparameters
from services.training.model_folder import linear_layers, prepare_torch
from services.training.plan import Schedule
from services.training.run import Run
from services.training.sft_trainer import Plan, ReportingTrainer
from services.training.spec import parse_spec
from services.training.tokenizer import IGNORED, Encoded
from services.training.tuning import attention
from services.training.tuning.adapters import lora_config
from services.training.tuning.arguments import arguments
from services.training.tuning.choices import Choices
from services.training.tuning.losses import Loss
from services.training.tuning.packing import fill, pack_order
from services.training.tuning.planning import dataset

BATCH = 8
WARM = 1


class _Clock(TrainerCallback):  # type: ignore[misc]
    """When each step ended, in seconds of the processor: what else the machine does counts for neither way."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def conversations(count: int, vocabulary: int, longest: int) -> list[Encoded]:
    """Of lengths as those of real ones: most are short, some long; the second half of each is an answer."""
    dice = np.random.default_rng(0)
    lengths = np.clip(dice.lognormal(4.0, 0.8, count).astype(int), 8, longest)
    out = []
    for length in lengths.tolist():
        ids = dice.integers(3, vocabulary, length).tolist()
        out.append(Encoded(ids, [IGNORED] * (length // 2) + ids[length // 2 :]))
    return out


def ways(sequences: Sequence[Encoded]) -> dict[str, tuple[bool, list[list[int]], int, float]]:
    """By name: whether packed, rows, rows of a step, and the share of positions that are tokens."""
    lengths = [len(e.ids) for e in sequences]
    shuffled = np.random.default_rng(1).permutation(len(lengths)).tolist()
    mean = sum(lengths) / len(lengths)
    capacity = max(max(lengths), round(BATCH * mean))
    (packs,) = pack_order(lengths, 1, capacity, seed=1)
    return {
        "padded": (
            False,
            [[row] for row in shuffled],
            BATCH,
            fill([lengths[row] for row in shuffled], BATCH),
        ),
        "packed": (True, packs, 1, 1.0),
    }


def lap(folder: Path, sequences: Sequence[Encoded], way: tuple[bool, list[list[int]], int, float]) -> float:
    packed, packs, rows, _ = way
    # One thread: others would wait by turning, which a processor second cannot tell from work.
    device = prepare_torch(1, 0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = SftHyperparameters()
    model = get_peft_model(model, lora_config(wanted, linear_layers(model), small=True))
    if packed:
        model.set_attn_implementation(attention.NAME)
    chosen = Choices(packed, 1, rows, 0, False, "float32", False, 1, {})
    steps = len(packs) // rows
    packs = packs[: steps * rows]
    lengths = np.asarray([sum(len(sequences[row].ids) for row in pack) for pack in packs])
    plan = Plan(
        Run(lambda _: None),
        Schedule.of(steps, 0.05, None),
        np.arange(len(packs)),
        lengths,
        rows,
        len(packs),
        10**6,
        10**6,
    )
    with tempfile.TemporaryDirectory() as scratch:
        spec = parse_spec(
            {
                "kind": "sft",
                "workdir": scratch,
                "output_dir": f"{scratch}/out",
                "data": {"train": ["none"]},
                "base_dir": str(folder),
            }
        )
        trainer = ReportingTrainer(
            plan=plan,
            loss=Loss("cross_entropy"),
            model=model,
            args=arguments(spec, wanted, replace(chosen), 1e-4, device, [], model),
            train_dataset=dataset(sequences, packs, packed=packed),
            processing_class=tokenizer,
        )
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.train()
    seconds = clock.ends[-1] - clock.ends[WARM - 1]
    return float(lengths[WARM * rows :].sum() / seconds)


def main() -> int:
    warnings.simplefilter("ignore")
    folder, quick = Path(sys.argv[1]), sys.argv[2] == "quick"
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    sequences = conversations(48 if quick else 96, vocabulary, 96 if quick else 256)
    found = ways(sequences)
    for _ in range(1 if quick else 3):
        for name, way in found.items():
            rate = lap(folder, sequences, way)
            print(json.dumps({"way": name, "rate": rate, "fill": way[3]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
