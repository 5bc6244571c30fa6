"""A fault run: load, faults by a seeded deck, healing, draining, and what held in the end."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from deploy import embedded
from shared.artifacts import ArtifactStore
from shared.errors import Unavailable
from tests import servers
from tests.chaos import invariants
from tests.chaos.faults import FAULTS, Heal, Stage
from tests.chaos.load import Load
from tests.harness import Harness, Process, platform, wait_for

LEASE_S, HEARTBEAT_S = 3.0, 1.0
SETTINGS = {
    "HELIU_LEASE_SECONDS": str(LEASE_S),
    "HELIU_HEARTBEAT_SECONDS": str(HEARTBEAT_S),
    "HELIU_DRAIN_SECONDS": "3",
    "HELIU_SHARD_ROWS": "40",
}
FLEET = (
    ("gateway", 0),
    ("dispatcher", 0),
    ("dispatcher", 1),
    ("monitoring", 0),
    ("monitoring", 1),
    ("inference", 0),
    ("inference", 1),
)
MODULES = {"inference": "tests.chaos.worker"}
BETWEEN_S = (0.5, 2.0)
DRAIN_S = 240.0


@dataclass
class Summary:
    """What a run did and what it found; `breaches` by promise."""

    seed: int
    seconds: float = 0.0
    drained_in: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    batches: int = 0
    chats: int = 0
    rows: int = 0
    states: dict[str, int] = field(default_factory=dict)
    error_rows: int = 0
    refused: int = 0
    posted: int = 0
    fenced: int = 0
    crashes: int = 0
    breaches: dict[str, list[str]] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        return not any(self.breaches.values())

    def text(self) -> str:
        found = {name: len(items) for name, items in self.breaches.items()}
        lines = [
            f"seed       {self.seed}",
            f"seconds    {self.seconds:.0f} of faults, then {self.drained_in:.0f} to drain",
            f"faults     {sum(self.faults.values())} of {len(self.faults)} kinds: {dict(sorted(self.faults.items()))}",
            f"restarts   {sum(self.ends.values())} processes, by how they had ended: {dict(sorted(self.ends.items()))}",
            f"jobs       {self.jobs} ({self.batches} batches, their parts included, {self.chats} chats): {self.states}",
            f"rows       {self.rows} ({self.error_rows} with an error)",
            f"submitted  {self.posted} through the gateway; {self.refused} times sent again",
            f"crashes    {self.crashes} of attempts, each handed on",
            f"fenced     {self.fenced} workers found their job gone",
            f"lost       {found.get('lost', 0) + found.get('rows_lost', 0)}",
            f"doubled    {found.get('ended_twice', 0) + found.get('rows_doubled', 0) + found.get('files', 0)}",
            f"unfenced   {found.get('unfenced', 0)}",
            f"other      chats {found.get('chats', 0)}, lanes {found.get('lanes', 0)}, limits {found.get('limits', 0)}",
        ]
        shown = [f"  {name}: {item}" for name, items in self.breaches.items() for item in items[:20]]
        return "\n".join(lines + shown)


class Deck:
    """Kinds of faults in a shuffled order, all of them before any comes again."""

    def __init__(self, kinds: list[str], rng: random.Random) -> None:
        self._kinds, self._rng, self._left = kinds, rng, list[str]()

    def draw(self) -> str:
        if not self._left:
            self._left = self._rng.sample(self._kinds, len(self._kinds))
        return self._left.pop()


class ChaosRun:
    """One run on servers of its own. All harm is done from the calling thread."""

    def __init__(self, seed: int, *, say: Callable[[str], None] = print, keep: Path | None = None) -> None:
        self.summary = Summary(seed)
        self._keep = keep
        self._rng = random.Random(seed)
        self._say = say
        self._heals: list[tuple[float, Heal]] = []

    def run(self, seconds: float) -> Summary:
        """Raise nothing for a broken promise: the summary tells."""
        self._say(f"chaos: seed {self.summary.seed}")
        with stage_of(self._rng) as (stage, harness):
            address = f"http://127.0.0.1:{harness.environ['HELIU_GATEWAY_PORT']}"
            load = Load(harness, random.Random(self._rng.getrandbits(32)), address)
            load.start()
            self._harm(stage, harness, seconds)
            self._heal_all()
            # The load may be in the middle of asking a gateway that the last fault has killed.
            self._supervise(stage, harness)
            load.stop()
            self._say("chaos: all healed, draining")
            self._drain(stage, harness)
            self._judge(harness, load)
            if self._keep is not None:
                self._keep.mkdir(parents=True, exist_ok=True)
                for log in harness.folder.glob("*.log"):
                    shutil.copy(log, self._keep)
        self._say(self.summary.text())
        return self.summary

    def _harm(self, stage: Stage, harness: Harness, seconds: float) -> None:
        deck = Deck(list(FAULTS), self._rng)
        started = time.monotonic()
        following = started + 2
        # A machine that is slow gets every kind of fault all the same, and a longer run.
        while (now := time.monotonic()) < started + seconds or len(self.summary.faults) < len(FAULTS):
            self._heal_due(now)
            self._supervise(stage, harness)
            if now >= following:
                self._one_fault(stage, deck.draw())
                following = time.monotonic() + self._rng.uniform(*BETWEEN_S)
            time.sleep(0.05)
        self.summary.seconds = time.monotonic() - started

    def _one_fault(self, stage: Stage, kind: str) -> None:
        harmed = [heal.target for _, heal in self._heals]
        if (stage.valkey in harmed and "redis" in kind) or (stage.postgres in harmed and "postgres" in kind):
            self._heal_all()
        self.summary.faults[kind] += 1
        self._say(f"chaos: {kind}")
        heal = FAULTS[kind](stage)
        if heal is not None:
            self._heals.append((time.monotonic() + heal.seconds, heal))

    def _heal_due(self, now: float) -> None:
        for entry in [entry for entry in self._heals if entry[0] <= now]:
            self._heals.remove(entry)
            entry[1].undo()

    def _heal_all(self) -> None:
        self._heal_due(float("inf"))

    def _supervise(self, stage: Stage, harness: Harness) -> None:
        """Start again what has ended, under the same name, as the supervisor does."""
        for place, process in enumerate(stage.processes):
            if not process.alive:
                self.summary.ends[f"{process.service}:{process.code}"] += 1
                stage.processes[place] = start(harness, process.service, process.index)

    def _drain(self, stage: Stage, harness: Harness) -> None:
        started = time.monotonic()

        def drained() -> bool:
            self._supervise(stage, harness)
            try:
                return harness.unfinished() == 0
            except Unavailable:
                return False

        try:
            wait_for(drained, DRAIN_S, "all jobs to end")
        except TimeoutError as exc:
            self._say(f"chaos: {exc}")
        self.summary.drained_in = time.monotonic() - started

    def _judge(self, harness: Harness, load: Load) -> None:
        if load.errors:
            raise load.errors[0]
        told = self.summary
        told.batches, told.rows = len(load.accepted.batches), load.accepted.rows
        told.chats = len(load.accepted.chats)
        told.refused, told.posted = load.refused, load.posted
        logs = {process.log for process in harness.processes}
        told.fenced = sum(log.read_text(errors="replace").count('"event": "lease_lost"') for log in logs)
        with harness.db.core() as c:
            rows = c.execute(
                "SELECT state, count(*) AS n, sum(crashes) AS crashes FROM core.job GROUP BY state ORDER BY state"
            ).fetchall()
            told.states = {row["state"]: row["n"] for row in rows}
            told.jobs = sum(told.states.values())
            told.crashes = sum(int(row["crashes"]) for row in rows)
        # As the superuser: no policy hides a row of any tenant from these questions.
        with psycopg.connect(harness.settings.database_url, row_factory=dict_row) as c:
            row = c.execute(
                "SELECT count(*) AS n FROM inference.batch_row WHERE status_code <> 200"
            ).fetchone()
            told.error_rows = row["n"] if row else 0
            artifacts = ArtifactStore(harness.settings.artifact_folder)
            told.breaches = invariants.breaches(c, artifacts, load.accepted)


def start(harness: Harness, service: str, index: int, *, wait: bool = False) -> Process:
    return harness.start(service, index, wait=wait, module=MODULES.get(service))


@contextmanager
def stage_of(rng: random.Random) -> Iterator[tuple[Stage, Harness]]:
    """Private servers and a started fleet; all of it healed, awake and ended afterwards."""
    port = {"HELIU_GATEWAY_PORT": str(embedded.free_port())}
    with (
        servers.postgres_server() as postgres,
        servers.valkey_server() as valkey,
        platform(postgres.url, valkey.url, **SETTINGS, **port) as harness,
    ):
        fleet = [start(harness, service, index) for service, index in FLEET]
        for process in fleet:
            process.wait_ready()
        yield Stage(postgres, valkey, fleet, LEASE_S, rng), harness
