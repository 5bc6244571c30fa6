"""Tells MLflow and Weights & Biases of one run, in a process of its own.

What the operator opts into goes where their own settings say (MLFLOW_TRACKING_URI, WANDB_BASE_URL, ...), by their own
clients: this process is the one that the guard of outgoing requests does not hold. It knows no job and no model.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from services.training.tracking.trackers import secrets_of
from shared.frames import Frame, claim_stdout, read_frames

PROJECT = "heliu"
# How each calls the end of a run that Heliu calls so; whatever is interrupted may go on later.
MLFLOW_ENDS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "interrupted": "KILLED"}


class Tracker(Protocol):
    """One client, imported when it is made."""

    def begin(self, run: Mapping[str, Any], earlier: str | None) -> str:
        """Start the run, or go on with the one that an earlier attempt began; returns its id."""

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def end(self, how: str) -> None:
        """`how` is a key of MLFLOW_ENDS."""


class Mlflow:
    """https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html, the fluent functions."""

    def __init__(self) -> None:
        self._mlflow: Any = importlib.import_module("mlflow")

    def begin(self, run: Mapping[str, Any], earlier: str | None) -> str:
        if earlier is not None:
            return str(self._mlflow.start_run(run_id=earlier).info.run_id)
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        begun = self._mlflow.start_run(run_name=run["name"], tags={"heliu.job": run["id"]})
        self._mlflow.log_params({name: str(value)[:500] for name, value in run["settings"].items()})
        return str(begun.info.run_id)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def end(self, how: str) -> None:
        self._mlflow.end_run(status=MLFLOW_ENDS[how])


class WeightsAndBiases:
    """https://docs.wandb.ai/ref/python/sdk/functions/init. A run has the job's id, and so is taken up by itself."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        self._wandb: Any = importlib.import_module("wandb")
        self._run: Any = None

    def begin(self, run: Mapping[str, Any], earlier: str | None) -> str:  # noqa: ARG002 - it knows by its id
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run["id"],
            name=run["name"],
            config=dict(run["settings"]),
            resume="allow",
        )
        return str(self._run.id)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, how: str) -> None:
        self._run.finish(exit_code=0 if how == "succeeded" else 1)


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"mlflow": Mlflow, "wandb": WeightsAndBiases}


def main() -> None:
    emit = claim_stdout()
    living: dict[str, Tracker] = {}

    def attempt(name: str, work: Callable[[], None]) -> None:
        """A tracker that fails is told of once, and not asked again."""
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - whatever its client raises, the run goes on
            living.pop(name, None)
            emit({"type": "warning", "tracker": name, "message": redacted(f"{type(exc).__name__}: {exc}")})

    def begin(name: str, frame: Frame) -> None:
        made = TRACKERS[name]()
        emit({"type": "run", "tracker": name, "id": made.begin(frame["run"], frame["earlier"].get(name))})
        living[name] = made

    for frame in read_frames(sys.stdin.buffer):
        if frame["op"] == "begin":
            for name in frame["trackers"]:
                attempt(name, lambda name=name, frame=frame: begin(name, frame))  # type: ignore[misc]
            continue
        for name, tracker in list(living.items()):
            if frame["op"] == "step":
                attempt(name, lambda t=tracker, f=frame: t.step(f["step"], f["values"]))  # type: ignore[misc]
            else:
                attempt(name, lambda t=tracker, f=frame: t.end(f["how"]))  # type: ignore[misc]
        if frame["op"] == "end":
            return


def redacted(message: str) -> str:
    """One line without the secrets that the clients read from the environment."""
    text = " ".join(message.split())[:500]
    for secret in secrets_of(os.environ):
        text = text.replace(secret, "[redacted]")
    return text


if __name__ == "__main__":
    main()
