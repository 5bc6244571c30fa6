"""A distillation on the real job core, with workers of the test's own for what it hands out: phases, kills, ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.training.tasks.distill import distill
from shared import bootstrap, job_requests, job_store
from shared.contracts.batches import Batch, BatchShard
from shared.contracts.distillation import Distill
from shared.contracts.inference import ModelRef
from shared.contracts.training import BaseRef, DataRef, FineTune
from shared.errors import HeliuError
from shared.job_context import Handler, JobContext, Outcome, Waiting
from shared.jobs import Job, NewJob, Status, new_id
from shared.runner import JobRunner
from shared.settings import Settings
from shared.worker import open_platform

LONG_S = 600.0
BASE = "sha256:" + "a" * 64
ADD_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, 'out.jsonl', 'batch_output', 1, %s, %s)"""
ADD_MODEL = """
INSERT INTO training.model (tenant_id, id, kind, base_id, artifact, base_artifact, job_id)
VALUES (%s, %s, 'adapter', 'small', %s, %s, %s)"""
# What a batch's row is answered with: (text, finish_reason), or None for a row that fails.
Say = Callable[[dict[str, Any]], tuple[str, str] | None]


def row_of(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"hello {number}"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"the answer to {number} is long"},
        ]
    }


def as_teacher(body: dict[str, Any]) -> tuple[str, str] | None:
    """The teacher is right, the student nearly so, the base never."""
    number = body["messages"][-1]["content"].split()[-1]
    return {
        "teacher": (f"the answer to {number} is long", "stop"),
        "student": (f"the answer to {number}", "stop"),
        "small": ("no idea", "length"),
    }[body["model"]]


class Desk:
    """A platform in this process. `say` answers batches; batches and trainings that were made are counted."""

    def __init__(self, settings: Settings) -> None:
        self.platform = open_platform(settings, "training")
        self.say: Say = as_teacher
        self.asked: list[list[dict[str, Any]]] = []
        self.trained: list[list[dict[str, Any]]] = []
        self.broken: Exception | None = None
        with self.platform.db.core() as c:
            self.tenant = bootstrap.create_tenant(c, "acme")
        handlers: dict[Any, Handler] = {
            Distill: partial(distill, self.platform),
            Batch: self._batch,
            FineTune: self._tune,
        }
        self.runner = JobRunner(
            self.platform.db,
            handlers,
            worker_id="w",
            tracing=self.platform.tracing,
            metrics=self.platform.metrics,
            lease_s=LONG_S,
            heartbeat_s=LONG_S / 2,
        )

    def close(self) -> None:
        self.runner.close()
        self.platform.close()

    def submit(self, rows: int = 20, **changes: Any) -> Job:
        lines = "".join(json.dumps(row_of(number)) + "\n" for number in range(rows))
        artifact = self.platform.artifacts.put(io.BytesIO(lines.encode()))[0]
        contract = Distill(
            **{
                "teacher": "teacher",
                "models": {"teacher": ModelRef(name="teacher", base_artifact=BASE)},
                "base": BaseRef(model="small", base_artifact=BASE),
                "untrained": ModelRef(name="small", base_artifact=BASE),
                "training": DataRef(id="file-rows", kind="file", artifact=artifact),
                **changes,
            }
        )
        new = NewJob(
            id=new_id("distill-"),
            tenant_id=self.tenant,
            kind=Distill.kind,
            queue=Distill.queue,
            payload=contract.dump(),
        )
        with self.platform.db.transaction(self.tenant) as c:
            return job_store.submit(c, new)[0]

    def step(self, queue: str) -> Job:
        """Run the next job of a queue to the end of its attempt."""
        context = self.runner.claim(queue)
        assert context is not None, f"nothing waits in {queue}"
        self.runner.run(context)
        return self.job(context.job.id)

    def whole(self) -> Job:
        """All phases, one after another."""
        for queue in (Distill.queue, Batch.queue_for(), Distill.queue, FineTune.queue_for(), Distill.queue):
            self.step(queue)
        self.step(Batch.queue_for())
        return self.step(Distill.queue)

    def die_in(self, queue: str) -> None:
        """A worker runs the next job's handler, and is gone before it can write how that ended."""
        context = self.runner.claim(queue)
        assert context is not None
        assert isinstance(distill(self.platform, context, context.contract), Waiting)  # type: ignore[arg-type]
        self.runner.heartbeat.release(context)
        with self.platform.db.core() as c:
            c.execute(
                "UPDATE core.job SET lease_until = now() - interval '1 s' WHERE id = %s", (context.job.id,)
            )
            job_store.reap(c)
            c.execute("UPDATE core.job SET run_at = now() WHERE id = %s", (context.job.id,))

    def job(self, job_id: str) -> Job:
        with self.platform.db.core() as c:
            return job_store.get(c, job_id)

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with self.platform.db.transaction(self.tenant) as c:
            return list(c.execute(sql, values).fetchall())

    def _batch(self, ctx: JobContext, job: Batch) -> Outcome:
        if self.broken is not None:
            raise self.broken
        with self.platform.artifacts.open(job.artifact) as source:
            asked = [json.loads(line) for line in source]
        self.asked.append(asked)
        out = []
        for row in asked:
            said = self.say(row["body"])
            body = said and {"choices": [{"message": {"content": said[0]}, "finish_reason": said[1]}]}
            response = {"status_code": 200 if said else 500, "body": body or {"error": {"message": "no"}}}
            out.append(json.dumps({"custom_id": row["custom_id"], "response": response, "error": None}))
        artifact = self.platform.artifacts.put(io.BytesIO("\n".join(out).encode()))[0]
        file_id = new_id("file-")
        return Outcome(
            result={"output_file_id": file_id, "error_file_id": None},
            write=lambda c: c.execute(ADD_FILE, (file_id, self.tenant, artifact, ctx.job.id)) and None,
        )

    def _tune(self, ctx: JobContext, job: FineTune) -> Outcome:
        with self.platform.artifacts.open(job.training.artifact) as source:
            self.trained.append([json.loads(line) for line in source])
        return Outcome(
            result={"fine_tuned_model": "student"},
            write=lambda c: (
                c.execute(ADD_MODEL, (self.tenant, "student", "sha256:" + "b" * 64, BASE, ctx.job.id))
                and None
            ),
        )


@pytest.fixture
def desk(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(Settings(home=tmp_path, database_url=database_url, redis_url=redis_url))
    yield made
    made.close()


def test_a_student_learns_what_the_teacher_said_and_is_held_against_both(desk: Desk) -> None:
    job = desk.submit()
    ended = desk.whole()
    assert ended.state is Status.SUCCEEDED, ended.error
    assert ended.result is not None
    held_out = ended.result["held_out"]
    assert held_out["teacher"]["token_f1"] == held_out["teacher"]["agreement"] == 1.0
    assert held_out["base"]["token_f1"] == 0.0 < held_out["student"]["token_f1"] < 1.0
    assert held_out["student"]["rows"] == 2
    assert ended.result["answers"] == {"asked": 18, "kept": 18, "dropped": {}}
    first, exam = desk.asked
    assert {row["body"]["model"] for row in first} == {"teacher"}
    assert {row["body"]["model"] for row in exam} == {"student", "small"}
    assert all(row["body"]["temperature"] == 0 for row in (*first, *exam))
    # What is held out is never learned, and what the rows themselves answer neither.
    (rows,) = desk.trained
    held = {row["body"]["messages"][-1]["content"] for row in exam}
    assert len(rows) == 18
    assert not held & {row["messages"][-2]["content"] for row in rows}
    assert rows[0]["messages"][1] == {"role": "assistant", "content": "hi", "weight": 0}
    assert rows[0]["messages"][-1]["content"].startswith("the answer to")
    files = desk.rows("SELECT id, purpose FROM gateway.file WHERE job_id = %s ORDER BY purpose", job.id)
    assert [file["purpose"] for file in files] == ["batch", "batch", "fine-tune"]
    assert files[2]["id"] == ended.result["training_file"]
    (model,) = desk.rows("SELECT info FROM training.model WHERE id = 'student'")
    assert model["info"]["distillation"]["held_out"] == held_out


def test_answers_that_failed_or_were_cut_are_dropped_and_counted(desk: Desk) -> None:
    def say(body: dict[str, Any]) -> tuple[str, str] | None:
        number = int(body["messages"][-1]["content"].split()[-1])
        if body["model"] != "teacher" or number % 4 == 0:
            return as_teacher(body)
        return {1: None, 2: ("cut in the mid", "length"), 3: ("  ", "stop")}[number % 4]

    desk.say = say
    desk.submit(rows=40)
    ended = desk.whole()
    assert ended.result is not None
    answers = ended.result["answers"]
    assert answers["kept"] == len(desk.trained[0]) == answers["asked"] - sum(answers["dropped"].values())
    assert set(answers["dropped"]) == {"failed", "over_long", "empty"}
    assert ended.result["held_out"]["teacher"]["unanswered"] > 0


def test_a_kill_in_any_phase_does_nothing_twice(desk: Desk) -> None:
    job = desk.submit()
    for queue in (Batch.queue_for(), FineTune.queue_for(), Batch.queue_for()):
        desk.die_in(Distill.queue)
        assert desk.runner.claim(queue) is None, "what was not written was handed out"
        desk.step(Distill.queue)
        desk.step(queue)
        with desk.platform.db.core() as c:
            c.execute("UPDATE core.job SET crashes = 0 WHERE id = %s", (job.id,))
    ended = desk.step(Distill.queue)
    assert ended.state is Status.SUCCEEDED, ended.error
    assert (len(desk.asked), len(desk.trained)) == (2, 1)
    parts = desk.rows("SELECT kind FROM core.job WHERE parent_id = %s ORDER BY kind", job.id)
    assert [part["kind"] for part in parts] == [Batch.kind, Batch.kind, FineTune.kind]
    assert len(desk.rows("SELECT id FROM gateway.file WHERE job_id = %s", job.id)) == 3


def test_a_cancel_reaches_the_shards_of_the_batch_that_was_handed_out(desk: Desk) -> None:
    job = desk.submit()
    desk.step(Distill.queue)
    held = desk.runner.claim(Batch.queue_for())
    assert held is not None
    shard = held.part(
        BatchShard(
            batch_id=held.job.id,
            artifact=BASE,
            endpoint="/v1/chat/completions",
            models={},
            first=0,
            count=1,
            start=0,
            end=1,
        ),
        "inference.default.rows.batch",
    )
    with desk.platform.db.core() as c:
        job_store.wait_for_children(c, held.job, [shard], {"finalize_on_cancel": True})
        desk.runner.heartbeat.release(held)
    with desk.platform.db.core() as c:
        job_requests.request_cancel(c, job.id)
    assert desk.job(job.id).state is Status.CANCELLED
    assert desk.job(shard.id).state is Status.CANCELLED
    # The batch keeps what was answered; it was asked to, and waits for nothing any more.
    batch = desk.job(held.job.id)
    assert batch.cancel_requested_at is not None
    assert batch.blocked_by == 0


def test_a_pause_holds_what_was_handed_out_and_a_resume_lets_it_go_on(desk: Desk) -> None:
    job = desk.submit()
    desk.step(Distill.queue)
    with desk.platform.db.core() as c:
        job_requests.request_pause(c, job.id)
    assert desk.job(job.id).state is Status.PAUSED
    assert desk.runner.claim(Batch.queue_for()) is None
    with desk.platform.db.core() as c:
        job_requests.resume(c, job.id)
    desk.step(Batch.queue_for())
    desk.step(Distill.queue)
    assert desk.job(job.id).progress["phase"] == "training"


def test_a_batch_that_failed_fails_the_distillation_with_its_reason(desk: Desk) -> None:
    desk.broken = HeliuError("line 3: too long", code="context_length_exceeded", param="messages")
    desk.submit()
    desk.step(Distill.queue)
    desk.step(Batch.queue_for())
    ended = desk.step(Distill.queue)
    assert ended.state is Status.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "context_length_exceeded"
    assert "asking teacher" in ended.error["message"]
    assert "line 3: too long" in ended.error["message"]


def test_a_teacher_without_an_answer_ends_the_job_before_anything_is_trained(desk: Desk) -> None:
    desk.say = lambda _: None
    desk.submit()
    desk.step(Distill.queue)
    desk.step(Batch.queue_for())
    ended = desk.step(Distill.queue)
    assert (ended.state, (ended.error or {})["code"]) == (Status.FAILED, "teacher_has_no_answers")
    assert desk.runner.claim(FineTune.queue_for()) is None


def test_one_row_alone_leaves_nothing_to_learn_from(desk: Desk) -> None:
    desk.submit(rows=1)
    ended = desk.step(Distill.queue)
    assert (ended.state, (ended.error or {})["code"]) == (Status.FAILED, "invalid_training_file")
