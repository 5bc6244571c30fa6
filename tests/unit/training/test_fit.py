"""Whether a run fits is looked at once, at its first step, by what that step took."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from services.training import fit
from services.training.run import Run
from shared.errors import HeliuError

GIB = 2**30


def step(optimizer: torch.optim.Optimizer, layer: torch.nn.Linear) -> None:
    layer(torch.ones(2, 8)).sum().backward()
    optimizer.step()


def test_the_first_step_of_any_optimizer_is_looked_at_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit.resource, "setrlimit", lambda *_: None)
    frames: list[dict[str, Any]] = []
    fit.watch(Run(frames.append))
    layer = torch.nn.Linear(8, 4)
    layer.bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(layer.parameters())
    for _ in range(3):
        step(optimizer, layer)
    (frame,) = frames
    told = frame["data"]["memory"]
    assert told["optimizer"] == 2 * 32 * 4
    assert 32 <= told["trained"] < told["parameters"]
    assert told["weights"] >= 36 * 4
    assert 0 < told["peak"] < told["limit"]


def test_an_optimizer_that_has_its_state_already_needs_no_more() -> None:
    layer = torch.nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    step(optimizer, layer)
    assert fit.measured(optimizer)["optimizer"] == 0


def test_what_will_not_fit_at_the_next_step_is_refused_with_what_would() -> None:
    found = {"device": "cpu", "peak": 3 * GIB, "optimizer": 2 * GIB, "limit": 4 * GIB}
    with pytest.raises(HeliuError, match=r"3,072 MiB of memory.*2,048 MiB more.*lora") as caught:
        fit.check(Run(lambda _: None), found)
    assert (caught.value.code, caught.value.param) == ("does_not_fit", "hyperparameters.batch_size")
    assert not caught.value.retryable


def test_a_processor_that_has_no_more_memory_says_so_and_is_not_killed() -> None:
    """As `child` does: the error is torch's, by whose words the child knows that it was memory."""
    program = (
        "from services.training import fit\nfrom services.training.run import Run\nimport torch\n"
        "fit.ram_limit = lambda: 3 * 2**30\nfit.watch(Run(print))\n"
        "try:\n    torch.empty(2**32)\nexcept RuntimeError as exc:\n    print(exc)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "DefaultCPUAllocator" in ran.stdout
