"""Chat and text completions: live ones, those made in the background, and streams that are taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.gateway import delivery, sse
from services.gateway.bodies import read_as
from services.gateway.completions import complete
from services.gateway.context import GatewayDep
from services.gateway.delivery import ChatDelivery, Delivery, TextDelivery
from services.gateway.docs import EVENTS, json_body
from services.gateway.taken_up import take_up
from services.gateway.task_calls import TaskCall, complete_task, parse_call
from shared.contracts import answers
from shared.contracts.completions import parse_completion
from shared.contracts.inference import CompletionRequest
from shared.errors import InvalidInput

router = APIRouter(tags=["chat"])

CHAT_EXAMPLE = {"model": "base-1m", "messages": [{"role": "user", "content": "你好"}], "stream": True}
TEXT_EXAMPLE = {"model": "base-1m", "prompt": "Refunds take", "max_tokens": 24}

Asked = tuple[Delivery, CompletionRequest | TaskCall]
AnswerId = Annotated[str, Path(min_length=1, max_length=128)]


def _parser(check: Callable[[Mapping[str, Any]], CompletionRequest | TaskCall]) -> Callable[[Any], Asked]:
    def parse(body: Mapping[str, Any]) -> Asked:
        how, rest = delivery.split(body)
        if how.background:
            raise InvalidInput("background is not served yet", param="background")
        return how, check(rest)

    return parse


@router.post(
    answers.CHAT,
    summary="Chat with a model",
    response_model=None,
    **json_body(ChatDelivery, CHAT_EXAMPLE, streams=True),
)
async def create_chat(request: Request, gateway: GatewayDep) -> Response:
    """What is not served (images, audio, ...) is refused by name, never ignored. `task:NAME` is a model too, its
    variables an object in the further field `variables`, or else the last user message. A stream with `resumable`
    names in Content-Location where it is taken up with `Last-Event-ID`."""
    how, asked = await read_as(request, _parser(parse_call))
    if isinstance(asked, TaskCall):
        return await complete_task(request, gateway, asked, resumable=bool(how.resumable))
    return await complete(request, gateway, answers.CHAT, asked, resumable=bool(how.resumable))


@router.post(
    answers.TEXT,
    summary="Go on with a text",
    response_model=None,
    **json_body(TextDelivery, TEXT_EXAMPLE, streams=True),
)
async def create_text(request: Request, gateway: GatewayDep) -> Response:
    """One or more prompts, texts or tokens; what is not served (echo, suffix, best_of) is refused by name. Streams
    may be `resumable`, as those of chats."""
    how, asked = await read_as(request, _parser(parse_completion))
    assert isinstance(asked, CompletionRequest)
    return await complete(request, gateway, answers.TEXT, asked, resumable=bool(how.resumable))


@router.get(
    f"{answers.CHAT}/{{answer_id}}", summary="Take up a chat's stream", response_model=None, responses=EVENTS
)
async def take_up_chat(
    request: Request, gateway: GatewayDep, answer_id: AnswerId, include_usage: bool = False
) -> Response:
    """The rest of a resumable stream behind `Last-Event-ID`, or all of it."""
    return await _take_up(request, gateway, answers.CHAT, answer_id, include_usage)


@router.get(
    f"{answers.TEXT}/{{answer_id}}", summary="Take up a text's stream", response_model=None, responses=EVENTS
)
async def take_up_text(
    request: Request, gateway: GatewayDep, answer_id: AnswerId, include_usage: bool = False
) -> Response:
    """The same as for a chat."""
    return await _take_up(request, gateway, answers.TEXT, answer_id, include_usage)


async def _take_up(
    request: Request, gateway: GatewayDep, endpoint: str, answer_id: str, include_usage: bool
) -> Response:
    return sse.EventStream(await take_up(request, gateway, endpoint, answer_id, include_usage=include_usage))
