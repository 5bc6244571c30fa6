"""One request's choices: as many calls of the engine as it asks for answers, and what comes of them together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.inference.upstream.messages import forward
from shared.contracts.inference import TEXT_TOKENS, Completion
from shared.frames import Frame


def calls(request_id: str, wanted: Completion, common: Mapping[str, Any]) -> list[Frame]:
    """The engine's `generate` frames, in the order of the choices: all answers to the first prompt first.

    With a seed, each answer to a prompt has a seed of its own, or all of them would be the same. An upstream gets the
    whole request at once.
    """
    if "upstream" in common:
        count = wanted.n * max(1, len(wanted.prompts))
        return [forward(request_id, [f"{request_id}.{index}" for index in range(count)], wanted, common)]
    options = wanted.sampling.model_dump(mode="json", exclude={"form"})
    if wanted.prompts:
        options["default_tokens"] = TEXT_TOKENS
    inputs: list[dict[str, Any]] = (
        [
            {
                "messages": [message.model_dump(mode="json") for message in wanted.messages],
                "tools": [tool.model_dump() for tool in wanted.tools],
                "tool_choice": wanted.tool_choice,
                "parallel_tool_calls": wanted.parallel_tool_calls,
            }
        ]
        if wanted.messages
        else [{"prompt" if isinstance(p, str) else "prompt_ids": p} for p in wanted.prompts]
    )
    frames: list[Frame] = []
    for given in inputs:
        for number in range(wanted.n):
            seed = options["seed"]
            frames.append(
                {
                    "id": f"{request_id}.{len(frames)}",
                    **common,
                    **given,
                    "sampling": {**options, "seed": None if seed is None else _shifted(seed, number)},
                }
            )
    return frames


def index_of(call_id: str) -> int:
    """Which choice a call's frames are about."""
    return int(call_id.rpartition(".")[2])


class Choices:
    """Collects the `done` frames of a request's calls."""

    def __init__(self, wanted: Completion) -> None:
        self._each = wanted.n
        self._open = set(range(wanted.n * max(1, len(wanted.prompts))))
        self._count = len(self._open)
        self._done: dict[int, Frame] = {}

    def __len__(self) -> int:
        return self._count

    def take(self, done: Frame) -> bool:
        """Add one; True when it was the last."""
        index = index_of(done["id"])
        self._open.discard(index)
        self._done[index] = done
        return not self._open

    def result(self) -> dict[str, Any]:
        """{"choices", "usage", "timings"}: a prompt counts once, however many answers it got.

        `decoding` beside them are the settings that were the model's own, where there were any.
        """
        ordered = [self._done[index] for index in range(self._count)]
        firsts = ordered[:: self._each]
        own = next((done["decoding"] for done in ordered if done.get("decoding")), None)
        return {
            **({"decoding": own} if own else {}),
            "choices": [
                {
                    "text": done["text"],
                    "finish_reason": done["finish_reason"],
                    **{name: done[name] for name in ("logprobs", "tool_calls") if name in done},
                }
                for done in ordered
            ],
            "usage": {
                "prompt_tokens": sum(done["usage"]["prompt_tokens"] for done in firsts),
                "completion_tokens": sum(done["usage"]["completion_tokens"] for done in ordered),
                "cached_tokens": sum(done["usage"]["cached_tokens"] for done in firsts),
            },
            "timings": {
                "queue_s": min(done["timings"]["queue_s"] for done in ordered),
                "prefill_s": sum(done["timings"]["prefill_s"] or 0.0 for done in ordered),
                "decode_s": sum(done["timings"]["decode_s"] or 0.0 for done in ordered),
                "first_token_s": min(
                    (s for done in ordered if (s := done["timings"]["first_token_s"]) is not None),
                    default=None,
                ),
            },
        }


def _shifted(seed: int, number: int) -> int:
    """`seed` + `number` in 64 bits."""
    return (seed + number + 2**63) % 2**64 - 2**63
