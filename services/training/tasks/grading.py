"""Live entry: one answer graded for a client that waits."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from services.training.evals.grade import Answers, Graders, Result
from services.training.evals.items import Item
from services.training.evals.sampling import Sample, with_json
from shared.contracts.grading import GradeSample
from shared.live_server import LiveContext
from shared.worker import Platform


def grade_sample(platform: Platform, ctx: LiveContext, call: GradeSample) -> dict[str, Any]:
    """By each grader alone; what goes wrong in one is told with it."""
    names, criteria = list(call.graders), list(call.graders.values())
    item = Item(0, call.item, None, "", "", {})
    with (
        platform.tracing.span("eval.grade", parent=ctx.span.traceparent) as span,
        closing(Graders(criteria, python=platform.settings.eval_python)) as graders,
    ):
        span.set(graders=len(criteria))
        graded = graders.grade(item, Sample(with_json(call.sample), []), Answers())
    return {"results": {name: _told(one) for name, one in zip(names, graded.results, strict=True)}}


def _told(result: Result) -> dict[str, Any]:
    if result.error is not None:
        return {"error": result.error}
    return {"score": result.score, "passed": result.passed}
