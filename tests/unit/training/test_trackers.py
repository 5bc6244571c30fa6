"""Other trackers hear of a run in a process of their own, and nothing that they do or fail to do touches the run.

Neither client is installed here: modules of their names, with the calls that are made of them, stand in for them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from services.training.tracking import trackers
from services.training.tracking.tracker_child import MLFLOW_ENDS, TRACKERS
from services.training.tracking.trackers import Trackers, check_installed, secrets_of
from shared import settings
from shared.errors import ConfigurationError

RUN = {"id": "ftjob-1", "name": "desk", "settings": {"learning_rate": 0.01, "method": "lora"}}

# Writes each call to the file that MADE_CALLS names.
FAKE = """
import json, os, types
def said(what, *given, **named):
    with open(os.environ["MADE_CALLS"], "a") as calls:
        calls.write(json.dumps([what, *given, named]) + "\\n")
"""
MLFLOW = (
    FAKE
    + """
def start_run(**named):
    said("start_run", **named)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=named.get("run_id") or "made"))
def set_experiment(name): said("set_experiment", name)
def log_params(params): said("log_params", params)
def log_metrics(metrics, step): said("log_metrics", metrics, step=step)
def end_run(status): said("end_run", status)
"""
)
WANDB = (
    FAKE
    + """
class Run:
    def __init__(self, id): self.id = id
    def log(self, values, step): said("log", values, step=step)
    def finish(self, exit_code): said("finish", exit_code)
def init(**named):
    said("init", **named)
    return Run(named["id"])
"""
)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-ins write what they were asked for."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mlflow.py").write_text(MLFLOW)
    (folder / "wandb.py").write_text(WANDB)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path.cwd())]))
    monkeypatch.setenv("MADE_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def made(calls: Path) -> list[Any]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def test_both_are_told_of_the_run_its_steps_and_its_end(calls: Path) -> None:
    told = Trackers(["mlflow", "wandb"], RUN, {})
    told.step(1, {"train_loss": 2.0})
    told.step(2, {"train_loss": 1.0, "valid_loss": 1.5})
    told.end("succeeded")
    assert list(told.heard()) == [
        {"type": "run", "tracker": "mlflow", "id": "made"},
        {"type": "run", "tracker": "wandb", "id": "ftjob-1"},
    ]
    found = made(calls)
    assert [c for c in found if c[0] in ("set_experiment", "start_run", "log_params", "end_run")] == [
        ["set_experiment", "heliu", {}],
        ["start_run", {"run_name": "desk", "tags": {"heliu.job": "ftjob-1"}}],
        ["log_params", {"learning_rate": "0.01", "method": "lora"}, {}],
        ["end_run", "FINISHED", {}],
    ]
    assert [c for c in found if c[0] == "log_metrics"] == [
        ["log_metrics", {"train_loss": 2.0}, {"step": 1}],
        ["log_metrics", {"train_loss": 1.0, "valid_loss": 1.5}, {"step": 2}],
    ]
    (begun,) = [c[-1] for c in found if c[0] == "init"]
    assert (begun["id"], begun["resume"], begun["project"], begun["config"]) == (
        "ftjob-1",
        "allow",
        "heliu",
        RUN["settings"],
    )
    assert [c[2] for c in found if c[0] == "log"] == [{"step": 1}, {"step": 2}]
    assert found[-1] == ["finish", 0, {}]


def test_a_later_attempt_goes_on_with_the_run_of_the_earlier_one(calls: Path) -> None:
    told = Trackers(["mlflow"], RUN, {"mlflow": "earlier"})
    told.end("failed")
    assert made(calls) == [["start_run", {"run_id": "earlier"}], ["end_run", "FAILED", {}]]


def test_one_that_fails_is_told_of_once_without_its_secrets_and_the_other_goes_on(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "the-key-of-wandb")
    (calls.parent / "modules" / "wandb.py").write_text(
        "import os\ndef init(**_): raise RuntimeError('no\\nuse: ' + os.environ['WANDB_API_KEY'])"
    )
    told = Trackers(["wandb", "mlflow"], RUN, {})
    told.step(1, {"train_loss": 2.0})
    told.step(2, {"train_loss": 2.0})
    told.end("cancelled")
    heard = list(told.heard())
    assert heard[0] == {
        "type": "warning",
        "tracker": "wandb",
        "message": "RuntimeError: no use: [redacted]",
    }
    assert [frame["type"] for frame in heard] == ["warning", "run"]
    assert made(calls)[-1] == ["end_run", "KILLED", {}]


def test_a_process_that_dies_is_a_warning(calls: Path) -> None:
    (calls.parent / "modules" / "mlflow.py").write_text("import os\nos._exit(7)")
    told = Trackers(["mlflow"], RUN, {})
    deadline = time.monotonic() + 60
    while told._thread.is_alive() and time.monotonic() < deadline:
        told.step(1, {"train_loss": 2.0})
        time.sleep(0.01)
    told.end("succeeded")
    (heard,) = list(told.heard())
    assert (heard["type"], "exit status 7" in heard["message"]) == ("warning", True)


def test_one_that_hangs_holds_up_nothing_and_is_ended(calls: Path) -> None:
    (calls.parent / "modules" / "mlflow.py").write_text("import time\ntime.sleep(600)")
    told = Trackers(["mlflow"], RUN, {}, room=3)
    began = time.monotonic()
    for step in range(20_000):
        told.step(step, {"train_loss": 2.0})
    told.end("succeeded", patience_s=0.2)
    assert time.monotonic() - began < 60
    messages = [frame["message"] for frame in told.heard()]
    assert messages[:2] == [
        "too slow, some steps were not told",
        "it did not take the end of the run within 0.2 s",
    ]
    told._thread.join(60)
    assert not told._thread.is_alive()


def test_a_worker_without_the_package_says_so_at_its_start() -> None:
    with pytest.raises(ConfigurationError, match="pip install no_such_tracker") as caught:
        check_installed(["json", "no_such_tracker"])
    assert caught.value.param == "HELIU_TRACKERS"


def test_only_known_trackers_can_be_asked_for() -> None:
    assert set(settings.TRACKERS) == set(TRACKERS)
    read = settings.read_settings({"HELIU_TRACKERS": " wandb, mlflow,wandb"})
    assert read.wanted_trackers == ("wandb", "mlflow")
    with pytest.raises(ConfigurationError, match="'comet'; known are mlflow, wandb"):
        settings.read_settings({"HELIU_TRACKERS": "comet"})


def test_their_keys_are_known_as_secrets() -> None:
    environ = {
        "WANDB_API_KEY": "a",
        "MLFLOW_TRACKING_PASSWORD": "b",
        "MLFLOW_TRACKING_URI": "c",
        "OTHER_KEY": "d",
    }
    assert secrets_of(environ) == ["a", "b"]
    assert set(MLFLOW_ENDS) == {"succeeded", "failed", "cancelled", "interrupted"}
    assert trackers.MODULE.endswith("tracker_child")
