"""Messages that came one a row, as chat systems export them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.steps.base import Name, StepBase, Strict


class AssembleConversationsParams(Strict):
    """Source columns: `key` names the conversation, `role` who speaks, `order` what to sort by (a number or an ISO 8601
    time; the order of the source without it). The recipe's input maps the message itself to `text`.

    `roles` renames the source's names of speakers. Messages of one speaker in a row are joined by a line end where
    `join` is on. A row without the key is a conversation by itself and stays as it is.
    """

    key: Name
    role: Name
    order: Name | None = None
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default_factory=dict)
    join: bool = True
    max_messages: Annotated[int, Field(ge=2, le=4096)] = 512


class AssembleConversations(StepBase):
    """Rows of single messages put together to one row a conversation."""

    before: ClassVar[dict[str, str]] = {
        "drop_broken": "a single message is no conversation yet, and its order cannot be judged",
        "conflicting_labels": "single messages would be compared in the place of conversations",
        "exact_duplicates": "a greeting that many conversations share would go from all but one",
        "near_duplicates": "messages that many conversations share would go from all but one",
        "length_bounds": "lengths and turns are the conversation's",
        "balance_labels": "messages would be counted in the place of conversations",
    }

    op: Literal["assemble_conversations"]
    params: AssembleConversationsParams
