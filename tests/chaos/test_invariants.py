"""The checks of a fault run must notice what they are there for: each breach is made by hand, once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from shared.artifacts import ArtifactStore
from shared.bootstrap import create_tenant
from shared.contracts.background import ChatJob, pack_entries
from shared.db import Connection, Database
from tests.chaos.echo_engine import echo
from tests.chaos.invariants import breaches
from tests.chaos.load import Accepted

TEXTS = ["one", "two"]


class World:
    """A finished no-op job, a finished batch of two rows and a finished chat, all as it should be."""

    def __init__(self, url: str, folder: Path) -> None:
        db = Database(url, application="test", max_size=1)
        with db.core() as c:
            self.tenant = create_tenant(c, "acme")
        db.close()
        self.c: Connection = psycopg.connect(url, row_factory=dict_row, autocommit=True)
        self.store = ArtifactStore(folder)
        self.accepted = Accepted(
            {"job_1": "noop", "batch_1": "inference.batch", "chatjob-1": ChatJob.kind},
            {"batch_1": TEXTS},
            {"chatjob-1": TEXTS[0]},
        )
        for job, kind in self.accepted.jobs.items():
            self.c.execute(
                "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, max_attempts, max_crashes, "
                "finished_at, attempt, epoch) VALUES (%s, %s, %s, 'q', 'succeeded', '{}', 3, 3, now(), 1, 1)",
                (job, self.tenant, kind),
            )
            self.event(job, "job_started")
            if kind == "noop":
                self.event(job, "noop_step", {"epoch": 1, "step": 1})
            self.event(job, "job_succeeded")
        self.c.execute("INSERT INTO core.lane (queue, tenant_id, cap) VALUES ('q', %s, 8)", (self.tenant,))
        for number, text in enumerate(TEXTS):
            self.c.execute(
                "INSERT INTO inference.batch_row (batch_id, row_no, tenant_id, custom_id, status_code, body, epoch) "
                "VALUES ('batch_1', %s, %s, %s, 200, %s, 1)",
                (number, self.tenant, f"r{number}", json.dumps(self.body(text))),
            )
            self.charge(f"batch_1:{number}")
        self.charge("chatjob-1")
        self.c.execute(
            "INSERT INTO inference.chat_answer (job_id, tenant_id, entries) VALUES ('chatjob-1', %s, %s)",
            (self.tenant, self.told(TEXTS[0])),
        )
        self.publish([0, 1])

    def told(self, text: str) -> bytes:
        said = echo(text)
        return pack_entries([("token", {"text": said}), ("done", {"choices": [{"text": said}]})])

    def charge(self, request: str) -> None:
        self.c.execute(
            "INSERT INTO gateway.usage (tenant_id, request_id, endpoint, model, pool, status, prompt_tokens, "
            "completion_tokens, seconds) VALUES (%s, %s, '/', 'm', 'p', 'ok', 1, 1, 0)",
            (self.tenant, request),
        )

    def body(self, text: str) -> dict[str, object]:
        return {"choices": [{"message": {"content": echo(text)}}]}

    def event(self, job: str, type_: str, data: dict[str, object] | None = None) -> None:
        self.c.execute(
            "INSERT INTO core.job_event (tenant_id, job_id, type, message, data) VALUES (%s, %s, %s, '', %s)",
            (self.tenant, job, type_, json.dumps(data or {})),
        )

    def publish(self, numbers: list[int]) -> None:
        lines = [
            {"custom_id": f"r{n}", "response": {"status_code": 200, "body": self.body(TEXTS[n])}}
            for n in numbers
        ]
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            artifact = self.store.put_file(Path(file.name))
        self.c.execute("DELETE FROM gateway.file")
        self.c.execute(
            "INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id) "
            "VALUES ('file-1', %s, 'out.jsonl', 'batch_output', 1, %s, 'batch_1')",
            (self.tenant, artifact),
        )

    def broken(self) -> set[str]:
        return {name for name, found in breaches(self.c, self.store, self.accepted).items() if found}


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path)
    yield made
    made.c.close()


def test_a_whole_world_breaks_no_promise(world: World) -> None:
    assert world.broken() == set()


def test_a_lost_job_is_noticed(world: World) -> None:
    world.accepted.jobs["job_2"] = "noop"
    assert world.broken() == {"lost"}


def test_a_job_that_never_ends_is_noticed(world: World) -> None:
    world.c.execute("UPDATE core.job SET state = 'queued', finished_at = NULL WHERE id = 'job_1'")
    assert world.broken() == {"lost", "ended_twice"}


def test_a_second_end_is_noticed(world: World) -> None:
    world.event("job_1", "job_failed")
    assert world.broken() == {"ended_twice"}


@pytest.mark.parametrize("data", [{"epoch": 1, "step": 1}, {"epoch": 0, "step": 2}, {"epoch": 1, "step": 3}])
def test_a_step_of_a_zombie_or_written_twice_is_noticed(world: World, data: dict[str, object]) -> None:
    world.event("job_1", "noop_step", data)
    assert world.broken() == {"unfenced"}


def test_a_start_without_an_epoch_is_noticed(world: World) -> None:
    world.event("job_1", "job_started")
    assert world.broken() == {"unfenced"}


def test_a_lost_row_is_noticed(world: World) -> None:
    world.c.execute("DELETE FROM inference.batch_row WHERE row_no = 1")
    assert world.broken() == {"rows_lost", "rows_doubled"}


def test_an_answer_in_anothers_place_is_noticed(world: World) -> None:
    world.c.execute(
        "UPDATE inference.batch_row SET body = %s WHERE row_no = 1", (json.dumps(world.body("one")),)
    )
    assert world.broken() == {"rows_lost"}


def test_an_answer_that_is_charged_twice_is_noticed(world: World) -> None:
    world.c.execute("UPDATE gateway.usage SET request_id = 'batch_1:7' WHERE request_id = 'batch_1:1'")
    assert world.broken() == {"rows_doubled"}


def test_a_chat_with_anothers_answer_is_noticed(world: World) -> None:
    world.c.execute("UPDATE inference.chat_answer SET entries = %s", (world.told("two"),))
    assert world.broken() == {"chats"}


def test_a_chat_without_an_answer_is_noticed(world: World) -> None:
    world.c.execute("DELETE FROM inference.chat_answer")
    assert world.broken() == {"chats", "rows_doubled"}


def test_a_chat_that_is_not_charged_is_noticed(world: World) -> None:
    world.c.execute("DELETE FROM gateway.usage WHERE request_id = 'chatjob-1'")
    assert world.broken() == {"chats"}


@pytest.mark.parametrize("numbers", [[0], [1, 0], [0, 1, 1], []])
def test_an_output_file_with_other_lines_or_another_order_is_noticed(
    world: World, numbers: list[int]
) -> None:
    world.publish(numbers)
    assert world.broken() == {"files"}


def test_a_lane_that_still_counts_is_noticed(world: World) -> None:
    world.c.execute("UPDATE core.lane SET running = 1")
    assert world.broken() == {"lanes"}


def test_an_attempt_too_many_is_noticed(world: World) -> None:
    world.c.execute("UPDATE core.job SET attempt = 4 WHERE id = 'job_1'")
    assert world.broken() == {"limits"}
