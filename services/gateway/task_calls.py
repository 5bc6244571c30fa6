"""A chat that names a task: which version it gets, its variables bound and guarded, and the trip of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import Response

from services.gateway import task_store
from services.gateway.auth import Caller
from services.gateway.completions import complete
from services.gateway.context import Gateway
from shared import semconv
from shared.contracts import answers
from shared.contracts.chat import parse_chat
from shared.contracts.inference import CompletionRequest
from shared.errors import InvalidInput, NotFound
from shared.task.bind import TaskVersion, bind, task_name
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
    request: Request, gateway: Gateway, call: TaskCall, *, resumable: bool = False
) -> Response:
    """Answer with the version that this caller gets; refused by an input guard, no model hears of it."""
    task, asked = await to_thread.run_sync(prepare, request, gateway, call)
    try:
        return await complete(request, gateway, answers.CHAT, asked, task, resumable=resumable)
    except NotFound as exc:
        if exc.code != "model_not_found":
            raise
        raise NotFound(
            f"{task.label} runs on the model {task.spec.model!r}, which is there no more; add a version on another",
            code=exc.code,
            param="model",
        ) from exc


def prepare(request: Request, gateway: Gateway, call: TaskCall) -> tuple[TaskVersion, CompletionRequest]:
    """The version that this caller gets, and the request for its model. Raises what `bind` raises."""
    caller: Caller = request.state.caller
    gateway.limiter.check_tokens(caller)
    key = _split_key(call.body) or request.state.request_id
    with gateway.db.transaction(caller.tenant) as connection:
        task = task_store.for_call(connection, caller.tenant, call.name, call.version, key)
    attributes = {semconv.TASK: task.name, semconv.TASK_VERSION: task.version}
    request.state.span.set_all(attributes)
    with gateway.platform.tracing.span(
        "guard.input", parent=request.state.span.traceparent, attributes=attributes
    ):
        # Compiled here in a thread, and not at the first token, which the loop of all streams would wait for.
        patterns_of(tuple(task.spec.guards.output.blocked))
        return task, bind(task, call.body)


def _split_key(body: Mapping[str, Any]) -> str | None:
    """What stands for the caller's own user, so that one user always gets one version."""
    user = body.get("user")
    if user is not None and (not isinstance(user, str) or len(user) > 512):
        raise InvalidInput("user must be a string of 512 characters at most", param="user")
    return user or None
