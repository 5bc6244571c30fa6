"""Queue entry of distillation: hand out a batch to the teacher, the student's training and its exam, one by one.

What each phase needs of an earlier one stands in the job's progress, written with what it hands out: after a kill the
phase is done again from there, and nothing is handed out twice.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from services.training.distill.answers import Answers, figures, read_answers, training_rows
from services.training.distill.prompts import HELD, TRAIN, Prompts, choose, custom_id, lines
from services.training.repository import distill as repository
from services.training.spec import DataPaths
from services.training.tasks.inputs import Inputs
from shared.contracts.answers import CHAT
from shared.contracts.batches import Batch
from shared.contracts.distillation import Distill, Generation
from shared.contracts.inference import ModelRef
from shared.contracts.model_registry import RegisteredRoute
from shared.contracts.task import PREFIX, TaskRoute
from shared.contracts.training import DataRef, FineTune
from shared.db import Connection
from shared.errors import HeliuError
from shared.job_context import JobContext, Outcome, Waiting
from shared.jobs import NewJob, Status, new_id
from shared.worker import Platform

TEACHER, STUDENT, BASE = "teacher", "student", "base"
_DEFAULTS = {"max_tokens": 256, "temperature": 0.0, "top_p": 1.0}


def distill(platform: Platform, ctx: JobContext, job: Distill) -> Outcome | Waiting:
    """Ask the teacher; train the student on what it said; ask student and base what was held out; compare."""
    phases: Mapping[str, Callable[[Platform, JobContext, Distill, Prompts], Outcome | Waiting]] = {
        "asking": _train,
        "training": _examine,
        "measuring": _compare,
    }
    phase = phases.get(str(ctx.job.progress.get("phase")), _ask)
    return phase(platform, ctx, job, _prompts(platform, ctx, job))


def _prompts(platform: Platform, ctx: JobContext, job: Distill) -> Prompts:
    """The same in every phase: rows and seed decide them."""
    inputs = Inputs(platform, ctx)
    try:
        data = DataPaths.model_validate(inputs.paths(job.training, job.validation))
        return choose(data, job.max_prompts, job.held_out_rows, job.seed)
    finally:
        inputs.clean()


def _ask(platform: Platform, ctx: JobContext, job: Distill, prompts: Prompts) -> Waiting:
    ctx.event(
        "message",
        f"asking {job.teacher} for answers to {len(prompts.train):,} of {prompts.found:,} prompts, and to "
        f"{len(prompts.held_out):,} held out",
        {"prompts": len(prompts.train), "found": prompts.found, "held_out": len(prompts.held_out)},
    )
    parts = {TRAIN: prompts.train, HELD: prompts.held_out}
    content = lines(parts, [(TEACHER, {"model": job.teacher, **_decoding(job)})])
    batch, write = _batch(platform, ctx, content, job.models, job.tasks, job.registered)
    told = {"phase": "asking", "teacher_batch": batch.id, "pause_parts": True}
    return Waiting([batch], told, write=write)


def _train(platform: Platform, ctx: JobContext, job: Distill, prompts: Prompts) -> Waiting:
    answers = _answers(platform, ctx, "teacher_batch", f"asking {job.teacher}")
    content, dropped = training_rows(prompts.train, answers, TEACHER)
    kept = len(prompts.train) - sum(dropped.values())
    counts = {"asked": len(prompts.train), "kept": kept, "dropped": dropped}
    ctx.event(
        "message",
        f"{kept:,} of {len(prompts.train):,} answers are trained on"
        + "".join(f", {count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items())),
        counts,
        "warn" if dropped else "info",
    )
    if not kept:
        raise HeliuError(
            f"{job.teacher} gave no answer that could be trained on: "
            + ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())),
            code="teacher_has_no_answers",
            param="teacher",
        )
    artifact, size = platform.artifacts.put(io.BytesIO(content))
    data = DataRef(id=new_id("file-"), kind="file", artifact=artifact)
    child = ctx.part(
        FineTune(
            base=job.base,
            training=data,
            validation=_validation(job) if prompts.answered else None,
            suffix=job.suffix or "distilled",
            seed=job.seed,
            hyperparameters=job.hyperparameters,
            decoding=job.decoding,
        ),
        FineTune.queue_for(platform.settings.pool),
    )

    def write(connection: Connection) -> None:
        repository.add_file(
            connection,
            data.id,
            ctx.job.tenant_id,
            filename=f"{ctx.job.id}_answers.jsonl",
            purpose="fine-tune",
            size=size,
            artifact=artifact,
            job_id=ctx.job.id,
        )

    told = {"phase": "training", "training_file": data.id, "fine_tuning_job": child.id, "answers": counts}
    return Waiting([child], told, write=write)


def _examine(platform: Platform, ctx: JobContext, job: Distill, prompts: Prompts) -> Waiting:
    result = _ended(ctx, "fine_tuning_job", "training the student")
    name = str(result["fine_tuned_model"])
    with ctx.transaction() as connection:
        row = repository.model(connection, ctx.job.tenant_id, name)
    if row is None:
        raise HeliuError(f"the student {name!r} is there no more", code="model_not_found", param="model")
    adapter = row["kind"] == "adapter"
    student = ModelRef(
        name=name,
        base_artifact=row["base_artifact"] if adapter else row["artifact"],
        adapter_artifact=row["artifact"] if adapter else None,
        base=(row["base_id"] or "") if adapter else "",
    )
    asked = [
        (who, {"model": ref.name, **_greedy(job)}) for who, ref in ((STUDENT, student), (BASE, job.untrained))
    ]
    content = lines({HELD: prompts.held_out}, asked)
    models = {student.name: student, job.untrained.name: job.untrained}
    batch, write = _batch(platform, ctx, content, models, {}, {})
    told = {"phase": "measuring", "fine_tuned_model": name, "exam_batch": batch.id}
    return Waiting([batch], told, write=write)


def _compare(platform: Platform, ctx: JobContext, job: Distill, prompts: Prompts) -> Outcome:
    taught = _answers(platform, ctx, "teacher_batch", f"asking {job.teacher}")
    examined = _answers(platform, ctx, "exam_batch", "asking student and base")
    said = {
        who: _said(prompts, taught if who == TEACHER else examined, who) for who in (TEACHER, STUDENT, BASE)
    }
    held_out = {who: figures(prompts.held_out, given, said[TEACHER]) for who, given in said.items()}
    main = "token_f1" if "token_f1" in held_out[STUDENT] else "agreement"
    ctx.event(
        "message",
        f"held out: {main} " + ", ".join(f"{one.get(main, 0):.3f} {who}" for who, one in held_out.items()),
        {"held_out": held_out},
    )
    progress = ctx.job.progress
    student = str(progress["fine_tuned_model"])
    told = {
        "teacher": job.teacher,
        "base": job.base.model,
        "answers": progress["answers"],
        "held_out": held_out,
        "distilled_by": ctx.job.id,
    }
    return Outcome(
        result={
            "model": student,
            "kind": "distillation",
            **told,
            "training_file": progress["training_file"],
            "jobs": {name: progress[name] for name in ("teacher_batch", "fine_tuning_job", "exam_batch")},
        },
        write=lambda connection: repository.note(
            connection, ctx.job.tenant_id, student, {"distillation": told}
        ),
    )


def _said(prompts: Prompts, answers: Answers, who: str) -> list[str | None]:
    return [answers.texts.get(custom_id(HELD, place, who)) for place in range(len(prompts.held_out))]


def _decoding(job: Distill) -> dict[str, Any]:
    """What a teacher's request has beside its messages; a task's version sets that by itself."""
    if job.teacher.startswith(PREFIX):
        return {}
    return {**_DEFAULTS, **_given(job.generation), "seed": job.seed}


def _greedy(job: Distill) -> dict[str, Any]:
    return {
        "max_tokens": _given(job.generation).get("max_tokens", _DEFAULTS["max_tokens"]),
        "temperature": 0.0,
    }


def _given(generation: Generation) -> dict[str, Any]:
    return {name: value for name, value in generation if value != "auto"}


def _validation(job: Distill) -> DataRef | None:
    """What the student's training watches: held-out rows as they are, where they come by themselves."""
    if job.validation is not None:
        return job.validation
    return job.training if job.training.kind == "version" else None


def _batch(
    platform: Platform,
    ctx: JobContext,
    content: bytes,
    models: dict[str, ModelRef],
    tasks: dict[str, TaskRoute],
    registered: dict[str, RegisteredRoute],
) -> tuple[NewJob, Callable[[Connection], None]]:
    """A batch of chats as a part of this job, and what adds its input file."""
    artifact, size = platform.artifacts.put(io.BytesIO(content))
    file_id, pool = new_id("file-"), platform.settings.pool
    contract = Batch(
        input_file_id=file_id,
        artifact=artifact,
        endpoint=CHAT,
        models=models,
        tasks=tasks,
        registered=registered,
        pool=pool,
    )

    def write(connection: Connection) -> None:
        repository.add_file(
            connection,
            file_id,
            ctx.job.tenant_id,
            filename=f"{ctx.job.id}_prompts.jsonl",
            purpose="batch",
            size=size,
            artifact=artifact,
            job_id=ctx.job.id,
        )

    return ctx.part(contract, Batch.queue_for(pool)), write


def _answers(platform: Platform, ctx: JobContext, part: str, what: str) -> Answers:
    result = _ended(ctx, part, what)
    files = [result[name] for name in ("output_file_id", "error_file_id") if result.get(name)]
    with ctx.transaction() as connection:
        artifacts = [repository.file_artifact(connection, file_id) for file_id in files]
    return read_answers(_lines(platform, artifacts))


def _lines(platform: Platform, artifacts: Sequence[str]) -> Iterator[bytes]:
    for artifact in artifacts:
        with platform.artifacts.open(artifact) as source:
            yield from source


def _ended(ctx: JobContext, part: str, what: str) -> dict[str, Any]:
    """The result of a part. Raises HeliuError with why it ended without one."""
    job_id = str(ctx.job.progress[part])
    with ctx.transaction() as connection:
        state, result, error = repository.part(connection, job_id)
    if state != Status.SUCCEEDED.value:
        raise HeliuError(
            f"{what} (job {job_id}) ended as {state}: {error.get('message', 'it was not finished')}",
            code=str(error.get("code", "part_failed")),
            param=error.get("param"),
        )
    return result
