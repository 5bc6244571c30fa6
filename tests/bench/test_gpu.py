"""The script for a GPU, in its quick form on a CPU, with nothing at hand but what a bare machine has."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench import gpu_check
from tests.bench.figures import KEYS
from tests.harness import ROOT
from tests.unit.inference.fake_gpu import Varlen

ABSENT = (
    "accelerate",
    "celery",
    "datasets",
    "fastapi",
    "kombu",
    "llguidance",
    "opentelemetry",
    "peft",
    "psycopg",
    "pyarrow",
    "pydantic",
    "redis",
    "rich",
    "trl",
)
BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent!r}))
runpy.run_module("tests.bench.gpu", run_name="__main__", alter_sys=True)
"""


def test_the_quick_form_needs_torch_and_transformers_alone_and_writes_every_figure(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    command = [sys.executable, "-c", BARE.format(absent=ABSENT), "--quick", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "6 answers are those of generate" in done.stderr
    assert "quick: the figures mean nothing" in done.stdout
    rows = json.loads(target.read_text())
    assert [row["name"] for row in rows] == [
        "tiny_decode_batch_1",
        "tiny_decode_batch_4",
        "tiny_mixed",
        "tiny_vs_generate",
        "tiny_vs_continuous_batching",
        "tiny_lora_packed",
        "tiny_packed_vs_padded",
    ]
    for row in rows:
        assert tuple(row) == KEYS
        assert all(math.isfinite(row[key]) and row[key] >= 0 for key in ("value", "peer_value", "ratio"))


def test_the_checks_of_a_card_pass_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Triton's interpreter and a stand-in for the call that a CPU lacks."""
    monkeypatch.setattr(gpu_check, "LENGTHS", (0, 1, 17, 70))
    for dtype, window, splits in ((torch.float32, None, 2), (torch.bfloat16, 20, None)):
        gpu_check.check_decodes("cpu", dtype, 2, 4, 64, window, splits)
    for window in (None, 100):
        gpu_check.check_chunks("cpu", Varlen(), torch.float16, 2, 2, 64, window)
    gpu_check.check_packed("cpu", Varlen(), torch.float16, 2, 2, 64)


def test_the_checks_of_a_card_refuse_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        gpu_check.Wrong, match=r"varlen_attn torch.float16 2x2 heads of 64, window=None: off by"
    ):
        gpu_check.check_chunks("cpu", lambda q, *_, **__: torch.zeros_like(q), torch.float16, 2, 2, 64, None)
    with pytest.raises(gpu_check.Wrong, match=r"packed attention torch.bfloat16 2x2 heads of 64: off by"):
        gpu_check.check_packed("cpu", lambda q, *_, **__: q * 0, torch.bfloat16, 2, 2, 64)
    monkeypatch.setattr(gpu_check, "decode", lambda query, *_: query * float("nan"))
    monkeypatch.setattr(gpu_check, "LENGTHS", (3,))
    with pytest.raises(gpu_check.Wrong, match=r"decode torch.float32 1x2 heads of 32, .*off by nan"):
        gpu_check.check_decodes("cpu", torch.float32, 1, 2, 32, None, None)
