"""What runs on this machine, as values for people and programs. Starts and stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from deploy.table import Table


@dataclass(frozen=True)
class ProcessStatus:
    """One process. `since` is the beginning of its state; `memory_mb` is resident memory with its children's,
    so pages that Postgres shares between its processes count more than once."""

    name: str
    service: str
    kind: str
    state: str
    pid: int | None
    restarts: int
    falls: int
    since: datetime
    memory_mb: float
    log: Path
    metrics: str = ""

    @property
    def settled(self) -> bool:
        """It is not on its way up or down."""
        return self.state in ("ready", "done", "stopped")

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "service": self.service,
            "kind": self.kind,
            "state": self.state,
            "pid": self.pid,
            "restarts": self.restarts,
            "since": self.since.isoformat(timespec="milliseconds"),
            "memory_mb": self.memory_mb,
            "log": str(self.log),
            "metrics": f"http://{self.metrics}/metrics" if self.metrics else None,
        }


@dataclass(frozen=True)
class Status:
    """What runs. `servers` says of `postgres` and `valkey` whether they are ours and where they are."""

    home: Path
    running: bool
    gateway: str
    processes: tuple[ProcessStatus, ...]
    servers: Mapping[str, Mapping[str, str]]

    @property
    def settled(self) -> bool:
        """Nothing is on its way up or down."""
        return all(process.settled for process in self.processes)

    def as_json(self) -> dict[str, Any]:
        """The shape of `heliu status --json`; `gateway` is null when nothing runs."""
        return {
            "running": self.running,
            "gateway": self.gateway or None,
            "home": str(self.home),
            "processes": [process.as_json() for process in self.processes],
            "servers": {name: dict(about) for name, about in self.servers.items()},
        }


def read_status(home: Path, running: bool, state: Mapping[str, Any]) -> Status:
    """Join what the supervisor tells (its `describe`, or nothing) with what the system knows of it."""
    memory = _memory_mb()
    return Status(
        home=home,
        running=running,
        gateway=str(state.get("gateway", "")),
        processes=tuple(
            ProcessStatus(
                name=raw["name"],
                service=raw["service"],
                kind=raw["kind"],
                state=raw["state"],
                pid=raw["pid"],
                restarts=raw["restarts"],
                falls=raw["falls"],
                since=datetime.fromtimestamp(raw["since"], UTC),
                memory_mb=memory.get(raw["pid"], 0.0),
                log=Path(raw["log"]),
                metrics=raw.get("metrics", ""),
            )
            for raw in state.get("processes", [])
        ),
        servers=_servers(home, {raw["service"] for raw in state.get("processes", [])}),
    )


def _servers(home: Path, running: set[str]) -> dict[str, dict[str, str]]:
    """For each server whether it is embedded or one's own, and the folder of its data."""
    table = home / "run" / "table.json"
    if not table.exists():
        return {}
    specs = {spec.name: spec for spec in Table.load(table.read_text()).specs}
    found: dict[str, dict[str, str]] = {}
    for name in ("postgres", "valkey"):
        if name not in specs:
            found[name] = {"provider": "url"}
            continue
        found[name] = {"provider": "embedded", "folder": specs[name].folder}
        if not Path(specs[name].folder).is_relative_to(home):
            found[name]["note"] = (
                f"{home} is out of reach of the user that runs it, so its data lies elsewhere"
            )
        found[name]["state"] = "running" if name in running else "stopped"
    return found


def _memory_mb() -> dict[int | None, float]:
    """Resident memory of every process with its descendants, by pid: one pass over the system."""
    sizes: dict[int, float] = {}
    parents: dict[int, int] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parents[process.pid] = process.ppid()
            sizes[process.pid] = process.memory_info().rss / 2**20
    totals: dict[int | None, float] = dict.fromkeys(sizes, 0.0)
    for pid, size in sizes.items():
        above, seen = pid, set[int]()
        while above in totals and above not in seen:
            totals[above] += size
            seen.add(above)
            above = parents.get(above, 0)
    return {pid: round(total, 1) for pid, total in totals.items()}
