"""Tools of a chat: functions that a model may call, which of them it must, and the calls that it made. Pure.

Shapes after https://platform.openai.com/docs/guides/function-calling; `custom` tools are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.contracts.inference import Tool, ToolCall
from shared.contracts.structured import json_schema
from shared.errors import InvalidInput

MAX_TOOLS = 128
MAX_DESCRIPTION = 16_384
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Function(_Form):
    name: str
    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a function's name has 1 to 64 of A-Z, a-z, 0-9, _, . and -")
        return value


class ToolForm(_Form):
    """One of `tools`."""

    type: Literal["function"]
    function: _Function


class _Named(_Form):
    name: str = Field(min_length=1, max_length=64)


class NamedChoice(_Form):
    """`tool_choice` of one function."""

    type: Literal["function"]
    function: _Named


class _CallFunction(_Form):
    name: str = Field(min_length=1, max_length=64)
    arguments: str = Field(max_length=1024 * 1024)


class CallForm(_Form):
    """One of `tool_calls` of an assistant's message that is sent back."""

    id: str = Field(min_length=1, max_length=128)
    type: Literal["function"]
    function: _CallFunction


def read_tools(
    forms: Sequence[ToolForm] | None, choice: str | NamedChoice | None
) -> tuple[tuple[Tool, ...], str | None]:
    """(tools to tell the model of, `required`, a function's name, or None where the model is free).

    With `tool_choice` "none" there are none. Raises InvalidInput with the place.
    """
    tools = tuple(_tool(index, form.function) for index, form in enumerate(forms or ()))
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(
                f"tools[{index}].function.name {name!r} is that of an earlier tool too",
                param=f"tools[{index}].function.name",
            )
    if isinstance(choice, NamedChoice):
        if choice.function.name not in names:
            raise InvalidInput(
                f"tool_choice names {choice.function.name!r}, which is none of tools: {names or 'none'}",
                param="tool_choice",
            )
        return tools, choice.function.name
    if choice not in (None, "none", "auto", "required"):
        raise InvalidInput(
            f"tool_choice must be 'none', 'auto', 'required' or a function by name, got {choice!r}",
            param="tool_choice",
        )
    if choice == "required" and not tools:
        raise InvalidInput("tool_choice is 'required', but there are no tools", param="tool_choice")
    return (() if choice == "none" else tools), ("required" if choice == "required" else None)


def _tool(index: int, function: _Function) -> Tool:
    place = f"tools[{index}].function.parameters"
    parameters = function.parameters or {"type": "object", "properties": {}}
    if parameters.get("type", "object") != "object":
        raise InvalidInput(f"{place}.type must be 'object', got {parameters['type']!r}", param=place)
    json_schema(parameters, place)
    return Tool(
        name=function.name,
        description=function.description,
        parameters=json.dumps(parameters, ensure_ascii=False),
    )


def read_call(form: CallForm, place: str) -> ToolCall:
    """A call that is sent back. Raises InvalidInput for arguments that are no JSON object."""
    try:
        arguments = json.loads(form.function.arguments)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(
            f"{place}.function.arguments is no JSON: {exc}", param=f"{place}.function.arguments"
        ) from exc
    if not isinstance(arguments, dict):
        raise InvalidInput(
            f"{place}.function.arguments must be a JSON object", param=f"{place}.function.arguments"
        )
    return ToolCall(id=form.id, name=form.function.name, arguments=form.function.arguments)


def tool_object(tool: Tool) -> dict[str, Any]:
    """A tool as a request of OpenAI's API has it."""
    function: dict[str, Any] = {"name": tool.name, "parameters": json.loads(tool.parameters)}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def call_objects(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """The calls of an assistant's message as that API has them."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]
