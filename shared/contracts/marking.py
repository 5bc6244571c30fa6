"""How a tenant wants its generated answers marked as such. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.contracts.base import Message


class Marking(Message):
    """`off`, `metadata`, or `visible` (with metadata too). `producer` and `propagator` are names or codes of who makes
    and who passes on the content, as metadata tell them."""

    mode: Literal["off", "metadata", "visible"] = "off"
    place: Literal["start", "end"] = "end"
    language: Literal["auto", "zh", "en"] = "auto"
    producer: str = Field("", max_length=256)
    propagator: str = Field("", max_length=256)

    def without_label(self) -> Marking:
        """The same for an answer that a program reads: a label in its text would break it."""
        return self.model_copy(update={"mode": "metadata"}) if self.mode == "visible" else self
