"""`python -m tests.bench.fits`: estimated memory and steps of training runs against what they really took.

Each run is a trainer's process as a worker starts it, on a tiny model and on one of some twenty million parameters; its
peak is the resident memory that the kernel counted. The estimate knows the data as the gateway does: by its first rows.
`--times` holds estimated durations against real ones instead (`durations.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.gateway.training.data import LOOK_BYTES, of_file
from services.gateway.training.demands import plan_of
from services.gateway.training.plan import Plan
from shared.contracts.base import JobContract
from shared.contracts.encoders import TrainEncoder
from shared.contracts.estimates import ModelShape, memory_of, shape_of_config
from shared.contracts.heads import TrainHead
from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune, Pretrain
from shared.frames import read_frames, write_frame
from tests.bench.durations import Durations, Lap, lines
from tests.bench.place import open_place

REF = {"id": "file-1", "kind": "file", "artifact": "sha256:" + "0" * 64}
TINY = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "context_length": 96, "batch_size": 4}
MIDDLE = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "layers": 6,
    "heads": 8,
    "context_length": 512,
    "batch_size": 8,
}
SAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "samples" / "service_dialogues.jsonl"
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """`base` names the case whose model is started from."""

    name: str
    kind: str
    contract: type[JobContract]
    body: dict[str, Any]
    data: str
    base: str = ""


def cases() -> list[Case]:
    head = {"name": "h", "choice": {"head": "single_label", "method": "full"}}
    lora, full = {"batch_size": 8}, {"batch_size": 8, "method": "full"}
    found = []
    for size, shape in (("tiny", TINY), ("20m", MIDDLE)):
        pre = {"name": "p", "data": REF, "hyperparameters": shape}
        found += [
            Case(f"pretrain {size}", "pretrain", Pretrain, pre, f"chat-{size}"),
            Case(
                f"sft lora {size}",
                "sft",
                FineTune,
                {"hyperparameters": lora},
                f"chat-{size}",
                f"pretrain {size}",
            ),
            Case(
                f"sft full {size}",
                "sft",
                FineTune,
                {"hyperparameters": full},
                f"chat-{size}",
                f"pretrain {size}",
            ),
            Case(
                f"dpo lora {size}",
                "dpo",
                TunePreferences,
                {"hyperparameters": lora},
                f"pairs-{size}",
                f"pretrain {size}",
            ),
            Case(
                f"head full {size}",
                "head",
                TrainHead,
                {**head, "hyperparameters": {"batch_size": 8}},
                f"label-{size}",
                f"pretrain {size}",
            ),
        ]
    lstm = {"name": "l", "choice": {"head": "single_label", "method": "lstm"}}
    found.append(Case("head lstm", "head", TrainHead, lstm, "label-20m"))
    found.append(Case("encoder", "encoder", TrainEncoder, {"name": "e"}, "label-20m"))
    return found


def sentences_of(samples: bytes) -> Iterator[str]:
    """What is said in the samples, those rows left out that are broken on purpose."""
    for line in samples.splitlines():
        try:
            turns = json.loads(line).get("messages") or []
            yield from (turn["content"] for turn in turns if turn["content"])
        except (ValueError, TypeError, KeyError):
            continue


def write_data(folder: Path) -> dict[str, Path]:
    """Chats, pairs and labelled texts of the shipped samples' sentences, short and long."""
    dice = random.Random(7)
    said = list(sentences_of(SAMPLES.read_bytes()))

    def text(sentences: int) -> str:
        return " ".join(dice.choice(said) for _ in range(sentences))

    made = {}
    for size, count, sentences in (("tiny", 60, 1), ("20m", 200, 8)):
        lines: dict[str, list[Any]] = {"chat": [], "pairs": [], "label": []}
        for _ in range(count):
            question, answers = {"role": "user", "content": text(sentences)}, [text(sentences) for _ in "ab"]
            told = [{"role": "assistant", "content": answer} for answer in answers]
            lines["chat"].append({"messages": [question, told[0]]})
            lines["pairs"].append(
                {
                    "input": {"messages": [question]},
                    "preferred_output": told[:1],
                    "non_preferred_output": told[1:],
                }
            )
            lines["label"].append({"text": text(sentences), "label": dice.choice("ab")})
        for name, found in lines.items():
            path = made[f"{name}-{size}"] = folder / f"{name}-{size}.jsonl"
            path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in found))
    return made


def plan(case: Case, data: Path, base: Path | None) -> Plan:
    """As the gateway makes it of the same request."""
    refs: dict[str, Any] = {} if case.contract is Pretrain else {"training": REF}
    shape: ModelShape | None = None
    if base is not None:
        refs["base"] = {"model": "m", "base_artifact": REF["artifact"]}
        weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        shape = shape_of_config(json.loads((base / "config.json").read_bytes()), weights)
    contract = case.contract.model_validate({**case.body, **refs})
    content = data.read_bytes()
    found = plan_of(contract, shape, of_file(content[:LOOK_BYTES], len(content)))
    assert found is not None
    return found


def train(case: Case, folder: Path, data: Path, base: Path | None, steps: int) -> tuple[int, float]:
    """(peak in bytes, tokens of a step)."""
    wanted = case.body.get("hyperparameters", {})
    spec = {
        "kind": case.kind,
        "seed": 1,
        "workdir": str(folder / "work"),
        "output_dir": str(folder / "out"),
        "threads": 2,
        "data": {"train": [str(data)], "validation": []},
        "base_dir": str(base) if base else None,
        "choice": case.body.get("choice"),
        "hyperparameters": {**wanted, "max_steps": steps},
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "services.training.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    write_frame(child.stdin, spec)
    *_, last = read_frames(child.stdout)
    _, _, usage = os.wait4(child.pid, 0)
    if last.get("type") != "result":
        raise RuntimeError(f"{case.name}: {last}")
    return usage.ru_maxrss * 1024, last["trained_tokens"] / last["data"]["steps"]


def times(only: str, *, quick: bool) -> int:
    """Jobs through a platform: each once by a guess, and once by the measures of the first."""
    laps: list[Lap] = []
    try:
        with open_place(quick=quick) as place:
            for lap in Durations(place).laps(only):
                laps.append(lap)
                print(
                    *list(lines([lap]))[2:],
                    json.dumps(lap.result.get("measured")),
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        print(*lines(laps), sep="\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fits", description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="steps of each run")
    parser.add_argument("--only", default="", help="cases whose name has this, and the bases of them all")
    parser.add_argument("--times", action="store_true", help="durations instead, on a platform of its own")
    parser.add_argument(
        "--quick", action="store_true", help="a moment of each duration: figures mean nothing"
    )
    options = parser.parse_args()
    if options.times:
        return times(options.only, quick=options.quick)
    print(f"{'run':<16} {'estimated':>10} {'real peak':>10} {'error':>6} {'tokens of a step':>20}   parts")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_data(root)
        for case in cases():
            if options.only not in case.name and not case.name.startswith("pretrain"):
                continue
            base = root / case.base / "out" if case.base else None
            found = plan(case, data[case.data], base)
            memory = memory_of(found.demand, "cpu", found.demand.rows, recompute=False)
            peak, tokens = train(case, root / case.name, data[case.data], base, options.steps)
            parts = ", ".join(f"{k} {v / MIB:.0f}" for k, v in memory.told().items() if k != "total")
            guess = f"{(found.tokens or 0) / (found.steps or 1):.0f} for {tokens:.0f}"
            print(
                f"{case.name:<16} {memory.total / MIB:>6.0f} MiB {peak / MIB:>6.0f} MiB "
                f"{(memory.total - peak) / peak:>+6.0%} {guess:>20}   {parts}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
