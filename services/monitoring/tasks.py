"""Queue entries of monitoring: the no-op jobs that tests, the chaos run and benchmarks submit."""

from __future__ import annotations

import os
import signal

from shared.contracts.core import Noop
from shared.errors import HeliuError
from shared.runner import JobContext, Outcome
from shared.worker import Platform


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
