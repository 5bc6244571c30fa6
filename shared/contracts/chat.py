"""The body of a chat completion request, checked the same way for the live route and for each row of a batch.

What the platform cannot do is refused by name; nothing that changes an answer is ever ignored. Shapes after
https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.contracts.decoding import DecodingBody, check_text, read_body, short, user_of
from shared.contracts.inference import ChatMessage, CompletionRequest
from shared.contracts.tools import MAX_TOOLS, CallForm, NamedChoice, ToolForm, read_call, read_tools
from shared.errors import InvalidInput

MAX_MESSAGES = 2048
ROLES = ("system", "developer", "user", "assistant", "tool")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    text: str

    @field_validator("type")
    @classmethod
    def _text_only(cls, value: str) -> str:
        if value != "text":
            raise ValueError(f"content parts of type {short(value)} are not served; only 'text' is")
        return value


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: Annotated[list[CallForm], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = Field(default=None, min_length=1, max_length=128)
    # An answer that a client sends back as it came has these, empty.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value not in ROLES:
            raise ValueError(f"role {short(value)} is not served; use {', '.join(ROLES)}")
        return value


class ChatBody(DecodingBody):
    unserved: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "reasoning_effort": (None,),
        "verbosity": (None,),
        "web_search_options": (None,),
        "store": (None, False),
    }

    messages: list[_Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=131_072)
    tools: list[ToolForm] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: str | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


UNSERVED = ChatBody.unserved


def parse_chat(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises InvalidInput whose `param` is the place: `messages[2].content`."""
    parsed = read_body(ChatBody, body, shapes=("list[_Part]", "NamedChoice"))
    if parsed.max_tokens is not None and parsed.max_completion_tokens is not None:
        raise InvalidInput("give max_tokens or max_completion_tokens, not both", param="max_tokens")
    if parsed.top_logprobs and not parsed.logprobs:
        raise InvalidInput("top_logprobs is only allowed with logprobs=true", param="top_logprobs")
    tools, tool_choice = read_tools(parsed.tools, parsed.tool_choice)
    sampling = parsed.sampling(
        max_tokens=parsed.max_completion_tokens or parsed.max_tokens,
        top_logprobs=(parsed.top_logprobs or 0) if parsed.logprobs else None,
    )
    if sampling.grammar is not None and tool_choice is not None:
        raise InvalidInput(
            "a form of the answer and a tool that must be called exclude each other; leave one out",
            param="tool_choice",
        )
    return CompletionRequest(
        model=parsed.model,
        user=user_of(body),
        messages=tuple(_message(index, message) for index, message in enumerate(parsed.messages)),
        n=parsed.n or 1,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parsed.parallel_tool_calls is not False,
        sampling=sampling,
        stream=bool(parsed.stream),
        include_usage=bool(parsed.stream_options and parsed.stream_options.include_usage),
    )


def _message(index: int, message: _Message) -> ChatMessage:
    place = f"messages[{index}]"
    given = message.content
    if given is None and not message.tool_calls:
        raise InvalidInput(
            f"{place}.content: only a message with tool_calls may go without",
            code="missing_required_parameter",
            param=f"{place}.content",
        )
    content = given if isinstance(given, str) else "".join(part.text for part in given or ())
    check_text(content, f"{place}.content")
    if message.tool_calls and message.role != "assistant":
        raise InvalidInput(f"{place}.tool_calls are an assistant's alone", param=f"{place}.tool_calls")
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise InvalidInput(
            f"{place}.tool_call_id goes with role 'tool', which needs it", param=f"{place}.tool_call_id"
        )
    calls = [
        read_call(call, f"{place}.tool_calls[{number}]")
        for number, call in enumerate(message.tool_calls or ())
    ]
    return ChatMessage.model_validate(
        {
            "role": message.role,
            "content": content,
            "tool_calls": tuple(calls),
            "tool_call_id": message.tool_call_id,
        }
    )
