"""The living workers of a training pool, and how much memory one run may take on each. Knows no way of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.training import repository as estimates_repository
from services.gateway.training.speeds import Machine
from shared.contracts.base import JobContract
from shared.db import Database


@dataclass(frozen=True)
class Place:
    """A worker by what it told of itself; `memory` is that of all its devices, None where it has not told."""

    name: str
    device: str
    device_name: str | None
    devices: int
    memory: int | None

    @classmethod
    def of(cls, name: str, info: Mapping[str, Any]) -> Place:
        return cls(
            name,
            str(info.get("device") or "cpu"),
            info.get("device_name"),
            int(info.get("devices") or 1),
            info.get("memory_bytes"),
        )

    @property
    def machine(self) -> Machine:
        return Machine(self.device, self.device_name, self.devices)

    def room(self, contract: JobContract) -> int | None:
        """Bytes for one run of this contract: a run that is sharded over processes has a GPU for each, others one."""
        if self.memory is None or self.device != "cuda":
            return self.memory
        wanted = getattr(getattr(contract, "hyperparameters", None), "processes", 1)
        used = self.devices if wanted == "auto" else min(self.devices, int(wanted))
        return self.memory * used // self.devices


def places_of(db: Database, queue: str) -> list[Place]:
    """The living workers of a queue."""
    with db.core() as connection:
        rows = estimates_repository.workers(connection, queue)
    return [Place.of(row["name"], row["info"]) for row in rows]
