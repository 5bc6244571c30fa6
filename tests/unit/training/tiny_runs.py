"""Runs on a model of a few thousand weights, in this process: the libraries are loaded once for a whole module."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from services.training.child import _RUNNERS
from services.training.run import Result, Run, Stopped
from services.training.spec import parse_spec
from shared.frames import Frame

ANSWERS = {
    "退货": "请在七天内寄回，运费由我们承担。",
    "发票": "电子发票会在一天内发到邮箱。",
    "refund": "The refund arrives within three days.",
    "delivery": "Your parcel arrives on Monday.",
}
# Of an answer: a polite end, and a rude one.
ENDS = {"zh": ("谢谢您。", "走开吧。"), "en": (" Thanks!", " Go off!")}
SHAPE = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "context_length": 96}
PRETRAIN = SHAPE | {"max_steps": 60, "batch_size": 4, "log_every": 10, "checkpoint_every": 40}


def conversations(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of `messages`: a question with one of the words, and its answer."""
    dice, rows = random.Random(seed), []
    for _ in range(count):
        word = dice.choice(list(ANSWERS))
        question = f"{dice.choice(['你好', 'hello', '请问'])} {word} {dice.randrange(100)}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWERS[word]}]
        rows.append({"messages": turns})
    return rows


def pairs(count: int, seed: int, *, turned: bool = False) -> list[dict[str, Any]]:
    """The same answer twice, with a polite end, which is better, and with a rude one; `turned`, the worse is better."""
    rows = []
    for row in conversations(count, seed):
        question, answer = row["messages"]
        ends = ENDS["zh" if answer["content"].endswith("。") else "en"]
        better, worse = (
            [{"role": "assistant", "content": answer["content"] + end}]
            for end in (ends[::-1] if turned else ends)
        )
        rows.append(
            {"input": {"messages": [question]}, "preferred_output": better, "non_preferred_output": worse}
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """A JSONL file of the rows, as the paths of a spec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return [str(path)]


def spec(kind: str, folder: Path, data: dict[str, list[str]], **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "seed": 5,
        "workdir": str(folder / "work"),
        "output_dir": str(folder / "out"),
        "data": data,
        "threads": 1,
        **more,
    }


def run_here(asked: dict[str, Any]) -> tuple[Result, list[Frame]]:
    frames: list[Frame] = []
    return _runner(asked)(parse_spec(asked), Run(frames.append)), frames


def stop_at(asked: dict[str, Any], step: int, reason: str) -> tuple[Stopped, list[Frame]]:
    """Asked to stop as soon as the step is told of."""
    frames: list[Frame] = []

    def emit(frame: Frame) -> None:
        frames.append(frame)
        if frame["type"] == "metrics" and frame["step"] == step:
            run.request_stop(reason)

    run = Run(emit)
    with pytest.raises(Stopped) as caught:
        _runner(asked)(parse_spec(asked), run)
    assert caught.value.reason == reason
    return caught.value, frames


def losses(frames: list[Frame]) -> dict[int, float]:
    """Training loss by step; a frame after validation repeats the loss of its step."""
    return {f["step"]: f["data"]["train_loss"] for f in frames if f["type"] == "metrics"}


def _runner(asked: dict[str, Any]) -> Any:
    return importlib.import_module(_RUNNERS[asked["kind"]]).run
