"""torchrun's agent in a process of its own: starts the run's processes, and says which failed first.

`python -m services.training.ranks.launcher`, started by `launch`. Its stdin and stdout are those of the first process;
when the one who started it goes, all of them end.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from shared.frames import read_frames, write_frame

SPEC, PROCESSES = "TRAINING_SPEC", "TRAINING_PROCESSES"
DIED = "process_died"
_PATIENCE_S = 5


def frames_of(spec: Path, rank: int) -> Path:
    """Where a process other than the first leaves what it says."""
    return spec.with_name(f"frames-{rank}")


def when_left(descriptor: int, act: Callable[[], None]) -> None:
    """Call `act` in a thread once nobody holds the other end of this pipe; reads nothing from it."""

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)
        while not poll.poll():
            pass
        act()

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def main() -> int:
    spec, processes = Path(os.environ[SPEC]), int(os.environ[PROCESSES])
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    when_left(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=spec.parent.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
        shutdown_timeout=_PATIENCE_S,
    )
    # All on this machine: the loopback is there whatever its network looks like.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        elastic_launch(config, sys.executable)("-m", "services.training.ranks.rank")
    except ChildFailedError as exc:
        rank, failure = first_of(exc.failures)
        write_frame(sys.stdout.buffer, _told(spec, processes, rank, failure))
        return 1
    return 0


def first_of(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The (rank, failure) that the others followed from.

    The agent looks a few times a second and sees several at once: whoever was killed comes before whoever failed, since
    a peer's death fails the rest. What the agent itself ends is told by SIGTERM, or comes _PATIENCE_S later.
    """
    own = {rank: one for rank, one in failures.items() if one.exitcode != -signal.SIGTERM} or failures
    first = min(own, key=lambda rank: own[rank].timestamp)
    latest = own[first].timestamp + _PATIENCE_S
    killed = [rank for rank, one in own.items() if one.exitcode < 0 and one.timestamp < latest]
    rank = min(killed, default=first)
    return rank, failures[rank]


def _told(spec: Path, processes: int, rank: int, failure: ProcessFailure) -> dict[str, Any]:
    """The error that the first process to fail has left, or how it died. The first of all says its own by itself."""
    path = frames_of(spec, rank)
    if path.is_file():
        with path.open("rb") as handle:
            for frame in read_frames(handle):
                if frame["type"] == "error" and failure.exitcode > 0:
                    return frame
    how = f"exit status {failure.exitcode}"
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        how = f"killed by {name}" + (" (out of memory, as a rule)" if name == "SIGKILL" else "")
    own = rank == 0 and failure.exitcode > 0
    return {
        "type": "error",
        "code": "internal_error" if own else DIED,
        "message": f"process {rank + 1} of {processes} died: {how}",
        "param": None,
        "retryable": True,
    }


if __name__ == "__main__":
    sys.exit(main())
