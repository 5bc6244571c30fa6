"""Chats on their way into the store, before their client hears the end, and out of it again. Knows no route."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from anyio import to_thread

from services.gateway.answering import stored_repository
from services.gateway.answering.answers import Answer
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from shared import stored_chats
from shared.contracts.inference import CompletionRequest, ModelRef
from shared.contracts.stored_chats import Chosen, body_of, names_of
from shared.db import Connection, Database, retrying
from shared.errors import InvalidInput, NotFound
from shared.stored_chats import Found, StoredChat
from shared.streams import Entry
from shared.task.citations import Sources

# The reason that a choice ends with whose client did not come back: such an answer is not whole.
CANCELLED = "cancelled"


@dataclass(frozen=True)
class Storing:
    """A chat that is to be stored once it is answered; `body` is a StoredBody's JSON without choices and counts."""

    tenant: str
    id: str
    model: str
    models: tuple[str, ...]
    body: dict[str, Any]
    metadata: dict[str, str]
    api_key_id: str | None

    @classmethod
    def of(
        cls,
        caller: Caller,
        answer: Answer,
        asked: CompletionRequest,
        ref: ModelRef,
        metadata: dict[str, str],
        request_id: str,
    ) -> Storing:
        """What is known of it before the model is asked; its size has been checked."""
        body = body_of(
            asked,
            created=answer.created,
            choices=[],
            usage={},
            marking=answer.marking,
            request_id=request_id,
        )
        names = names_of(answer.model, ref.name)
        return cls(str(caller.tenant), answer.id, answer.model, names, body, metadata, caller.key_id)

    def dump(self) -> dict[str, Any]:
        """For whoever takes the stream up, at any gateway."""
        return asdict(self)

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Storing:
        return cls(**{**dumped, "models": tuple(dumped["models"])})

    async def entries(
        self, db: Database, source: AsyncIterator[Entry], sources: Sources | None
    ) -> AsyncGenerator[Entry, None]:
        """The entries of an answer as it may be shown. From the first end of a choice on they are held until the
        whole is stored, so that who hears the end can rely on it. Raises Unavailable where it cannot be stored."""
        held: list[Entry] = []
        try:
            async for entry in source:
                if entry.type == "done":
                    await self.keep(db, entry.data["choices"], entry.data["usage"], sources)
                elif held or (entry.type == "token" and entry.data.get("finish_reason") is not None):
                    held.append(entry)
                    continue
                for one in (*held, entry):
                    yield one
                held.clear()
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    async def keep(
        self,
        db: Database,
        choices: Sequence[Mapping[str, Any]],
        usage: Mapping[str, int],
        sources: Sources | None = None,
    ) -> None:
        """Store it with these choices, once however often it is called; one that nobody heard to its end is not."""
        if any(choice["finish_reason"] == CANCELLED for choice in choices):
            return
        told = [
            {
                **{name: value for name, value in choice.items() if name != "logprobs"},
                **_cited(choice, sources),
            }
            for choice in choices
        ]
        body = {**self.body, "choices": told, "usage": dict(usage)}
        chat = StoredChat(self.id, self.model, self.models, body, self.metadata, self.api_key_id)

        def write() -> None:
            tenant = UUID(self.tenant)
            with db.transaction(tenant) as connection:
                stored_chats.add(connection, tenant, chat)

        await to_thread.run_sync(lambda: retrying(write, attempts=4))


def _cited(choice: Mapping[str, Any], sources: Sources | None) -> dict[str, Any]:
    return {"annotations": sources.annotations(str(choice["text"]))} if sources is not None else {}


def check_some(connection: Connection, tenant: UUID, chosen: Chosen, param: str) -> None:
    """Raise InvalidInput where nothing is chosen: no worker is taken for it."""
    if stored_chats.count(connection, tenant, chosen.model_copy(update={"limit": 1})):
        return
    asked = chosen.model_dump(exclude_none=True, exclude={"limit"})
    raise InvalidInput(
        f"no stored chat is of {asked}; a chat is stored when it is asked for with store=true",
        code="nothing_stored",
        param=param,
    )


def find(gateway: Gateway, caller: Caller, chat_id: str) -> Found | None:
    """The caller's stored chat; None where there never was one. Raises NotFound for one that was deleted."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = stored_repository.get(connection, caller.tenant, chat_id)
    if row is None:
        return None
    if row["body"] is None:
        raise NotFound(f"the stored chat {chat_id[:80]!r} was deleted", param="completion_id")
    return stored_chats.found(row)
