"""Runs the parts of a build on a Ray cluster that shares the build's folder: the same functions as everywhere else.

Ray is optional: it is asked for by the setting `HELIU_RAY_ADDRESS` alone, and imported only then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.data_governance.build.layout import Layout
from services.data_governance.build.part import Counts, PartRun
from services.data_governance.build.plan import Plan
from shared.errors import ConfigurationError, HeliuError, InvalidInput

RETRIES = 3
LOOK_S = 0.5


class OnRay:
    """`look` is called while parts run and may raise, to stop: what is running then is cancelled."""

    def __init__(self, address: str, paths: Sequence[Path], look: Callable[[], None]) -> None:
        try:
            import ray
        except ImportError as exc:
            raise ConfigurationError(
                "HELIU_RAY_ADDRESS is set, and ray is not installed; `pip install ray`, or unset it"
            ) from exc
        self._ray = ray
        self._paths, self._look = [str(path.resolve()) for path in paths], look
        if not ray.is_initialized():
            ray.init(address=None if address == "local" else address, log_to_driver=False)

    def __call__(self, layout: Layout, _: Plan, stage: int, parts: Sequence[int]) -> None:
        """Raises what a part has raised, with the same code and message."""
        run = self._ray.remote(max_retries=RETRIES)(_run)
        folder = str(layout.folder.resolve())
        left = [run.remote(folder, self._paths, stage, part) for part in parts]
        try:
            while left:
                self._look()
                done, left = self._ray.wait(left, num_returns=len(left), timeout=LOOK_S)
                for outcome in self._ray.get(done):
                    _raise_again(outcome)
        finally:
            for one in left:
                self._ray.cancel(one)


def _run(folder: str, paths: list[str], stage: int, part: int) -> dict[str, Any]:
    """On a node of the cluster. An error of ours travels as values: its class has no pickled form."""

    def unheard(_: Counts) -> None:
        return None

    layout = Layout(Path(folder))
    try:
        run = PartRun(layout, layout.read_plan(), [Path(path) for path in paths], stage, part, look=unheard)
        return asdict(run.run())
    except HeliuError as exc:
        return {"error": {"message": exc.message, "code": exc.code, "param": exc.param}}


def _raise_again(outcome: dict[str, Any]) -> None:
    if error := outcome.get("error"):
        raise InvalidInput(error["message"], code=error["code"], param=error["param"])
