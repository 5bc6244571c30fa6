"""One text on its way to its vector or its scores, and the events that say how it ended. Knows no other text.

Times are the engine's clock, in seconds.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import torch

from services.inference.engine.encoder import Encoder
from services.inference.engine.events import Embedded, Event, Failed, Scored, Span
from services.inference.engine.head import Head
from services.inference.engine.request import Request, Scores
from services.inference.engine.vectors import check_dimensions, packed
from shared.errors import HeliuError

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Item:
    """One text on its way; times are the engine's clock."""

    request: Request
    order: int
    received: float
    received_ns: int
    tokens: list[int] = field(default_factory=list)
    # How many of the last tokens are a second text's.
    second: int = 0

    @property
    def tenant(self) -> str:
        return self.request.tenant


def tokenize(item: Item, encoder: Encoder) -> None:
    """Fill in the text's tokens. Raises a typed error for one that the encoder cannot take."""
    request = item.request
    if isinstance(encoder, Head):
        wanted = request.scores or Scores()
        item.tokens, item.second = encoder.pair(request.prompt or "", wanted.pair, wanted.truncate)
        return
    if request.vector is not None:
        check_dimensions(request.vector.dimensions, encoder.width)
    item.tokens = (
        encoder.checked(list(request.prompt_ids))
        if request.prompt_ids is not None
        else encoder.tokens(request.prompt or "")
    )


def take_slice(texts: deque[Item], tokens: int) -> list[Item]:
    """The first of texts sorted by length that have at most `tokens` with their padding; one alone may have more."""
    taken: list[Item] = []
    while texts and (not taken or (len(taken) + 1) * len(taken[0].tokens) <= tokens):
        taken.append(texts.popleft())
    return taken


def finished(item: Item, vector: torch.Tensor, started: float, now: float, *, normalize: bool) -> Event:
    """The end of a text whose vector is computed."""
    if not torch.isfinite(vector).all():
        return failed(
            item, HeliuError("the model's vector of this text is not finite", code="model_output_invalid")
        )
    request = item.request
    dimensions = request.vector.dimensions if request.vector is not None else None
    return Embedded(
        request.id,
        packed(vector, dimensions=dimensions, normalize=normalize),
        len(item.tokens),
        started - item.received,
        now - started,
        _spans(item, "engine.embed", started, now),
    )


def scored(item: Item, head: Head, logits: torch.Tensor, started: float, now: float) -> Event:
    """The end of a text whose (labels) logits are computed."""
    if not torch.isfinite(logits).all():
        return failed(
            item, HeliuError("the model's scores of this text are not finite", code="model_output_invalid")
        )
    request = item.request
    predictions, labels = head.predictions(logits, (request.scores or Scores()).top_k)
    return Scored(
        request.id,
        predictions,
        labels,
        len(item.tokens),
        started - item.received,
        now - started,
        _spans(item, "engine.score", started, now),
    )


def _spans(item: Item, work: str, started: float, now: float) -> tuple[Span, ...]:
    def nanoseconds(moment: float) -> int:
        return item.received_ns + int((moment - item.received) * 1e9)

    begun, priority = nanoseconds(started), str(item.request.priority)
    return (
        Span("engine.queue", item.received_ns, begun, {"priority": priority}),
        Span(work, begun, nanoseconds(now), {"tokens": len(item.tokens)}),
    )


def failed(item: Item, error: HeliuError) -> Failed:
    return Failed(item.request.id, error.code, error.message, error.param, error.retryable)


def cause(exc: Exception) -> HeliuError:
    """What its sender is told of a pass that failed."""
    if isinstance(exc, HeliuError):
        return exc
    if isinstance(exc, (MemoryError, torch.OutOfMemoryError)):
        return HeliuError("the machine's memory does not hold this text", code="out_of_memory")
    # Its text can hold anything, and goes to the log alone.
    log.error("encode_failed", exc_info=exc)
    return HeliuError(f"the forward pass failed: {type(exc).__name__}", code="engine_failed")
