"""The process table: what the supervisor runs, in which order it starts and in which it stops. Plain data."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deploy.embedded import Server
from deploy.processes import Owner
from shared.errors import InvalidInput

Kind = Literal["postgres", "valkey", "task", "service"]
WORKERS = ("data_governance", "training", "inference")
SCALABLE = (*WORKERS, "dispatcher")
DRAIN_MARGIN = 15.0  # seconds that a service has beyond HELIU_DRAIN_SECONDS before it is killed


@dataclass(frozen=True)
class Spec:
    """One kind of process. `needs` must be ready (a task: done) before it starts; `stage` 0 stops first.

    kind "task" runs once and must exit 0; "service" creates its HELIU_READY_FILE; servers answer at `url`.
    """

    name: str
    argv: tuple[str, ...]
    kind: Kind = "service"
    needs: tuple[str, ...] = ()
    count: int = 1
    scalable: bool = False
    stage: int = 0
    grace: float = 45.0
    stop_signal: int = signal.SIGTERM
    hard_signal: int = signal.SIGKILL
    death_signal: int = signal.SIGKILL
    url: str = ""
    folder: str = ""
    owner: Owner | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_server(self) -> bool:
        return self.kind in ("postgres", "valkey")

    def process_name(self, index: int) -> str:
        """`inference.2` for the second inference worker; servers and tasks have their own name."""
        return f"{self.name}.{index}" if self.kind == "service" else self.name


@dataclass(frozen=True)
class Table:
    """Everything the supervisor needs to know: what runs, the environment of all, what to tell clients."""

    specs: tuple[Spec, ...]
    env: Mapping[str, str]
    gateway: str = ""

    def dump(self) -> str:
        """JSON; holds passwords, so it goes to a private file."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def load(text: str) -> Table:
        raw: dict[str, Any] = json.loads(text)
        return Table(tuple(_spec(one) for one in raw["specs"]), raw["env"], raw["gateway"])


def _spec(raw: dict[str, Any]) -> Spec:
    owner = Owner(**raw.pop("owner")) if raw.get("owner") else raw.pop("owner", None)
    return Spec(**{**raw, "argv": tuple(raw["argv"]), "needs": tuple(raw["needs"]), "owner": owner})


def server_spec(server: Server) -> Spec:
    """An embedded server as a process: it dies with the supervisor by its own orderly signal."""
    postgres = server.name == "postgres"
    return Spec(
        name=server.name,
        argv=server.argv,
        kind="postgres" if postgres else "valkey",
        stage=3 if postgres else 2,
        grace=30.0 if postgres else 10.0,
        stop_signal=server.stop_signal,
        hard_signal=server.hard_signal,
        death_signal=server.stop_signal,
        url=server.url,
        folder=str(server.folder),
        owner=server.owner,
    )


def platform_specs(servers: Iterable[Server], *, drain_seconds: float) -> tuple[Spec, ...]:
    """The whole platform on this machine; `servers` are those that we run ourselves."""
    specs = [server_spec(server) for server in servers]
    names = {spec.name for spec in specs}
    python = (sys.executable, "-P", "-m")
    specs.append(
        Spec("migrate", (*python, "shared.migrate"), "task", needs=tuple(names & {"postgres"}), grace=10.0)
    )
    specs.append(Spec("bootstrap", (*python, "shared.bootstrap"), "task", needs=("migrate",), grace=10.0))
    for name in ("gateway", "dispatcher", *WORKERS, "monitoring"):
        specs.append(
            Spec(
                name,
                (*python, f"services.{name}.main"),
                needs=("bootstrap", *sorted(names & {"valkey"})),
                scalable=name in SCALABLE,
                # the dispatcher and the receiver of spans outlast those that still use them
                stage=1 if name in ("dispatcher", "monitoring") else 0,
                grace=drain_seconds + DRAIN_MARGIN,
            )
        )
    return tuple(specs)


def narrow(specs: tuple[Spec, ...], only: Iterable[str]) -> tuple[Spec, ...]:
    """The processes named in `only`, with everything that they need; raises InvalidInput for an unknown name."""
    by_name = {spec.name: spec for spec in specs}
    wanted: set[str] = set()
    waiting = list(only)
    while waiting:
        name = waiting.pop()
        if name not in by_name:
            raise InvalidInput(f"no process is called {name!r}; there are {', '.join(by_name)}", param="only")
        if name not in wanted:
            wanted.add(name)
            waiting.extend(by_name[name].needs)
    return tuple(spec for spec in specs if spec.name in wanted)
