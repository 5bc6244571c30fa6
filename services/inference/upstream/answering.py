"""An upstream's answer to a completion as it comes, turned into the engine's frames. Pure.

Shapes after https://platform.openai.com/docs/api-reference/chat/streaming; whatever is of another one is refused as
malformed and never passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.inference.upstream.logprobs import chat_logprobs, text_logprobs
from services.inference.upstream.refusals import in_stream, listed, malformed
from shared.contracts.inference import Completion
from shared.errors import HeliuError
from shared.frames import Frame

MAX_TEXT = 4 * 1024 * 1024
MAX_CALLS = 128
# Bytes of a token, where an upstream does not count: few, so that quotas are not outrun.
BYTES_OF_TOKEN = 4


@dataclass
class _Call:
    """A call of a tool, whose parts come one by one."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    told: bool = False

    def shown(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name, "arguments": self.arguments}


@dataclass
class _Choice:
    text: str = ""
    tokens: int = 0
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    finish_reason: str | None = None


class Answering:
    """One completion. `take` gets each event's object and returns token frames; `done` gives the end frames."""

    def __init__(self, wanted: Completion, ids: Sequence[str], key: str | None = None) -> None:
        self._wanted = wanted
        self._ids = list(ids)
        self._key = key
        self._chat = bool(wanted.messages)
        self._choices = [_Choice() for _ in ids]
        self._usage: dict[str, int] | None = None
        self.model: str | None = None
        # Whether anything of the answer has come: from then on it cannot be asked for anew.
        self.begun = False

    @property
    def complete(self) -> bool:
        return all(choice.finish_reason is not None for choice in self._choices)

    @property
    def finish_reasons(self) -> list[str]:
        return [choice.finish_reason or "" for choice in self._choices]

    @property
    def counted(self) -> bool:
        """Whether the upstream has told its usage."""
        return self._usage is not None

    def reset(self) -> None:
        """Forget what has come: the request is made anew."""
        self._choices = [_Choice() for _ in self._ids]
        self._usage, self.begun = None, False

    def take(self, event: Any) -> list[Frame]:
        """Raises HeliuError for an error in the stream, and for what is malformed."""
        if not isinstance(event, dict):
            raise malformed(f"an event of type {type(event).__name__}")
        if event.get("error") or event.get("object") == "error":
            raise in_stream(event.get("error") or event, self._key)
        if isinstance(event.get("model"), str):
            self.model = event["model"][:256]
        if event.get("usage") is not None:
            self._usage = _usage(event["usage"])
        return [frame for choice in listed(event.get("choices"), "choices") for frame in self._choice(choice)]

    def take_whole(self, answer: Any) -> list[Frame]:
        """The same of an answer that came in one piece, though a stream was asked for."""
        if isinstance(answer, dict) and isinstance(answer.get("choices"), list):
            answer = {**answer, "choices": [_as_chunk(choice) for choice in answer["choices"]]}
        return self.take(answer)

    def done(self, *, queue_s: float, first_s: float | None, began: float, now: float) -> Iterator[Frame]:
        """The end of every choice. Usage is the request's and stands at its first choice; times are of one clock."""
        usage = self._usage or self._estimate()
        first = now if first_s is None else first_s
        timings = {
            "queue_s": queue_s,
            "prefill_s": first - began,
            "decode_s": now - first,
            "first_token_s": None if first_s is None else queue_s + first_s - began,
        }
        nothing = dict.fromkeys(usage, 0)
        still = {**timings, "prefill_s": 0.0, "decode_s": 0.0}
        for index, (name, choice) in enumerate(zip(self._ids, self._choices, strict=True)):
            calls = [call.shown() for _, call in sorted(choice.calls.items()) if call.told]
            yield {
                "type": "done",
                "id": name,
                "text": choice.text,
                "finish_reason": choice.finish_reason or "cancelled",
                "usage": nothing if index else usage,
                "timings": still if index else timings,
                "spans": [],
                **({"logprobs": choice.logprobs} if self._wanted.sampling.logprobs else {}),
                **({"tool_calls": calls} if calls else {}),
            }

    def _choice(self, told: Any) -> list[Frame]:
        if not isinstance(told, dict):
            raise malformed("a choice that is no object")
        index = told.get("index", 0)
        if type(index) is not int or not 0 <= index < len(self._choices):
            raise malformed(f"the choice {str(index)[:20]!r} of {len(self._choices)}")
        choice = self._choices[index]
        frame: Frame = {"type": "token", "id": self._ids[index], "index": choice.tokens}
        said, calls = self._delta(told, choice)
        logprobs = self._logprobs(told, choice, said)
        reason = told.get("finish_reason")
        if reason is not None:
            choice.finish_reason = _reason(reason)
            calls += _whole(choice, all_of_them=True)
        tokens = len(logprobs) or (1 if said or calls else 0)
        choice.tokens += tokens
        choice.text += said
        if len(choice.text) > MAX_TEXT:
            raise malformed(f"a text of more than {MAX_TEXT} characters")
        choice.logprobs += logprobs
        if not (said or calls or logprobs):
            return []
        self.begun = True
        frame |= {"text": said, "tokens": tokens}
        frame |= {"logprobs": logprobs} if logprobs else {}
        return [frame | ({"tool_calls": calls} if calls else {})]

    def _delta(self, told: Mapping[str, Any], choice: _Choice) -> tuple[str, list[dict[str, str]]]:
        """(new text, calls that are whole by now)."""
        if not self._chat:
            return _text(told.get("text"), "text"), []
        delta = told.get("delta") or {}
        if not isinstance(delta, dict):
            raise malformed("a delta that is no object")
        # A model that declines says so in a field of its own; it is what it answers.
        said = _text(delta.get("content"), "content") + _text(delta.get("refusal"), "refusal")
        for number, part in enumerate(listed(delta.get("tool_calls"), "tool_calls")):
            self._call_part(choice, part, number)
        return said, _whole(choice, all_of_them=False)

    def _call_part(self, choice: _Choice, part: Any, number: int) -> None:
        function = part.get("function") if isinstance(part, dict) else None
        if not isinstance(function, dict):
            raise malformed("a call of a tool that is no object with a function")
        index = part.get("index", number)
        if type(index) is not int or not 0 <= index < MAX_CALLS:
            raise malformed(f"the call of a tool number {str(index)[:20]!r}")
        call = choice.calls.setdefault(index, _Call())
        call.id = call.id or _text(part.get("id"), "id") or f"call_{self._ids[0][-16:]}_{index}"
        call.name += _text(function.get("name"), "name")
        call.arguments += _text(function.get("arguments"), "arguments")
        self.begun = True

    def _logprobs(self, told: Mapping[str, Any], choice: _Choice, said: str) -> list[dict[str, Any]]:
        if not self._wanted.sampling.logprobs:
            return []
        read = chat_logprobs if self._chat else text_logprobs
        found = read(told.get("logprobs"))
        if said and not found and not choice.logprobs:
            raise HeliuError(
                "the upstream gives no log probabilities with its answers; leave logprobs out",
                code="unsupported_parameter",
                param="logprobs",
            )
        return found

    def _estimate(self) -> dict[str, int]:
        """Where an upstream does not count: the prompt by its length, the answer by its pieces."""
        wanted = self._wanted
        texts = [message.content for message in wanted.messages]
        texts += [given for given in wanted.prompts if isinstance(given, str)]
        size = sum(len(text.encode()) for text in texts)
        tokens = sum(len(given) for given in wanted.prompts if not isinstance(given, str))
        return {
            "prompt_tokens": tokens + -(-size // BYTES_OF_TOKEN),
            "completion_tokens": sum(choice.tokens for choice in self._choices),
            "cached_tokens": 0,
        }


def _whole(choice: _Choice, *, all_of_them: bool) -> list[dict[str, str]]:
    """Calls that were not told yet and are whole: a next one has begun, or the choice has ended."""
    last = max(choice.calls, default=-1)
    found = []
    for index, call in sorted(choice.calls.items()):
        if not call.told and (all_of_them or index < last):
            if not call.name:
                raise malformed("a call of a tool without a name")
            call.told = True
            found.append(call.shown())
    return found


def _as_chunk(choice: Any) -> Any:
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return choice
    return {**choice, "delta": choice["message"]}


def _usage(told: Any) -> dict[str, int]:
    if not isinstance(told, dict):
        raise malformed("usage that is no object")
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    found = {
        "prompt_tokens": told.get("prompt_tokens"),
        "completion_tokens": told.get("completion_tokens") or 0,
        "cached_tokens": cached or 0,
    }
    if not all(type(count) is int and 0 <= count < 2**31 for count in found.values()):
        raise malformed("usage without numbers of tokens")
    return found  # type: ignore[return-value]  # all of them are whole numbers


def _reason(reason: Any) -> str:
    if not isinstance(reason, str) or not 0 < len(reason) <= 40:
        raise malformed("a finish_reason that is no word")
    if reason in ("error", "abort"):
        raise malformed(f"the finish_reason {reason!r}")
    # The words of TGI.
    return "stop" if reason in ("eos_token", "stop_sequence") else reason


def _text(value: Any, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise malformed(f"a {what} of type {type(value).__name__}")
    # JSON may hold half of a surrogate pair, and a frame cannot.
    return value.encode("utf-8", "replace").decode()
