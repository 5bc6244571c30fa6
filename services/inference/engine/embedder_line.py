"""What waits for one encoder or head: sorted by length in rounds, taken in slices. Loads and computes nothing."""

from __future__ import annotations

import logging
from collections import deque

from services.inference.engine.embedder_item import Item, failed, take_slice, tokenize
from services.inference.engine.encoder import Encoder
from services.inference.engine.events import Event
from services.inference.engine.fair_queue import FairQueue
from services.inference.engine.request import ModelRef, Priority
from shared.errors import HeliuError

log = logging.getLogger(__name__)

# A round is what is sorted by length together: enough for little padding, and no longer than a new one may wait.
ROUND_TEXTS = 64
ROUND_CHARACTERS = 32 * 1024


class Line:
    """What waits for one encoder or head, and the model while it is in memory."""

    def __init__(self, ref: ModelRef, reader: type[Encoder]) -> None:
        self.ref = ref
        self.reader = reader
        self.encoder: Encoder | None = None
        self.waiting: dict[Priority, FairQueue[Item]] = {priority: FairQueue() for priority in Priority}
        # The next texts, tokenized, longest first.
        self.rounds: dict[Priority, deque[Item]] = {priority: deque() for priority in Priority}
        self.last_used = 0.0
        self.slices = 0

    def wants(self, priority: Priority) -> bool:
        return bool(len(self.waiting[priority]) or self.rounds[priority])

    @property
    def idle(self) -> bool:
        return not any(self.wants(priority) for priority in Priority)

    def next_slice(
        self, encoder: Encoder, priority: Priority, tokens: int, events: list[Event]
    ) -> list[Item]:
        """The next texts of at most `tokens`, padding included; those that cannot be tokenized end in `events`."""
        if not self.rounds[priority]:
            self.rounds[priority].extend(_round(encoder, self.waiting[priority], events))
        return take_slice(self.rounds[priority], tokens)


def _round(encoder: Encoder, waiting: FairQueue[Item], events: list[Event]) -> list[Item]:
    """The next texts, tokenized, longest first."""
    texts: list[Item] = []
    characters = tried = 0
    while len(waiting) and tried < ROUND_TEXTS and characters < ROUND_CHARACTERS:
        item = waiting.pop()
        request = item.request
        tried += 1
        characters += len(request.prompt or request.prompt_ids or ())
        characters += len(request.scores.pair or "") if request.scores is not None else 0
        try:
            tokenize(item, encoder)
            texts.append(item)
        except HeliuError as error:
            events.append(failed(item, error))
        except Exception as exc:  # whatever a tokenizer raises, it is this text's alone
            log.exception("tokenize_failed")
            events.append(failed(item, HeliuError(f"the text cannot be prepared: {type(exc).__name__}")))
    return sorted(texts, key=lambda item: -len(item.tokens))
