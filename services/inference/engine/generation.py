"""One request in the engine from its prompt tokens to its end, and the events that it gives. Knows no batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from services.inference.engine.codec import Codec
from services.inference.engine.detokenize import Detokenizer
from services.inference.engine.events import (
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    Span,
    Timings,
    TokenDelta,
    TokenLogprob,
    Usage,
)
from services.inference.engine.grammar import Constraint
from services.inference.engine.request import Request
from services.inference.engine.sampler import Choice, Pick
from services.inference.engine.scheduler import Sequence
from services.inference.engine.vectors import packed
from services.inference.tool_calls import Call, ToolReader
from shared.errors import HeliuError


@dataclass(eq=False)
class Generation:
    """A request that has its prompt tokens, and all that has happened to it. Times are the engine's clock."""

    request: Request
    sequence: Sequence
    limit: int
    seed: int
    ends: frozenset[int]
    codec: Codec
    text: Detokenizer
    constraint: Constraint | None
    tools: ToolReader | None
    received: float
    received_ns: int
    started: float | None = None
    cached: int = 0
    first_token: float | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    # Of the request's settings, those that are the model's own.
    decoding: Mapping[str, float | int] = field(default_factory=dict)
    # How often each token was answered; kept only where a penalty asks for it.
    answered: Counter[int] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    pushed: int = 0
    shown: int = 0

    @property
    def answer(self) -> list[int]:
        return self.sequence.tokens[self.sequence.prompt_length :]

    def pick(self, mask: torch.Tensor | None) -> Pick:
        """What the next token depends on besides its logits."""
        sampling, sequence = self.request.sampling, self.sequence
        prompt = sequence.tokens[: sequence.prompt_length] if sampling.repetition_penalty != 1 else ()
        position = len(sequence.tokens) - sequence.prompt_length
        return Pick(sampling, self.seed, position, self.answered, prompt, mask)

    def take(self, choice: Choice) -> None:
        """Add the chosen token. Raises GrammarFailed."""
        sampling = self.request.sampling
        self.sequence.tokens.append(choice.token)
        if sampling.counts_tokens:
            self.answered[choice.token] += 1
        if choice.logprob is not None:
            top = tuple(self._logprob(token, logprob) for token, logprob in choice.top)
            self.logprobs.append(replace(self._logprob(choice.token, choice.logprob), top=top))
        if self.constraint is not None and choice.token not in self.ends:
            self.constraint.accept(choice.token)

    def tell(self, text: str, *, final: bool = False) -> tuple[str, tuple[Call, ...]]:
        """New text as (what is said, calls of tools that are whole)."""
        if self.tools is None:
            return text, ()
        said, calls = self.tools.push(text)
        if final:
            rest, more = self.tools.finish()
            said, calls = said + rest, calls + more
        self.said.append(said)
        return said, tuple(calls)

    @property
    def whole(self) -> str:
        """All that is said."""
        return self.text.text if self.tools is None else "".join(self.said)

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token, self.codec.text_of(token), logprob, self.codec.bytes_of(token))


def failure(request_id: str, error: HeliuError) -> Failed:
    return Failed(request_id, error.code, error.message, error.param, error.retryable)


def conclude(generation: Generation, reason: FinishReason, now: float) -> list[Event]:
    """The last text of a generation that ends now, and its Finished event."""
    request, answer = generation.request, generation.answer
    events: list[Event] = []
    tail = answer[generation.pushed :]
    if tail and tail[-1] in generation.ends:
        tail.pop()
    pieces = []
    if not generation.text.stopped:
        pieces = [generation.text.push(tail)]
        if not pieces[0].stopped:
            pieces.append(generation.text.finish())
    said, calls = generation.tell("".join(piece.text for piece in pieces), final=True)
    if (said or calls) and request.stream:
        events.append(delta(generation, said, calls))
    called = tuple(generation.tools.calls) if generation.tools is not None else ()
    if called and reason is FinishReason.STOP:
        reason = FinishReason.TOOL_CALLS
    events.append(
        Finished(
            request.id,
            generation.whole,
            tuple(answer),
            reason,
            Usage(generation.sequence.prompt_length, len(answer), generation.cached),
            *_times(generation, now),
            tuple(generation.logprobs) if request.sampling.logprobs else None,
            called,
            generation.decoding,
        )
    )
    return events


def embedded(generation: Generation, hidden: torch.Tensor, now: float) -> Embedded:
    """The end of a request for a vector: the last token's, of length 1."""
    request = generation.request
    dimensions = request.vector.dimensions if request.vector is not None else None
    generation.first_token = now
    timings, spans = _times(generation, now)
    return Embedded(
        request.id,
        packed(hidden, dimensions=dimensions, normalize=True),
        generation.sequence.prompt_length,
        timings.queue,
        timings.prefill,
        spans[:2],
    )


def delta(generation: Generation, text: str, calls: tuple[Call, ...]) -> TokenDelta:
    """The next delta: all tokens chosen since the last one."""
    start, end = generation.shown, len(generation.answer)
    generation.shown = end
    logprobs = tuple(generation.logprobs[start:end])
    return TokenDelta(generation.request.id, text, end - start, start, logprobs, calls)


def _times(generation: Generation, now: float) -> tuple[Timings, tuple[Span, ...]]:
    received, started, first = generation.received, generation.started, generation.first_token
    queued_until = now if started is None else started
    filled_until = now if first is None else first
    sequence = generation.sequence
    timings = Timings(
        queue=queued_until - received,
        prefill=filled_until - queued_until,
        decode=now - filled_until,
        first_token=None if first is None else first - received,
    )
    marks: list[tuple[str, float | None, float, dict[str, int | float | str]]] = [
        ("engine.queue", received, queued_until, {"priority": str(generation.request.priority)}),
        (
            "engine.prefill",
            started,
            filled_until,
            {"tokens": sequence.prompt_length, "cached": generation.cached},
        ),
        (
            "engine.decode",
            first,
            now,
            {"tokens": len(sequence.tokens) - sequence.prompt_length, "preemptions": sequence.preemptions},
        ),
    ]

    def nanoseconds(moment: float) -> int:
        return generation.received_ns + int((moment - received) * 1e9)

    spans = tuple(
        Span(name, nanoseconds(start), nanoseconds(end), attributes)
        for name, start, end, attributes in marks
        if start is not None
    )
    return timings, spans
