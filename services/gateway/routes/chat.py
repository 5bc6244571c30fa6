"""`/v1/chat/completions` and `/v1/completions`, plain and streamed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.gateway.bodies import read_as
from services.gateway.completions import complete
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from services.gateway.task_calls import TaskCall, complete_task, parse_call
from shared.contracts import answers
from shared.contracts.chat import ChatBody
from shared.contracts.completions import CompletionBody, parse_completion

router = APIRouter(tags=["chat"])

CHAT_EXAMPLE = {"model": "base-1m", "messages": [{"role": "user", "content": "你好"}], "stream": True}
TEXT_EXAMPLE = {"model": "base-1m", "prompt": "Refunds take", "max_tokens": 24}


@router.post(
    answers.CHAT,
    summary="Chat with a model",
    response_model=None,
    **json_body(ChatBody, CHAT_EXAMPLE, streams=True),
)
async def create_chat(request: Request, gateway: GatewayDep) -> Response:
    """What is not served (images, audio, ...) is refused by name, never ignored. `task:NAME` is a model too, its
    variables an object in the further field `variables`, or else the last user message."""
    asked = await read_as(request, parse_call)
    if isinstance(asked, TaskCall):
        return await complete_task(request, gateway, asked)
    return await complete(request, gateway, answers.CHAT, asked)


@router.post(
    answers.TEXT,
    summary="Go on with a text",
    response_model=None,
    **json_body(CompletionBody, TEXT_EXAMPLE, streams=True),
)
async def create_text(request: Request, gateway: GatewayDep) -> Response:
    """One or more prompts, texts or tokens; what is not served (echo, suffix, best_of) is refused by name."""
    return await complete(request, gateway, answers.TEXT, await read_as(request, parse_completion))
