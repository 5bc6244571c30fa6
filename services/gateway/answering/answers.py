"""An answer as it grows, in OpenAI's shape, plain and in chunks, from what a worker sends. Pure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.contracts import answers
from shared.contracts.marking import Marking
from shared.task import marking as marks
from shared.task.citations import Sources


@dataclass
class Answer:
    """One answer of one or more choices. `token` and `done` take the worker's entries; times are monotonic seconds."""

    endpoint: str
    model: str
    include_usage: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    texts: dict[int, str] = field(default_factory=dict)
    choices: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"prompt_tokens": 0, "completion_tokens": 0})
    began: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    sources: Sources | None = None
    marking: Marking | None = None
    # Of the decoding settings, those that were the model's own.
    decoding: Mapping[str, float | int] = field(default_factory=dict)
    _calls: dict[int, int] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.id = self.id or answers.answer_id(self.endpoint, secrets.token_hex(12))

    def token(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Take a `token` entry of one choice; returns its chunk."""
        index, text = int(data.get("choice", 0)), str(data["text"])
        before = self.texts.get(index, "")
        self.add(index, text, int(data.get("tokens", 1)))
        reason = data.get("finish_reason")
        if reason is not None:
            self._ended.add(index)
        calls, calls_before = data.get("tool_calls", ()), self._calls.get(index, 0)
        self._calls[index] = calls_before + len(calls)
        label = marks.label_before(self.marking) if self.texts[index] else ""
        behind = marks.label_behind(self.marking, self.texts[index]) if reason is not None else ""
        made = answers.piece(
            self.endpoint,
            index,
            (label if not before else "") + text + behind,
            finish_reason=reason,
            logprobs=data.get("logprobs"),
            tool_calls=calls,
            offset=len(before) and len(label + before),
            calls_before=calls_before,
        )
        return self._end(made, index) if reason is not None else self._chunk(made)

    def add(self, index: int, text: str, tokens: int) -> None:
        """Take text of a choice, and how many tokens it was."""
        self._see_first()
        self.texts[index] = self.texts.get(index, "") + text
        self.counts["completion_tokens"] += tokens

    def text_chunk(self, index: int, text: str) -> dict[str, Any]:
        """The chunk of a choice's text in its middle, which is not taken."""
        return self._chunk(answers.piece(self.endpoint, index, text))

    def done(self, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Take the `done` entry; yields chunks of text that no `token` entry brought, and of each choice's end."""
        self._see_first()
        self.choices = list(data["choices"])
        self.counts = dict(data["usage"])
        self.decoding = data.get("decoding") or {}
        for index, choice in enumerate(self.choices):
            shown, whole = self.texts.get(index, ""), str(choice["text"])
            self.texts[index] = whole
            rest = whole[len(shown) :] if whole.startswith(shown) else ""
            calls = choice.get("tool_calls", ())[self._calls.get(index, 0) :]
            if rest or calls:
                label = marks.label_before(self.marking) if rest and not shown else ""
                more = answers.piece(
                    self.endpoint,
                    index,
                    label + rest,
                    tool_calls=calls,
                    calls_before=self._calls.get(index, 0),
                )
                yield self._chunk(more)
            if index not in self._ended:
                behind = marks.label_behind(self.marking, whole)
                end = answers.piece(self.endpoint, index, behind, finish_reason=choice["finish_reason"])
                yield self._end(end, index)

    def opening(self) -> Iterator[dict[str, Any]]:
        """The chunk that a chat's stream begins with, for its first choice; the others' roles go without saying."""
        if self.endpoint == answers.CHAT:
            delta = {"role": "assistant", "content": "", "refusal": None}
            chunk = self._chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})
            yield chunk if self.sources is None else {**chunk, "retrieval": self.sources.told()}

    def whole(self) -> dict[str, Any]:
        """The whole answer at once."""
        choices = marks.labelled(self.marking, self.choices)
        made = answers.completion(self.endpoint, self.id, self.model, self.created, choices, self.counts)
        made |= marks.metadata(self.marking, self.id, [str(choice["text"]) for choice in self.choices])
        return made if self.sources is None else self.sources.cite(made)

    def usage_chunk(self) -> dict[str, Any]:
        """What `stream_options.include_usage` asks for: no choices, only the counts."""
        return {**self._chunk(), "usage": answers.usage_object(self.counts)}

    def _end(self, piece: dict[str, Any], index: int) -> dict[str, Any]:
        """The last chunk of a choice, with what is told of its whole text."""
        told = marks.metadata(self.marking, self.id, [self.texts.get(index, "")])
        return {**self._chunk(self._cited(piece, index)), **told}

    def _cited(self, piece: dict[str, Any], index: int) -> dict[str, Any]:
        """The last chunk of a choice with what its whole text cites."""
        if self.sources is not None:
            piece["delta"]["annotations"] = self.sources.annotations(self.texts.get(index, ""))
        return piece

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def _see_first(self) -> None:
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.began

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        begun = answers.head(self.endpoint, self.id, self.model, self.created, chunk=True)
        more = {"usage": None} if self.include_usage else {}
        return {**begun, "choices": list(choices), **more}
