"""Chat and text completions: live ones, those made in the background, and streams that are taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from services.gateway.adaptation.calls import TaskCall, complete_task, parse_call
from services.gateway.answering import background, delivery, sse
from services.gateway.answering import stored as stored_chats
from services.gateway.answering.completions import complete
from services.gateway.answering.delivery import ChatDelivery, ChatOrder, Delivery, TextDelivery
from services.gateway.answering.places import HEADER
from services.gateway.answering.stored_shapes import completion_object
from services.gateway.answering.taken_up import take_up
from services.gateway.bodies import described, read_as
from services.gateway.context import Gateway, GatewayDep
from services.gateway.docs import EVENTS, json_body
from shared.contracts import answers
from shared.contracts.background import ChatJob, answer_of
from shared.contracts.completions import parse_completion
from shared.contracts.inference import CompletionRequest
from shared.errors import NotFound

router = APIRouter(tags=["chat"])

CHAT_EXAMPLE = {"model": "base-1m", "messages": [{"role": "user", "content": "你好"}], "stream": True}
TEXT_EXAMPLE = {"model": "base-1m", "prompt": "Refunds take", "max_tokens": 24}

D = TypeVar("D", bound=Delivery)
Asked = tuple[D, CompletionRequest | TaskCall, Mapping[str, Any]]
AnswerId = Annotated[str, Path(min_length=1, max_length=128)]


def _parser(
    form: type[D], check: Callable[[Mapping[str, Any]], CompletionRequest | TaskCall]
) -> Callable[[Any], Asked[D]]:
    def parse(body: Mapping[str, Any]) -> Asked[D]:
        how, rest = delivery.split(body, form)
        return how, check(rest), body

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
    names in Content-Location where it is taken up with `Last-Event-ID`. With `background` the answer is a job (202),
    fetched or streamed later from its Location; with `stream` too, the stream is there at once, and may be left. With
    `store` it is kept under its `metadata`: an answer that comes whole, or a stream that ends with [DONE], is there."""
    how, asked, body = await read_as(request, _parser(ChatOrder, parse_call))
    stored = (delivery.labels(body) or {}) if how.stored else None
    if how.background:
        return await background.accept(
            request, gateway, answers.CHAT, described(request, how, body), asked, body
        )
    if isinstance(asked, TaskCall):
        return await complete_task(request, gateway, asked, resumable=bool(how.resumable), stored=stored)
    return await complete(request, gateway, answers.CHAT, asked, resumable=bool(how.resumable), stored=stored)


@router.post(
    answers.TEXT,
    summary="Go on with a text",
    response_model=None,
    **json_body(TextDelivery, TEXT_EXAMPLE, streams=True),
)
async def create_text(request: Request, gateway: GatewayDep) -> Response:
    """One or more prompts, texts or tokens; what is not served (echo, suffix, best_of) is refused by name. `resumable`
    and `background` are as for chats."""
    how, asked, body = await read_as(request, _parser(Delivery, parse_completion))
    if how.background:
        return await background.accept(
            request, gateway, answers.TEXT, described(request, how, body), asked, body
        )
    assert isinstance(asked, CompletionRequest)
    return await complete(request, gateway, answers.TEXT, asked, resumable=bool(how.resumable))


@router.get(
    f"{answers.CHAT}/{{answer_id}}",
    summary="A chat that was asked for before",
    response_model=None,
    responses=EVENTS,
)
async def retrieve_chat(
    request: Request,
    gateway: GatewayDep,
    answer_id: AnswerId,
    stream: bool = False,
    include_usage: bool = False,
) -> Response:
    """An answer made in the background (status 202 with its job until it is there), or with
    `Accept: text/event-stream` or `?stream=true` its stream, at any time; or the stream of a live answer that was
    asked for with `resumable`. A stream goes on behind `Last-Event-ID`, or begins at the beginning. What was stored
    with `store` is answered whole, with its metadata and settings."""
    by_answer = not answer_id.startswith(ChatJob.id_prefix)
    if by_answer and not _streamed(request, stream) and HEADER not in request.headers:
        kept = await to_thread.run_sync(stored_chats.find, gateway, request.state.caller, answer_id)
        if kept is not None:
            return JSONResponse(completion_object(kept))
    return await _retrieve(request, gateway, answers.CHAT, answer_id, stream, include_usage)


@router.get(
    f"{answers.TEXT}/{{answer_id}}",
    summary="A text that was asked for before",
    response_model=None,
    responses=EVENTS,
)
async def retrieve_text(
    request: Request,
    gateway: GatewayDep,
    answer_id: AnswerId,
    stream: bool = False,
    include_usage: bool = False,
) -> Response:
    """The same as for a chat."""
    return await _retrieve(request, gateway, answers.TEXT, answer_id, stream, include_usage)


def _streamed(request: Request, stream: bool) -> bool:
    return stream or "text/event-stream" in request.headers.get("accept", "")


async def _retrieve(
    request: Request, gateway: Gateway, endpoint: str, answer_id: str, stream: bool, include_usage: bool
) -> Response:
    fetch = partial(
        background.fetch,
        request,
        gateway,
        endpoint,
        stream=_streamed(request, stream),
        include_usage=include_usage,
    )
    if answer_id.startswith(ChatJob.id_prefix):
        return await fetch(answer_id)
    try:
        return sse.EventStream(
            await take_up(request, gateway, endpoint, answer_id, include_usage=include_usage)
        )
    except NotFound:
        # By the name that the answer itself has.
        job_id = ChatJob.id_prefix + answer_id.partition("-")[2]
        if answer_of(job_id, endpoint) != answer_id:
            raise
        try:
            return await fetch(job_id)
        except NotFound:
            pass
        raise
