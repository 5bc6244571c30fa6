"""A chat that names a task: which version it gets, its variables bound and guarded, and the trip of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import Response

from services.gateway.adaptation import store as task_store
from services.gateway.answering.completions import complete
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.vector_stores import files as vector_files
from services.gateway.vector_stores import repository as vector_stores_repository
from services.gateway.vector_stores import retrieval
from shared import semconv
from shared.contracts import answers
from shared.contracts.chat import parse_chat
from shared.contracts.inference import CompletionRequest
from shared.contracts.retrieval import Passage
from shared.contracts.task import Retrieval
from shared.db import Row
from shared.errors import InvalidInput, NotFound
from shared.task.bind import TaskVersion, bind, question, task_name
from shared.task.citations import Sources, sources_of
from shared.task.guards import patterns_of


@dataclass(frozen=True)
class TaskCall:
    """A request for a task; its body is checked when its version is known."""

    name: str
    version: int | None
    body: Mapping[str, Any]


def parse_call(body: Mapping[str, Any]) -> TaskCall | CompletionRequest:
    """A chat, with a task or with a model. Raises InvalidInput with the place."""
    named = task_name(body.get("model"))
    return parse_chat(body) if named is None else TaskCall(*named, body)


async def complete_task(
    request: Request,
    gateway: Gateway,
    call: TaskCall,
    *,
    resumable: bool = False,
    stored: dict[str, str] | None = None,
) -> Response:
    """Answer with the version that this caller gets; refused by an input guard, no model hears of it."""
    task = await to_thread.run_sync(_version, request, gateway, call)
    sources = said = None
    if task.spec.retrieval is not None and not resumable:
        sources = await _found(request, gateway, task, task.spec.retrieval, call.body)
        said = task.spec.retrieval.unknown if not sources.passages else None
    asked = await to_thread.run_sync(_bound, request, gateway, task, call.body, sources)
    try:
        return await complete(
            request,
            gateway,
            answers.CHAT,
            asked,
            task,
            resumable=resumable,
            sources=sources,
            said=said,
            stored=stored,
        )
    except NotFound as exc:
        if exc.code != "model_not_found":
            raise
        raise NotFound(
            f"{task.label} runs on the model {task.spec.model!r}, which is there no more; add a version on another",
            code=exc.code,
            param="model",
        ) from exc


async def _found(
    request: Request, gateway: Gateway, task: TaskVersion, wanted: Retrieval, body: Mapping[str, Any]
) -> Sources:
    """The passages that answer this question, none where none has the score that the task asks for."""
    caller: Caller = request.state.caller

    def look() -> tuple[str, Row]:
        asked = question(task, body)
        with gateway.db.transaction(caller.tenant) as connection:
            try:
                row = vector_files.store(connection, caller, wanted.vector_store, usable=True)
            except NotFound as exc:
                raise NotFound(
                    f"{task.label} answers from the vector store {wanted.vector_store!r}, which is there no more; add "
                    "a version on another",
                    param="model",
                ) from exc
            vector_stores_repository.touch(connection, row["id"])
            return asked, row

    text, row = await to_thread.run_sync(look)
    search = retrieval.Wanted((text,), limit=wanted.max_results, min_score=wanted.min_score)
    found = await retrieval.search(request, gateway, row, search)
    passages = [Passage(**{name: hit[name] for name in Passage.model_fields}) for hit in found["results"]]
    return sources_of(row["id"], passages)


def prepare(request: Request, gateway: Gateway, call: TaskCall) -> tuple[TaskVersion, CompletionRequest]:
    """The version that this caller gets, and the request for its model. Raises what `bind` raises."""
    task = _version(request, gateway, call)
    return task, _bound(request, gateway, task, call.body, None)


def _version(request: Request, gateway: Gateway, call: TaskCall) -> TaskVersion:
    caller: Caller = request.state.caller
    gateway.limiter.check_tokens(caller)
    key = _split_key(call.body) or request.state.request_id
    with gateway.db.transaction(caller.tenant) as connection:
        task = task_store.for_call(connection, caller.tenant, call.name, call.version, key)
    request.state.span.set_all(_attributes(task))
    return task


def _attributes(task: TaskVersion) -> dict[str, Any]:
    return {semconv.TASK: task.name, semconv.TASK_VERSION: task.version}


def _bound(
    request: Request, gateway: Gateway, task: TaskVersion, body: Mapping[str, Any], sources: Sources | None
) -> CompletionRequest:
    attributes = _attributes(task)
    with gateway.platform.tracing.span(
        "guard.input", parent=request.state.span.traceparent, attributes=attributes
    ):
        # Compiled here in a thread, and not at the first token, which the loop of all streams would wait for.
        patterns_of(tuple(task.spec.guards.output.blocked))
        return bind(task, body, sources)


def _split_key(body: Mapping[str, Any]) -> str | None:
    """What stands for the caller's own user, so that one user always gets one version."""
    user = body.get("user")
    if user is not None and (not isinstance(user, str) or len(user) > 512):
        raise InvalidInput("user must be a string of 512 characters at most", param="user")
    return user or None
