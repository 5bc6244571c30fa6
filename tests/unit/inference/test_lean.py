from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
NEEDLESS = "accelerate peft scipy sklearn sympy torch._inductor torch._dynamo.utils torch.distributed.tensor"

# Everything that the engine's process imports, a model of the library's own, and what is told of them.
ENGINE = f"""
import json, sys
from services.inference.lean import leave_out
leave_out()
import services.inference.child
import torch
import transformers.models.llama.modeling_llama
def marked():
    return 3
told = {{
    "loaded": [name for name in "{NEEDLESS}".split() if sys.modules.get(name) is not None],
    "same": [torch.compiler.disable(marked) is marked, torch.compiler.disable(recursive=False)(marked) is marked],
    "compiling": torch._dynamo.is_compiling(),
    "compiler": "torch._dynamo.utils" in sys.modules,
}}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", ENGINE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_engine_loads_neither_the_compiler_nor_what_others_train_with(told: dict[str, Any]) -> None:
    assert told["loaded"] == []


def test_a_function_that_is_marked_for_the_compiler_stays_as_it_is(told: dict[str, Any]) -> None:
    assert told["same"] == [True, True]


def test_the_compiler_is_still_there_for_who_asks_for_more_than_its_marks(told: dict[str, Any]) -> None:
    assert told["compiling"] is False
    assert told["compiler"] is True
