"""Chats that were stored with `store`: listed, labelled, deleted, and their messages; one of them is routes.chat's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from services.gateway.answering import stored, stored_repository
from services.gateway.answering.stored_shapes import completion_object, message_object
from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes
from services.gateway.jobs.metadata import Metadata, wanted_metadata
from services.gateway.jobs.submission import submit
from services.gateway.pages import PageDep, listing, unknown_cursor
from shared import stored_chats
from shared.contracts.answers import CHAT
from shared.contracts.stored_chats import MOST_CHATS, ChatFilter, Chosen, ExportChats, Unix
from shared.db import Connection
from shared.errors import InvalidInput, NotFound
from shared.stored_chats import Found, Place

router = APIRouter(tags=["chat"])

Order = Annotated[Literal["asc", "desc"], Query()]
Time = Annotated[int | None, Query(ge=0, le=253_402_300_799, description="unix seconds, inclusive")]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class UpdateChat(Body):
    metadata: Metadata | None = Field(description="Labels in the place of those it has; null takes all away.")


class ExportBody(Body):
    """Which chats: those of a model and a time with all of these labels, the newest `limit` of them."""

    model: ModelName | None = Field(None, description="A model, task:NAME or registry:NAME that answered.")
    metadata: Metadata | None = Field(None, description="Labels that they all have.")
    created_after: Unix | None = Field(None, description="Unix seconds, inclusive.")
    created_before: Unix | None = Field(None, description="Unix seconds, inclusive.")
    limit: int | None = Field(None, ge=1, le=MOST_CHATS, description="The newest so many; 50000 at most.")
    filename: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        pattern=r"^[^/\x00-\x1f\x7f]+$",
        description="What the file is called.",
    )

    def chosen(self) -> Chosen:
        return Chosen(
            model=self.model,
            metadata=self.metadata or {},
            created_after=self.created_after,
            created_before=self.created_before,
            limit=self.limit or MOST_CHATS,
        )


EXAMPLE = {"model": "task:support-answer", "metadata": {"use": "refunds"}, "limit": 5000}


@router.get(CHAT, summary="List stored chats")
def list_chats(
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    order: Order = "asc",
    model: Annotated[
        str | None, Query(max_length=256, description="a model, task:NAME or registry:NAME")
    ] = None,
    created_after: Time = None,
    created_before: Time = None,
) -> dict[str, Any]:
    """Those that were asked for with `store`, oldest first where no order is given, as OpenAI has it; with
    `metadata[key]=value` those that have this label."""
    wanted = ChatFilter(
        model=model or None,
        metadata=_labels(request),
        created_after=created_after,
        created_before=created_before,
    )
    with gateway.db.transaction(caller.tenant) as connection:
        after = _place(connection, caller, page.after) if page.after is not None else None
        found = stored_chats.page(
            connection, caller.tenant, wanted, after=after, limit=page.limit + 1, order=order
        )
    return listing([completion_object(one) for one in found[: page.limit]], len(found) > page.limit)


def _labels(request: Request) -> dict[str, str]:
    wanted = wanted_metadata(request.query_params) or {}
    for name, value in wanted.items():
        if len(value) > 512:
            raise InvalidInput(
                f"metadata[{name}] has {len(value)} characters; a label has 512 at most", param="metadata"
            )
    return wanted


def _place(connection: Connection, caller: Caller, chat_id: str) -> Place:
    """Where a page goes on; a deleted chat still says it."""
    row = stored_repository.get(connection, caller.tenant, chat_id)
    if row is None:
        raise unknown_cursor(chat_id)
    return Place(row["created_at"], row["number"])


@router.post(
    f"{CHAT}/{{completion_id}}",
    summary="Label a stored chat",
    **json_body(UpdateChat, {"metadata": {"use": "refunds"}}),
)
def update(
    completion_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[UpdateChat], Depends(incoming(UpdateChat))],
) -> dict[str, Any]:
    """Its labels are all that can be changed."""
    tenant = request.caller.tenant
    with gateway.db.transaction(tenant) as connection:
        row = stored_repository.update(connection, tenant, completion_id, request.body.metadata or {})
    if row is None:
        raise _missing(completion_id)
    return completion_object(stored_chats.found(row))


@router.delete(f"{CHAT}/{{completion_id}}", summary="Delete a stored chat")
def delete(completion_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Its texts are gone at once. Files and items of evals that were made of it before keep theirs."""
    with gateway.db.transaction(caller.tenant) as connection:
        if not stored_repository.delete(connection, caller.tenant, completion_id):
            raise _missing(completion_id)
    return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}


@router.get(f"{CHAT}/{{completion_id}}/messages", summary="The messages of a stored chat")
def list_messages(
    completion_id: str, gateway: GatewayDep, caller: CallerDep, page: PageDep, order: Order = "asc"
) -> dict[str, Any]:
    """What the model was sent: of a task its rendered prompt, behind the guards."""
    chat = _chat(gateway, caller, completion_id)
    shown = [message_object(chat.id, at, one) for at, one in enumerate(chat.body.messages)]
    if order == "desc":
        shown.reverse()
    if page.after is not None:
        places = [at for at, one in enumerate(shown) if one["id"] == page.after]
        if not places:
            raise unknown_cursor(page.after)
        shown = shown[places[0] + 1 :]
    return listing(shown[: page.limit], len(shown) > page.limit)


def _chat(gateway: Gateway, caller: Caller, chat_id: str) -> Found:
    chat = stored.find(gateway, caller, chat_id)
    if chat is None:
        raise _missing(chat_id)
    return chat


def _missing(chat_id: str) -> NotFound:
    return NotFound(
        f"no stored chat {chat_id[:80]!r}; a chat is stored when it is asked for with store=true, and dropped after "
        "the days that the platform keeps it",
        param="completion_id",
    )


@router.post(
    "/v1/files/stored_completions", summary="Make a file of stored chats", **json_body(ExportBody, EXAMPLE)
)
def export(
    gateway: GatewayDep, request: Annotated[Incoming[ExportBody], Depends(incoming(ExportBody))]
) -> dict[str, Any]:
    """The job's result names a file of the purpose `fine-tune`: a line of `messages` for each answer that came to its
    end in text, which a student learns. What else was stored is counted by reason."""
    chosen = request.body.chosen()

    def make(connection: Connection) -> ExportChats:
        stored.check_some(connection, request.caller.tenant, chosen, "model")
        return ExportChats(chats=chosen, filename=request.body.filename or "stored-completions.jsonl")

    return shapes.job(submit(gateway, request, ExportChats, make))
