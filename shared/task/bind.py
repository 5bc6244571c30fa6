"""From a request for a task to the request for its model: variables bound, guarded, rendered; settings laid over.

Pure. Both doors use it: the live route with a body, a batch with a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.contracts.chat import parse_chat
from shared.contracts.inference import ChatMessage, CompletionRequest
from shared.contracts.retrieval import MAX_QUERY
from shared.contracts.task import NAME, PREFIX, TaskSpec
from shared.errors import InvalidInput
from shared.task.citations import VARIABLE, Sources
from shared.task.guards import guard_input
from shared.task.template import render
from shared.task.variables import values

# Names of one setting; who sets one of them has set them all.
ALIKE = {"max_tokens": ("max_completion_tokens",), "response_format": ("structured_outputs",)}
ALIKE |= {other: (name,) for name, (other,) in list(ALIKE.items())}


@dataclass(frozen=True)
class TaskVersion:
    """One version of a tenant's task."""

    id: str
    name: str
    version: int
    spec: TaskSpec

    @property
    def label(self) -> str:
        """`NAME@VERSION`; with `task:` before it, the model that asks for this version alone."""
        return f"{self.name}@{self.version}"

    @property
    def metadata(self) -> dict[str, Any]:
        """What the ledger keeps."""
        return {"task": self.name, "task_version": self.version}


def task_name(model: Any) -> tuple[str, int | None] | None:
    """(name, version or None) of `task:NAME` or `task:NAME@VERSION`; None for a model. Raises InvalidInput."""
    if not isinstance(model, str) or not model.startswith(PREFIX):
        return None
    name, at, version = model.removeprefix(PREFIX).partition("@")
    if not NAME.fullmatch(name) or (
        at and not (version.isascii() and version.isdigit() and len(version) < 8)
    ):
        raise InvalidInput(
            f"{model[:120]!r} is no task; write task:NAME, or task:NAME@3 for its version 3", param="model"
        )
    return name, int(version) if at else None


def question(task: TaskVersion, body: Mapping[str, Any]) -> str:
    """What a task with retrieval searches for. Raises as `bind` does."""
    spec = task.spec
    assert spec.retrieval is not None
    _refuse_set(task, body)
    bound = _guarded(spec, values(spec.variables, _split(task, body)[0]))
    if spec.retrieval.query is not None:
        text = render(spec.retrieval.query, bound, f"the query of {task.label}").strip()
    else:
        text = str(bound[input_variable(spec) or ""]).strip()
    if not text:
        raise InvalidInput(f"there is nothing that {task.label} could search for", param="variables")
    return text[:MAX_QUERY]


def bind(task: TaskVersion, body: Mapping[str, Any], sources: Sources | None = None) -> CompletionRequest:
    """The request for the task's model; a task with retrieval needs what was found for its `question`.

    Raises InvalidInput with the place in `body`, and Refused by a guard.
    """
    spec = task.spec
    if spec.retrieval is not None and sources is None:
        raise InvalidInput(
            f"{task.label} answers from a vector store, which is served in live chats and in batches; leave out "
            "background and resumable",
            code="unsupported_parameter",
            param="model",
        )
    _refuse_set(task, body)
    given, history = _split(task, body)
    bound = _guarded(spec, values(spec.variables, given))
    if sources is not None:
        bound[VARIABLE] = sources.text
    settings = {
        name: value
        for name, value in (
            *spec.decoding.items(),
            ("response_format", spec.response_format),
            ("structured_outputs", spec.structured_outputs),
        )
        if value is not None
    }
    # What blocks of a template leave at its ends would only keep a model from going on.
    prompt = render(spec.prompt, bound, f"the prompt of {task.label}").strip()
    if not prompt:
        raise InvalidInput(f"the prompt of {task.label} is empty with these variables", param="variables")
    rest = {name: value for name, value in body.items() if name not in ("variables", "messages", "model")}
    asked = parse_chat(
        {
            **rest,
            **settings,
            "model": spec.model,
            "messages": [*history, {"role": "user", "content": prompt}],
        }
    )
    system = render(spec.system, bound, f"the system text of {task.label}").strip() if spec.system else ""
    return _with_messages(task, asked, system)


def _refuse_set(task: TaskVersion, body: Mapping[str, Any]) -> None:
    """What a version sets is not the caller's to set; nothing is quietly overruled."""
    spec = task.spec
    fixed = {name for name, value in spec.decoding.items() if value is not None}
    fixed |= {name for name in ("response_format", "structured_outputs") if getattr(spec, name) is not None}
    fixed |= {other for name in fixed for other in ALIKE.get(name, ())}
    for name in sorted(fixed & body.keys()):
        if body[name] is not None:
            raise InvalidInput(
                f"{name} is set by {task.label}; leave it out", code="unsupported_parameter", param=name
            )
    for name in ("logprobs", "tools"):
        if not spec.guards.output.empty and body.get(name):
            raise InvalidInput(
                f"{name} would carry what the output guards of {task.label} hold back; leave it out",
                code="unsupported_parameter",
                param=name,
            )


def _split(task: TaskVersion, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """(variables, earlier messages). The last user message is the input variable where none is sent by its name."""
    given, messages = body.get("variables"), body.get("messages")
    if given is not None and not isinstance(given, dict):
        raise InvalidInput("variables must be an object of names and values", param="variables")
    if messages is not None and not isinstance(messages, list):
        raise InvalidInput("messages must be a list", param="messages")
    found, history = dict(given or {}), list(messages or [])
    name = input_variable(task.spec)
    if name is not None and found.get(name) is None and history:
        found[name] = _said(history.pop(), len(history))
    elif name is None and given is None and history:
        raise InvalidInput(
            f"{task.label} has no variable that a message is bound to; send its variables "
            f"({', '.join(task.spec.variables) or 'it has none: {}'}) in the field variables",
            code="missing_required_parameter",
            param="variables",
        )
    return found, history


def input_variable(spec: TaskSpec) -> str | None:
    """The variable that `input` names, or else the only string that a caller must send."""
    if spec.input is not None:
        return spec.input
    needed = [name for name, variable in spec.variables.items() if variable.needed]
    return needed[0] if len(needed) == 1 and spec.variables[needed[0]].type == "string" else None


def _said(message: Any, index: int) -> str:
    place = f"messages[{index}]"
    if not isinstance(message, dict) or message.get("role") != "user":
        raise InvalidInput(f"{place} must be a user message: the task answers the last one", param=place)
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    if isinstance(content, str):
        return content
    raise InvalidInput(f"{place}.content must be text", param=f"{place}.content")


def _guarded(spec: TaskSpec, bound: dict[str, Any]) -> dict[str, Any]:
    """The variables with their free texts guarded; enums are the task's own words."""
    places: list[tuple[str, int | None]] = []
    texts = []
    for name, value in bound.items():
        for index, text in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(text, str) and spec.variables[name].type != "enum":
                places.append((name, index))
                texts.append((f"variables.{name}" + (f"[{index}]" if index is not None else ""), text))
    clean = dict(bound) | {name: list(value) for name, value in bound.items() if isinstance(value, list)}
    for (name, index), text in zip(places, guard_input(spec.guards.input, texts), strict=True):
        if index is None:
            clean[name] = text
        else:
            clean[name][index] = text
    return clean


def _with_messages(task: TaskVersion, asked: CompletionRequest, system: str) -> CompletionRequest:
    """The earlier messages guarded too, without bounds of length, and the system text before them."""
    *history, prompt = asked.messages
    guard = task.spec.guards.input.model_copy(
        update={"min_chars": None, "max_chars": None, "languages": None}
    )
    texts = [
        (index, message.content)
        for index, message in enumerate(history)
        if isinstance(message.content, str) and message.content
    ]
    clean = guard_input(guard, [(f"messages[{index}].content", text) for index, text in texts])
    for (index, _), text in zip(texts, clean, strict=True):
        history[index] = history[index].model_copy(update={"content": text})
    if system and any(message.role in ("system", "developer") for message in history):
        raise InvalidInput(
            f"{task.label} sets the system text; leave system and developer messages out", param="messages"
        )
    before = [ChatMessage(role="system", content=system)] if system else []
    return asked.model_copy(update={"messages": (*before, *history, prompt)})
