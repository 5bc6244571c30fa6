"""TensorBoard's event file of a run, written by tensorboardX in a process of its own. Knows no SQL and no torch.

`python -m services.training.tracking.event_files SOURCE TARGET`. SOURCE has a JSON line a step behind one that tells of
the run. A process of its own, because tensorboardX imports torch wherever there is one, and a Celery process must not;
here torch is hidden from it, which saves three seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import HeliuError

TIME_LIMIT_S = 300.0
_HIDDEN = ("torch", "boto3")


def write(source: Path, target: Path, environ: Mapping[str, str]) -> None:
    """Make `target` from `source`. Raises HeliuError with the last line that the process wrote when it fails."""
    try:
        subprocess.run(
            [sys.executable, "-m", __name__, str(source), str(target)],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            env={name: value for name, value in environ.items() if not name.startswith("HELIU_")},
        )
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.strip().splitlines()
        raise HeliuError(f"the event file was not written: {said[-1] if said else exc.returncode}") from exc
    except subprocess.TimeoutExpired as exc:
        raise HeliuError(f"the event file was not written within {TIME_LIMIT_S:.0f} s") from exc


def tag_of(metric: str) -> str:
    """`train_loss` -> `train/loss`, so that TensorBoard puts what belongs together side by side."""
    for group in ("train", "valid", "full_valid"):
        if metric.startswith(f"{group}_"):
            return f"{group}/{metric.removeprefix(f'{group}_')}"
    return metric


def main(source: Path, target: Path) -> None:
    """Scalars by step with the time of each; the run's settings as text and as TensorBoard's hyperparameters."""
    for name in _HIDDEN:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark for what shall not be imported
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import hparams, scalar, text

    with source.open(encoding="utf-8") as lines:
        about: dict[str, Any] = json.loads(next(lines))
        writer = EventsWriter(str(target / "events"))
        written = Path(writer._file_name)
        settings = {name: _plain(value) for name, value in about["settings"].items()}
        heading = [text("settings", _table(settings)), *hparams(settings, {"train/loss": 0.0})]
        for summary in heading:
            writer.write_event(Event(wall_time=about["at"], step=0, summary=summary))
        for line in lines:
            told = json.loads(line)
            for name, value in told["values"].items():
                writer.write_event(
                    Event(wall_time=told["at"], step=told["step"], summary=scalar(tag_of(name), float(value)))
                )
        writer.close()
    # Its own name tells the host and the moment of writing, which are nobody's business.
    written.rename(target / f"events.out.tfevents.{int(about['at'])}.{about['run']}")


def _plain(value: Any) -> str | float | bool:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)


def _table(settings: Mapping[str, Any]) -> str:
    rows = [f"|{name}|{value}|" for name, value in settings.items()]
    return "\n".join(["|setting|value|", "|---|---|", *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
