"""Queue entries of monitoring and its sweep: short transactions around the rules and the SQL."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from services.monitoring import canaries, repository, rollup
from services.monitoring.alerts import Observation, Open, Rule, decide, message
from services.monitoring.gauges import Gauges
from services.monitoring.otlp import SpanRow
from shared import job_store
from shared.contracts.core import Noop
from shared.contracts.model_registry import JUDGED, PREFIX, CanaryRule
from shared.db import Connection, Database, Row
from shared.errors import HeliuError
from shared.job_context import JobContext, Outcome
from shared.jobs import new_id
from shared.worker import Platform

log = logging.getLogger(__name__)

SPANS_PER_TRACE = 2000
KEEP_ROLLUPS = timedelta(days=90)
FORGET_AT_ONCE = 5000
FORGET_ROUNDS = 20


def noop(platform: Platform, ctx: JobContext, job: Noop) -> Outcome:
    """Wait `seconds` in `steps` steps with one fenced event each, then end as `outcome` says."""
    if not platform.settings.test_faults:
        raise HeliuError(
            "no-op jobs are for tests; start the platform with HELIU_TEST_FAULTS=1 to run them",
            code="test_faults_off",
            param="kind",
        )
    steps = max(job.steps, 1)
    for step in range(1, steps + 1):
        if job.seconds:
            ctx.asked.wait(job.seconds / steps)
        ctx.check()
        if job.steps:
            where = {"step": step, "epoch": ctx.job.epoch, "attempt": ctx.job.attempt}
            ctx.event("noop_step", f"step {step} of {job.steps}", where)
    if job.outcome == "fail":
        raise HeliuError("the no-op job was told to fail", code="noop_failed", param="outcome")
    if job.outcome == "raise":
        raise RuntimeError("the no-op job was told to raise")
    if job.outcome == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome({"steps": job.steps, "epoch": ctx.job.epoch})


def keep_spans(db: Database, gauges: Gauges, rows: list[SpanRow]) -> int:
    """Store one export; returns how many spans found no place. Raises Unavailable."""
    if not rows:
        return 0
    with db.core() as connection:
        dropped = repository.keep_spans(connection, rows, SPANS_PER_TRACE)
    gauges.spans_kept.inc(len(rows) - dropped)
    gauges.spans_dropped.inc(dropped)
    return dropped


def sweep(db: Database, rules: Sequence[Rule], gauges: Gauges, keep_spans_for: timedelta) -> None:
    """Roll up, judge, forget. Each part is a transaction of its own; safe on several workers at once."""
    roll_up(db)
    judge(db, rules, gauges)
    end_canaries(db, rules)
    stop_canaries(db)
    forget(db, keep_spans_for)


def roll_up(db: Database) -> int:
    """Bring the minute rollups up to the last whole minute; returns how many were written."""
    with db.core() as connection:
        now, oldest = repository.oldest_left(connection)
    written = 0
    for start, end in rollup.due(now, oldest):
        with db.core() as connection:
            if not repository.take_lock(connection):
                break
            written += repository.roll(connection, start, end)
    return written


def judge(db: Database, rules: Sequence[Rule], gauges: Gauges) -> None:
    """Measure, raise and resolve alerts, and queue their webhooks, all in one transaction."""
    with db.core() as connection:
        measured = {rule: repository.observe(connection, rule.measure, rule.window) for rule in rules}
        if repository.take_lock(connection):
            decision = decide(measured, repository.open_alerts(connection))
            for rule, seen in decision.raised:
                _raise(connection, rule, seen)
            for alert in decision.resolved:
                _resolve(connection, alert)
        gauges.show_alerts(alert.rule for alert in repository.open_alerts(connection))


def end_canaries(db: Database, rules: Sequence[Rule]) -> int:
    """Take their share of the callers from versions whose model fails too often; returns how many.

    By the alerts that stand, not by those just raised: whoever dies in between loses nothing, and a canary that is
    started while its model fails does not last.
    """
    ending = [rule.name for rule in rules if rule.ends_canary and rule.measure == "error_rate"]
    if not ending:
        return 0
    with db.core() as connection:
        alerts = repository.standing(connection, ending)
    ended = 0
    for alert in alerts:
        with db.transaction(alert["tenant_id"]) as connection:
            found = repository.canaries(connection, alert["model"])
        for one in found:
            ended += _end_canary(db, alert, one)
    return ended


def _end_canary(db: Database, alert: Row, found: Row) -> bool:
    """One registered model in a transaction of its own, with its webhook."""
    reason = f"alert {alert['id']}: {alert['message']}"
    with db.transaction(alert["tenant_id"]) as connection:
        if not repository.end_canary(connection, found["id"], found["version"], reason):
            return False
        told = {"registry": found["name"], "model": f"{PREFIX}{found['name']}", "version": found["version"]}
        told |= {"reason": reason, "alert": alert["id"]}
        job_store.enqueue_webhooks(connection, alert["tenant_id"], "model.canary_ended", told)
    log.warning("canary_ended", extra={"registry": found["name"], "alert": alert["id"]})
    return True


def stop_canaries(db: Database) -> int:
    """Take their share of the callers from versions whose answers break the rule of their name; returns how many."""
    with db.core() as connection:
        tenants = repository.releasing(connection)
    stopped = 0
    for tenant in tenants:
        with db.transaction(tenant) as connection:
            for canary in repository.ruled_canaries(connection):
                stopped += _stop_canary(connection, tenant, canary)
    return stopped


def _stop_canary(connection: Connection, tenant: UUID, canary: Row) -> bool:
    """Judge and end one, with its webhook; the numbers stay in its history."""
    try:
        rule = CanaryRule.model_validate(canary["canary_rule"])
    except ValidationError as exc:
        # Of a newer release than this worker's, which judges it then; the others go on here.
        log.warning("canary_rule_unread", extra={"registry": canary["name"], "error": str(exc)})
        return False
    seen = repository.canary_answers(connection, tenant, canary, JUDGED)
    broken = canaries.stops(rule, seen)
    if not broken:
        return False
    reason, figures = f"stopped: {'; '.join(broken)}", canaries.told(rule, seen)
    name, version = canary["name"], canary["version"]
    if not repository.end_canary(connection, canary["id"], version, reason, {"stopped": figures}):
        return False
    about = {"registry": name, "model": f"{PREFIX}{name}", "version": version, "reason": reason, **figures}
    job_store.enqueue_webhooks(connection, tenant, "model.canary_stopped", about)
    log.warning("canary_stopped", extra={"registry": name, "version": version, "reason": reason})
    return True


def forget(db: Database, keep_spans_for: timedelta) -> int:
    """Drop what is past its time; returns how many spans."""
    forgotten = 0
    for _ in range(FORGET_ROUNDS):
        with db.core() as connection:
            dropped = repository.forget_spans(connection, keep_spans_for, FORGET_AT_ONCE)
        forgotten += dropped
        if dropped < FORGET_AT_ONCE:
            break
    with db.core() as connection:
        repository.forget_rollups(connection, KEEP_ROLLUPS)
    return forgotten


def _raise(connection: Connection, rule: Rule, seen: Observation) -> None:
    values = {
        "id": new_id("alert_"),
        "rule": rule.name,
        "subject": seen.subject,
        "tenant": seen.tenant,
        "severity": rule.severity,
        "message": message(rule, seen),
        "value": seen.value,
        "threshold": rule.threshold,
        "traces": list(seen.traces),
    }
    row = repository.raise_alert(connection, values)
    if row is not None:
        log.warning("alert_raised", extra={"alert": row["id"], "rule": rule.name, "subject": seen.subject})
        _tell(connection, "alert.raised", row)


def _resolve(connection: Connection, alert: Open) -> None:
    row = repository.resolve_alert(connection, alert.id)
    if row is not None:
        log.info("alert_resolved", extra={"alert": alert.id, "rule": alert.rule, "subject": alert.subject})
        _tell(connection, "alert.resolved", row)


def _tell(connection: Connection, type_: str, row: Row) -> None:
    """Queue the webhook in the alert's own transaction: to its tenant, or to the operator's."""
    tenant = row["tenant_id"] or repository.operator_tenant(connection)
    if tenant is not None:
        job_store.enqueue_webhooks(connection, tenant, type_, _public(row))


def _public(row: Row) -> dict[str, Any]:
    shown: dict[str, Any] = {key: value for key, value in row.items() if key != "tenant_id"}
    for key in ("started_at", "resolved_at"):
        shown[key] = int(row[key].timestamp()) if row[key] is not None else None
    return shown
