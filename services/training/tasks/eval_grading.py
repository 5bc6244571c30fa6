"""Grading the items of a run: what its judges and encoder are asked, and rows that are stored page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from services.training.evals.grade import Answers, Graded, Graders, texts
from services.training.evals.items import Item
from services.training.evals.sampling import Sample
from services.training.repository import evals as repository
from services.training.repository.evals import EvalItem
from services.training.tasks import eval_parts
from services.training.tasks.eval_parts import Rows, Vector
from shared.contracts.chat import parse_chat
from shared.contracts.evals import RunEval
from shared.contracts.graders import LabelModel, ScoreModel, TextSimilarity
from shared.db import Row, retrying
from shared.errors import HeliuError, InvalidInput
from shared.job_context import JobContext
from shared.task.judging import judge_body
from shared.worker import Platform

# Items of one transaction: what a worker that dies has to grade again.
PAGE = 100

Sampled = Callable[[], Iterator[tuple[Item, Sample]]]


class Grading:
    """Of one run. `sampled` goes over its items and their samples, in order, as often as it is called."""

    def __init__(self, platform: Platform, ctx: JobContext, job: RunEval, sampled: Sampled) -> None:
        self._platform = platform
        self._ctx = ctx
        self._job = job
        self._sampled = sampled

    def questions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(custom_id, chat request) for each item and judge; one that cannot be made is told when it is graded."""
        for item, sample in self._sampled():
            if sample.error is not None:
                continue
            values = {"item": item.item, "sample": sample.values}
            for index, criterion in enumerate(self._job.criteria):
                if isinstance(criterion, LabelModel | ScoreModel):
                    try:
                        body = judge_body(criterion, values, f"testing_criteria[{index}]")
                        parse_chat(body)
                    except HeliuError:
                        continue
                    yield f"{item.number}:{index}", body

    def texts(self) -> Iterator[str]:
        """What is to be embedded, in the order in which it is gathered again."""
        for item, sample in self._sampled():
            for _, text, reference in self._pairs(item, sample):
                yield from (text, reference)

    def _pairs(self, item: Item, sample: Sample) -> Iterator[tuple[int, str, str]]:
        """(criterion, input, reference) of each cosine whose two texts are not empty."""
        if sample.error is not None:
            return
        for index, criterion in enumerate(self._job.criteria):
            if isinstance(criterion, TextSimilarity) and is_cosine(criterion):
                try:
                    text, reference = texts(criterion, item, sample, f"testing_criteria[{index}]")
                except HeliuError:
                    continue
                if text.strip() and reference.strip():
                    yield index, text, reference

    def grade(self, judges: Rows) -> None:
        """Grade what is not stored yet, a page a transaction; the same items give the same rows."""
        ctx, total = self._ctx, self._ctx.job.progress["total"]
        with ctx.transaction() as connection:
            last = repository.counts(connection, ctx.job.id)["last"]
        ctx.progress(phase="grading")
        if last >= 0:
            ctx.event("message", f"grading goes on after item {last + 1} of {total}", {"graded": last + 1})
        made = eval_parts.vectors(self._platform, ctx, ctx.job.progress.get("embedded") or [])
        page: list[EvalItem] = []
        python = self._platform.settings.eval_python
        with closing(Graders(self._job.criteria, python=python)) as graders:
            for item, sample in self._sampled():
                cosines = self._cosines(item, sample, made)
                if item.number <= last:
                    continue
                ctx.check()
                answers = Answers(self._said(item, sample, judges), cosines)
                page.append(self._stored(item, sample, graders.grade(item, sample, answers)))
                ctx.touch()
                if len(page) == PAGE:
                    self._store(page)
                    page = []
        if page:
            self._store(page)

    def _cosines(
        self, item: Item, sample: Sample, made: Iterator[Vector | InvalidInput]
    ) -> dict[int, float | HeliuError]:
        """Of this item, in the order in which its texts were handed out; an empty text is like an empty one alone."""
        found: dict[int, float | HeliuError] = {}
        for index, _, _ in self._pairs(item, sample):
            one, other = next(made), next(made)
            if isinstance(one, HeliuError) or isinstance(other, HeliuError):
                found[index] = one if isinstance(one, HeliuError) else other  # type: ignore[assignment]
            else:
                found[index] = float(one @ other)
        return found

    def _said(self, item: Item, sample: Sample, judges: Rows) -> dict[int, str | HeliuError]:
        found: dict[int, str | HeliuError] = {}
        values = {"item": item.item, "sample": sample.values}
        for index, criterion in enumerate(self._job.criteria):
            if not isinstance(criterion, LabelModel | ScoreModel) or sample.error is not None:
                continue
            row = judges.get(f"{item.number}:{index}")
            if row is None:
                try:
                    parse_chat(judge_body(criterion, values, f"testing_criteria[{index}]"))
                except HeliuError as exc:
                    found[index] = exc
            elif row.get("error"):
                found[index] = InvalidInput(
                    f"the judge {criterion.model!r} failed: {row['error']['message']}",
                    code=str(row["error"]["code"]),
                )
            else:
                message = row["response"]["body"]["choices"][0]["message"]
                found[index] = message.get("content") or ""
        return found

    def _stored(self, item: Item, sample: Sample, graded: Graded) -> EvalItem:
        return EvalItem(
            number=item.number,
            key=item.key,
            cluster=item.cluster,
            passed=graded.passed,
            score=graded.score,
            scores={one.name: None if one.error else one.unit for one in graded.results},
            slices=item.slices,
            error=graded.error,
            body={
                "item": item.item,
                "input": sample.asked,
                "sample": {k: v for k, v in sample.values.items() if k != "choices"},
                "sample_error": sample.error,
                "results": [one.shown() for one in graded.results],
            },
        )

    def _store(self, page: list[EvalItem]) -> None:
        ctx = self._ctx

        def write() -> Row:
            with ctx.transaction() as connection:
                repository.add_items(connection, ctx.job.tenant_id, ctx.job.id, page)
                return repository.counts(connection, ctx.job.id)

        counts = retrying(write, attempts=8, patience=0.2)
        ctx.progress(counts=result_counts(counts))


def is_cosine(criterion: Any) -> bool:
    return isinstance(criterion, TextSimilarity) and criterion.evaluation_metric == "cosine"


def result_counts(counts: Row) -> dict[str, int]:
    """As OpenAI has them, of the repository's counts."""
    total, passed, errored = counts["total"], counts["passed"], counts["errored"]
    return {"total": total, "passed": passed, "failed": total - passed - errored, "errored": errored}
