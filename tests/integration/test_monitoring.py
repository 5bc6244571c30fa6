"""Monitoring on a real Postgres: spans and their tenants, rollups, alerts with their webhooks, the whole process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client import CollectorRegistry

from deploy.embedded import free_port
from services.monitoring import repository, tasks
from services.monitoring.alerts import RULES, Rule
from services.monitoring.gauges import Gauges
from services.monitoring.otlp import SpanRow
from shared import job_store
from shared.bootstrap import create_tenant
from shared.contracts.core import Noop
from shared.db import Database, Row
from shared.errors import HeliuError
from shared.jobs import NewJob, Status, new_id
from shared.queue import Publisher
from shared.telemetry import Tracing

TRACE = "ab" * 16
PROJECT = Path(__file__).parents[2]


class Monitored:
    """A database with the helpers of these tests."""

    def __init__(self, url: str) -> None:
        self.db = Database(url, application="test", max_size=8)
        with self.db.core() as connection:
            self.tenant = create_tenant(connection, "acme")
            self.operator = create_tenant(connection, "default")
        self.registry = CollectorRegistry()
        self.gauges = Gauges(self.registry)

    def keep(self, *rows: SpanRow) -> int:
        return tasks.keep_spans(self.db, self.gauges, list(rows))

    def rows(self, query: str, *values: Any) -> list[Row]:
        with self.db.core() as connection:
            return connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: Any) -> None:
        with self.db.core() as connection:
            connection.execute(statement, values)

    def tenants(self) -> dict[str, UUID | None]:
        return {
            row["name"]: row["tenant_id"] for row in self.rows("SELECT name, tenant_id FROM monitoring.span")
        }

    def usage(self, count: int = 1, *, age_s: float = 70, status: str = "ok", **values: Any) -> None:
        base = {"model": "base", "pool": "default", "seconds": 1.0, "trace_id": TRACE, **values}
        for _ in range(count):
            self.run(
                "INSERT INTO gateway.usage (tenant_id, request_id, created_at, endpoint, model, pool, status, "
                "prompt_tokens, completion_tokens, seconds, first_token_seconds, trace_id) VALUES "
                "(%s, %s, now() - %s, 'chat', %s, %s, %s, 10, 5, %s, 0.1, %s)",
                self.tenant,
                new_id("req_"),
                timedelta(seconds=age_s),
                base["model"],
                base["pool"],
                status,
                base["seconds"],
                base["trace_id"],
            )

    def judge(self, *rules: Rule) -> None:
        tasks.judge(self.db, rules or RULES, self.gauges)

    def alerts(self) -> list[Row]:
        return self.rows("SELECT * FROM monitoring.alert ORDER BY started_at")

    def endpoint(self, tenant: UUID, *events: str) -> None:
        self.run(
            "INSERT INTO core.webhook_endpoint (id, tenant_id, url, secret, events) "
            "VALUES (%s, %s, 'http://x', 's', %s)",
            new_id("we_"),
            tenant,
            list(events),
        )

    def webhooks(self) -> list[tuple[UUID, dict[str, Any]]]:
        found = self.rows("SELECT tenant_id, body FROM core.webhook_delivery ORDER BY created_at, id")
        return [(row["tenant_id"], json.loads(row["body"])) for row in found]


@pytest.fixture
def monitored(database_url: str) -> Iterator[Monitored]:
    one = Monitored(database_url)
    yield one
    one.db.close()


def span(name: str, parent: str | None = None, **values: Any) -> SpanRow:
    """A span whose id is made from its name."""

    def id_of(text: str) -> str:
        return text.encode().hex()[:16].rjust(16, "0")

    base: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": id_of(name),
        "parent_id": id_of(parent) if parent else None,
        "tenant_id": None,
        "service": "gateway",
        "name": name,
        "kind": "internal",
        "start_ns": time.time_ns(),
        "end_ns": time.time_ns(),
        "status": "unset",
        "status_message": None,
        "attributes": {"说": "你好", "n": 1},
        "events": [],
        "links": [],
    }
    return SpanRow(**{**base, **values})


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)


# --- spans


def test_a_span_is_kept_once_however_often_it_is_sent(monitored: Monitored) -> None:
    assert monitored.keep(span("a"), span("b", "a")) == 0
    assert monitored.keep(span("a"), span("b", "a")) == 0
    rows = monitored.rows("SELECT * FROM monitoring.span ORDER BY name")
    assert [row["name"] for row in rows] == ["a", "b"]
    assert rows[0]["attributes"] == {"说": "你好", "n": 1}


def test_spans_take_the_tenant_of_their_root_though_it_arrives_last(monitored: Monitored) -> None:
    monitored.keep(span("leaf", "middle"), span("other"))
    monitored.keep(span("middle", "root"))
    assert set(monitored.tenants().values()) == {None}
    monitored.keep(span("root", tenant_id=str(monitored.tenant)))
    t = monitored.tenant
    assert monitored.tenants() == {"leaf": t, "middle": t, "root": t, "other": None}


def test_a_later_child_takes_the_tenant_that_is_known(monitored: Monitored) -> None:
    monitored.keep(span("root", tenant_id=str(monitored.tenant)))
    monitored.keep(span("late", "root"))
    assert monitored.tenants()["late"] == monitored.tenant


def test_a_forged_trace_id_does_not_make_anothers_spans_visible(monitored: Monitored) -> None:
    """Two tenants' spans under one trace id stay apart, below the span that names the tenant."""
    other = str(monitored.operator)
    monitored.keep(span("root", tenant_id=str(monitored.tenant)), span("mine", "root"))
    monitored.keep(span("forger", tenant_id=other), span("theirs", "forger"))
    with monitored.db.transaction(monitored.operator) as connection:
        rows = connection.execute("SELECT name FROM monitoring.span WHERE trace_id = %s", (TRACE,)).fetchall()
    assert {row["name"] for row in rows} == {"forger", "theirs"}


def test_spans_that_are_each_others_parents_come_to_an_end(monitored: Monitored) -> None:
    monitored.keep(span("a", "b"), span("b", "a", tenant_id=str(monitored.tenant)))
    assert monitored.tenants()["a"] == monitored.tenant


def test_a_trace_holds_no_more_than_its_cap_but_always_its_root(monitored: Monitored) -> None:
    with monitored.db.core() as connection:
        many = [span(f"s{n}", "root") for n in range(8)]
        assert repository.keep_spans(connection, many, 5) == 3
        assert repository.keep_spans(connection, [span("late", "root"), span("root")], 5) == 1
    assert len(monitored.tenants()) == 6
    assert "root" in monitored.tenants()


def test_concurrent_exports_of_one_trace_do_not_hurt_each_other(monitored: Monitored) -> None:
    root = span("root", tenant_id=str(monitored.tenant))
    batches = [[span(f"s{n}-{k}", "root") for k in range(40)] + [root] for n in range(8)]
    failed: list[HeliuError] = []

    def export(batch: list[SpanRow]) -> None:
        try:
            monitored.keep(*reversed(batch))
        except HeliuError as exc:
            failed.append(exc)

    threads = [threading.Thread(target=export, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    monitored.keep(root)
    assert set(monitored.tenants().values()) == {monitored.tenant}


def test_old_spans_are_forgotten_and_young_ones_kept(monitored: Monitored) -> None:
    monitored.keep(span("old"), span("young"))
    monitored.run("UPDATE monitoring.span SET received_at = now() - interval '73 hours' WHERE name = 'old'")
    assert tasks.forget(monitored.db, timedelta(hours=72)) == 1
    assert set(monitored.tenants()) == {"young"}


# --- rollups


def test_usage_is_summed_by_minute_tenant_model_and_pool(monitored: Monitored) -> None:
    monitored.usage(19, seconds=1.0)
    monitored.usage(1, seconds=9.0, status="error")
    monitored.usage(2, status="cancelled", model="other")
    tasks.roll_up(monitored.db)
    rows = monitored.rows(
        "SELECT model, sum(requests)::int AS requests, sum(errors)::int AS errors, "
        "sum(prompt_tokens)::int AS prompt, sum(completion_tokens)::int AS completion, max(seconds_p95) AS p95 "
        "FROM monitoring.rollup GROUP BY model ORDER BY model"
    )
    assert [(r["model"], r["requests"], r["errors"], r["prompt"], r["completion"]) for r in rows] == [
        ("base", 20, 1, 200, 100),
        ("other", 2, 0, 20, 10),
    ]
    assert 1.0 <= rows[0]["p95"] < 9.0


def test_rolling_up_twice_changes_nothing_and_a_late_row_is_added(monitored: Monitored) -> None:
    monitored.usage(3)
    tasks.roll_up(monitored.db)
    tasks.roll_up(monitored.db)
    total = "SELECT sum(requests)::int AS n FROM monitoring.rollup"
    assert monitored.rows(total) == [{"n": 3}]
    monitored.usage(2, age_s=90)
    tasks.roll_up(monitored.db)
    assert monitored.rows(total) == [{"n": 5}]


def test_what_was_written_while_nobody_swept_is_rolled_up_too(monitored: Monitored) -> None:
    monitored.usage(2, age_s=3 * 86_400)
    monitored.usage(3, age_s=3600)
    tasks.roll_up(monitored.db)
    assert monitored.rows("SELECT sum(requests)::int AS n FROM monitoring.rollup") == [{"n": 5}]


def test_a_sweep_leaves_the_work_to_one_that_is_under_way(monitored: Monitored) -> None:
    monitored.usage(3)
    with monitored.db.core() as other:
        assert repository.take_lock(other)
        assert tasks.roll_up(monitored.db) == 0
    assert tasks.roll_up(monitored.db) > 0


# --- alerts


def test_an_error_rate_over_its_threshold_is_raised_told_and_resolved(monitored: Monitored) -> None:
    monitored.endpoint(monitored.tenant, "alert.raised", "alert.resolved")
    monitored.endpoint(monitored.operator, "alert.raised", "alert.resolved")
    monitored.usage(15)
    monitored.usage(10, status="error")
    tasks.roll_up(monitored.db)
    monitored.judge()
    monitored.judge()
    (alert,) = monitored.alerts()
    assert (alert["rule"], alert["subject"], alert["tenant_id"]) == (
        "error_rate",
        "acme/base",
        monitored.tenant,
    )
    assert (alert["value"], alert["threshold"], alert["resolved_at"]) == (0.4, 0.1, None)
    assert alert["trace_ids"] == [TRACE] * 5
    assert "40.0% of 25 answers" in alert["message"]
    monitored.run("DELETE FROM monitoring.rollup")
    monitored.judge()
    assert monitored.alerts()[0]["resolved_at"] is not None
    told = monitored.webhooks()
    assert [(tenant, body["type"], body["data"]["id"]) for tenant, body in told] == [
        (monitored.tenant, "alert.raised", alert["id"]),
        (monitored.tenant, "alert.resolved", alert["id"]),
    ]
    assert told[0][1]["data"]["trace_ids"] == [TRACE] * 5
    assert told[1][1]["data"]["resolved_at"] >= told[1][1]["data"]["started_at"]


def test_few_failed_answers_are_no_alert(monitored: Monitored) -> None:
    monitored.usage(10, status="error")
    tasks.roll_up(monitored.db)
    monitored.judge()
    assert monitored.alerts() == []


def test_an_old_job_that_could_run_alerts_the_operator(monitored: Monitored) -> None:
    monitored.endpoint(monitored.operator, "alert.raised")
    submit(monitored, run_at="10 minutes")
    submit(monitored, run_at="-10 minutes")
    monitored.judge()
    (alert,) = monitored.alerts()
    assert (alert["rule"], alert["subject"], alert["tenant_id"]) == ("queue_age", "monitoring", None)
    assert 599 < alert["value"] < 700
    assert alert["trace_ids"] == ["cd" * 16]
    assert [(tenant, body["data"]["rule"]) for tenant, body in monitored.webhooks()] == [
        (monitored.operator, "queue_age")
    ]
    assert monitored.registry.get_sample_value("heliu_alerts_open", {"rule": "queue_age"}) == 1


def test_a_silent_worker_alerts_until_it_is_heard_again(monitored: Monitored) -> None:
    monitored.run(
        "INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots, state, heartbeat_at) VALUES "
        "('w1', 'silent', 's', 'p', '{}', 'h', 1, 1, 'running', now() - interval '1 minute'), "
        "('w2', 'stopped', 's', 'p', '{}', 'h', 1, 1, 'stopped', now() - interval '1 minute'), "
        "('w3', 'alive', 's', 'p', '{}', 'h', 1, 1, 'draining', now()), "
        "('w4', 'gone', 's', 'p', '{}', 'h', 1, 1, 'running', now() - interval '2 hours')"
    )
    monitored.judge()
    assert [(a["rule"], a["subject"]) for a in monitored.alerts()] == [("worker_silent", "silent")]
    monitored.run("UPDATE core.worker SET heartbeat_at = now()")
    monitored.judge()
    assert monitored.alerts()[0]["resolved_at"] is not None


def test_a_dead_job_alerts_its_tenant_with_its_trace(monitored: Monitored) -> None:
    submit(monitored)
    with monitored.db.core() as connection:
        job = job_store.claim(connection, "monitoring", "w", timedelta(seconds=60))
        assert job is not None
        job_store.leave(connection, job, Status.DEAD, message="used up")
    monitored.judge()
    (alert,) = monitored.alerts()
    assert (alert["rule"], alert["subject"], alert["tenant_id"]) == (
        "dead_jobs",
        "acme/noop",
        monitored.tenant,
    )
    assert alert["trace_ids"] == ["cd" * 16]


def test_two_sweeps_at_once_raise_an_alert_once(monitored: Monitored) -> None:
    monitored.endpoint(monitored.operator, "alert.raised")
    submit(monitored, run_at="10 minutes")
    threads = [threading.Thread(target=monitored.judge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(monitored.alerts()), len(monitored.webhooks())) == (1, 1)


def submit(monitored: Monitored, *, run_at: str = "0", **values: Any) -> str:
    """A no-op job that could run since `run_at` (an interval) ago."""
    with monitored.db.transaction(monitored.tenant) as connection:
        row = connection.execute("SELECT now() - %s::interval AS at", (run_at,)).fetchone()
        assert row is not None
        new = NewJob(
            id=new_id("job_"),
            tenant_id=monitored.tenant,
            kind="noop",
            queue="monitoring",
            payload=Noop(**values).dump(),
            run_at=row["at"],
            max_attempts=1,
            traceparent=f"00-{'cd' * 16}-{'ef' * 8}-01",
        )
        return job_store.submit(connection, new)[0].id


# --- the process


@pytest.fixture
def process(
    monitored: Monitored, database_url: str, redis_url: str, tmp_path: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running `services.monitoring.main`; gives the address of its receiver."""
    port = free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith("HELIU_")} | {
        "HELIU_HOME": str(tmp_path),
        "HELIU_DATABASE_URL": database_url,
        "HELIU_REDIS_URL": redis_url,
        "HELIU_TEST_FAULTS": "1",
        "HELIU_READY_FILE": str(tmp_path / "ready"),
        "HELIU_OTLP_PORT": str(port),
        "HELIU_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "HELIU_OTLP_TOKEN": "the-token",
        "HELIU_ALERT_RULES": str(tmp_path / "rules.yml"),
    }
    (tmp_path / "rules.yml").write_text("rules: {queue_age: {threshold: 5}}")
    log = (tmp_path / "log").open("wb")
    argv = [sys.executable, "-m", "services.monitoring.main"]
    running = subprocess.Popen(argv, env=env, cwd=PROJECT, stderr=log, start_new_session=True)
    try:
        eventually((tmp_path / "ready").exists)
        yield f"http://127.0.0.1:{port}", running
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        log.close()


def state(monitored: Monitored, job: str) -> Row:
    return monitored.rows("SELECT state, result, error FROM core.job WHERE id = %s", job)[0]


def test_the_process_runs_jobs_keeps_its_own_spans_and_leaves_nothing_behind(
    monitored: Monitored, redis_url: str, process: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, running = process
    jobs = {outcome: submit(monitored, outcome=outcome) for outcome in ("fail", "raise")}
    jobs["succeed"] = submit(monitored, seconds=0.2, steps=3)
    publisher = Publisher(redis_url, Tracing("test"))
    publisher.ring("monitoring", 3)
    publisher.close()
    ended = ("succeeded", "failed", "dead")
    eventually(lambda: all(state(monitored, job)["state"] in ended for job in jobs.values()))
    assert state(monitored, jobs["succeed"])["result"] == {"steps": 3, "epoch": 1}
    assert (state(monitored, jobs["fail"])["state"], state(monitored, jobs["raise"])["state"]) == (
        "failed",
        "dead",
    )
    steps = monitored.rows(
        "SELECT data FROM core.job_event WHERE type = 'noop_step' AND job_id = %s ORDER BY id",
        jobs["succeed"],
    )
    assert [row["data"]["step"] for row in steps] == [1, 2, 3]
    with httpx.Client(base_url=address) as client:
        assert (
            client.post("/v1/traces", headers={"content-type": "application/x-protobuf"}).status_code == 401
        )
    running.terminate()
    assert running.wait(40) == 0
    spans = monitored.rows("SELECT * FROM monitoring.span")
    assert {(s["name"], s["service"], s["kind"]) for s in spans} == {
        ("process monitoring", "monitoring", "consumer")
    }
    assert len(spans) == 3  # three jobs, and no span of receiving spans
    assert {s["tenant_id"] for s in spans} == {monitored.tenant}
    assert all(
        s["attributes"]["heliu.attempt"] == 1 and "heliu.queue.wait_s" in s["attributes"] for s in spans
    )


def test_the_process_refuses_a_wrong_file_of_rules(database_url: str, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text("rules: {queue_age: {treshold: 5}}")
    env = os.environ | {
        "HELIU_HOME": str(tmp_path),
        "HELIU_DATABASE_URL": database_url,
        "HELIU_REDIS_URL": redis_url,
        "HELIU_ALERT_RULES": str(tmp_path / "rules.yml"),
    }
    argv = [sys.executable, "-m", "services.monitoring.main"]
    ended = subprocess.run(
        argv, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 78
    assert "treshold" in ended.stderr
