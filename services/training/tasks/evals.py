"""Queue entry of a run of an eval: items are read, answers sampled and judged by other jobs, then graded here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from services.training.evals import sampling
from services.training.evals.figures import Row, gather, summary
from services.training.evals.items import Item, Raw, items_of, of_lines, of_version
from services.training.evals.sampling import Asking, Sample, sample_of
from services.training.evals.stored import item_of
from services.training.repository import evals as repository
from services.training.tasks import eval_likelihoods as likelihoods
from services.training.tasks import eval_parts
from services.training.tasks.eval_grading import Grading, is_cosine, result_counts
from services.training.tasks.eval_parts import Rows
from shared import stored_chats
from shared.contracts.eval_items import DatasetVersion
from shared.contracts.evals import Jsonl, RunEval
from shared.contracts.graders import LabelModel, ScoreModel
from shared.contracts.task import TaskSpec
from shared.errors import HeliuError, InvalidInput
from shared.job_context import JobContext, Outcome, Waiting
from shared.task.bind import TaskVersion, bind, task_name
from shared.task.citations import Sources
from shared.task.guards import Refused
from shared.worker import Platform


def run_eval(platform: Platform, ctx: JobContext, job: RunEval) -> Outcome | Waiting:
    """Three visits at most: until answers are asked for, until judges are, and to the end. Each picks up from what
    the job's progress names, so that nothing is asked twice after a crash."""
    return _Run(platform, ctx, job).go()


class _Run:
    """One visit."""

    def __init__(self, platform: Platform, ctx: JobContext, job: RunEval) -> None:
        self._platform = platform
        self._ctx = ctx
        self._job = job
        self._source = sampling.source_of(job.data_source)
        self._samples = Rows()

    def go(self) -> Outcome | Waiting:
        progress = self._ctx.job.progress
        if "items" not in progress:
            self._read()
        if "sampled" not in progress and not isinstance(self._source, Jsonl):
            waiting = self._sample(self._source)
            if waiting is not None:
                return waiting
        answered, files = list[str](), list[str]()
        if progress.get("sampled"):
            answered, files = eval_parts.outputs(
                self._ctx, progress["sampled"], "the batch of the model's answers"
            )
        grading = Grading(self._platform, self._ctx, self._job, self._sampled)
        with closing(Rows.of(self._platform, answered)) as self._samples:
            if "judged" not in progress:
                waiting = self._judge(grading)
                if waiting is not None:
                    return waiting
            said, more = list[str](), list[str]()
            if progress.get("judged"):
                said, more = eval_parts.outputs(
                    self._ctx, progress["judged"], "the batch of the judges' answers"
                )
            with closing(Rows.of(self._platform, said)) as judges:
                grading.grade(judges)
                return self._end(judges, [*files, *more])

    def _read(self) -> None:
        """Items with their keys, checked, as an artifact of the run's own."""
        self._ctx.progress(phase="reading")
        job = self._job
        limit = self._source.source.limit if isinstance(self._source.source, DatasetVersion) else None
        work = self._platform.settings.home / "work"
        work.mkdir(parents=True, exist_ok=True)
        total = 0
        with tempfile.TemporaryFile(dir=work) as lines:
            found = items_of(self._raw(), job.config, slices=job.slices, cluster=job.cluster, limit=limit)
            for total, item in enumerate(found, 1):
                lines.write(item.line())
                if total % 500 == 0:
                    self._ctx.check()
                    self._ctx.touch()
            if not total:
                raise InvalidInput(
                    "the source has no items; a run needs one at least",
                    code="invalid_eval_data",
                    param="data_source.source",
                )
            lines.seek(0)
            artifact, _ = self._platform.artifacts.put(lines)
        self._ctx.progress(items=artifact, total=total)
        self._ctx.event("message", f"{total} items read", {"items": total})

    def _raw(self) -> Iterator[Raw]:
        """Items as they stand in their source."""
        ref = self._job.items
        if ref.kind == "version":
            assert isinstance(self._source.source, DatasetVersion)
            cache = self._platform.settings.home / "cache"
            folder = Path(self._platform.artifacts.materialize(ref.artifact, cache))
            yield from of_version(sorted(folder.glob("data/*.parquet")), self._source.source.split)
            return
        if ref.chats is not None:
            tenant = self._ctx.job.tenant_id
            for chat in stored_chats.each(self._ctx.transaction, tenant, ref.chats):
                yield item_of(chat.id, chat.model, chat.metadata, chat.body)
            return
        with self._platform.artifacts.open(ref.artifact) as source:
            yield from of_lines(source)

    def _items(self) -> Iterator[Item]:
        with self._platform.artifacts.open(self._ctx.job.progress["items"]) as source:
            for line in source:
                yield Item.of_line(line)

    def _sample(self, source: Asking) -> Waiting | None:
        """Have the answers made; None where no item makes a request."""

        def requests() -> Iterator[tuple[str, dict[str, Any]]]:
            for item in self._items():
                try:
                    yield str(item.number), sampling.request(source, item, self._check_task)
                except HeliuError:
                    # Told with the item when it is graded.
                    continue

        asked = eval_parts.batches(
            self._platform, self._ctx, self._job, sampling.endpoint(source), [source.model], requests()
        )
        if not asked.jobs:
            self._ctx.progress(sampled=[])
            return None
        ids = [one.id for one in asked.jobs]
        self._ctx.event("message", f"sampling {asked.requests} answers of {source.model}", {"batches": ids})
        return Waiting(asked.jobs, {"phase": "sampling", "sampled": ids})

    def _judge(self, grading: Grading) -> Waiting | None:
        """Have answers judged and texts embedded, where a criterion asks for it."""
        judges = sorted({one.model for one in self._job.criteria if isinstance(one, LabelModel | ScoreModel)})
        questions = grading.questions() if judges else ()
        asked = eval_parts.batches(
            self._platform, self._ctx, self._job, sampling.CHAT_ENDPOINT, judges, questions
        )
        embedded = eval_parts.Asked([], 0)
        if any(is_cosine(one) for one in self._job.criteria):
            embedded = eval_parts.embeddings(self._platform, self._ctx, self._job, grading.texts())
        measured = likelihoods.hand_out(self._platform, self._ctx, self._job, self._sampled)
        jobs = [*asked.jobs, *embedded.jobs, *measured]
        ids, vectors = [one.id for one in asked.jobs], [one.id for one in embedded.jobs]
        if not jobs:
            self._ctx.progress(judged=[], embedded=[])
            return None
        self._ctx.event(
            "message",
            f"judging: {asked.requests} questions to {', '.join(judges) or 'no model'}, "
            f"{embedded.requests} texts to embed{', likelihoods of references' if measured else ''}",
            {"batches": ids, "embeddings": vectors},
        )
        told = {"judged": ids, "embedded": vectors, "measured": [one.id for one in measured]}
        return Waiting(jobs, {"phase": "judging", **told})

    def _check_task(self, body: dict[str, Any]) -> None:
        """Raise what a version of the task that may get this body has against it."""
        for version in self._versions:
            found = version.spec.retrieval
            try:
                bind(version, body, Sources(found.vector_store, ()) if found is not None else None)
            except Refused:
                # What its guards refuse is an answer of the row's own.
                continue

    @cached_property
    def _versions(self) -> list[TaskVersion]:
        """Those that a row may get: the one that is named, or all that the split leads to."""
        named = None if isinstance(self._source, Jsonl) else task_name(self._source.model)
        if named is None:
            return []
        name, pinned = named
        route = self._job.tasks[name]
        numbers = [pinned] if pinned is not None else [number for number, weight in route.weights if weight]
        with self._ctx.transaction() as connection:
            specs = [repository.task_spec(connection, route.id, number) for number in numbers]
        return [
            TaskVersion(route.id, name, number, TaskSpec.model_validate(spec))
            for number, spec in zip(numbers, specs, strict=True)
        ]

    def _sampled(self) -> Iterator[tuple[Item, Sample]]:
        for item in self._items():
            yield item, sample_of(self._source, item, self._samples.get(str(item.number)), self._check_task)

    def _end(self, judges: Rows, files: Iterable[str]) -> Outcome:
        """The figures over all items, as the job's result."""
        ctx = self._ctx
        with ctx.transaction() as connection:
            counts = repository.counts(connection, ctx.job.id)
            criteria = repository.by_criterion(connection, ctx.job.id)
            rows = [Row(**row) for row in repository.measured(connection, ctx.job.id)]
        ctx.touch()
        samples = likelihoods.added(self._platform, ctx, self._job, self._sampled)
        gathered = gather(self._job.metrics, samples) if self._job.metrics else []
        ctx.touch()
        with self._platform.tracing.span("eval.figures", parent=ctx.span.traceparent) as span:
            span.set(items=len(rows))
            figures = summary(rows, gathered)
        used = [self._samples.usage(), judges.usage()]
        hidden = list(files)
        return Outcome(
            result={
                "result_counts": result_counts(counts),
                "per_model_usage": _together(used),
                "per_testing_criteria_results": [
                    {
                        "testing_criteria": one.name,
                        **{name: criteria[one.name][name] for name in ("passed", "failed", "errored")},
                    }
                    for one in self._job.criteria
                ],
                **figures,
            },
            write=lambda connection: repository.hide_files(connection, hidden),
        )


def _together(used: Iterable[dict[str, dict[str, int]]]) -> list[dict[str, Any]]:
    names = ("invocation_count", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")
    merged: dict[str, dict[str, int]] = {}
    for one in used:
        for model, counts in one.items():
            into = merged.setdefault(model, dict.fromkeys(names, 0))
            for name in names:
                into[name] += counts.get(name, 0)
    return [{"model_name": model, **counts} for model, counts in sorted(merged.items())]
