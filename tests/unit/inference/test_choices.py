"""A request's choices as calls of the engine, and put together again."""

from __future__ import annotations

from typing import Any

from services.inference.choices import Choices, calls, index_of
from shared.contracts.inference import ChatMessage, Completion, Sampling

CHAT = Completion(messages=(ChatMessage(role="user", content="hi"),), n=3, sampling=Sampling(seed=7))
TEXTS = Completion(prompts=("a", (1, 2)), n=2)


def done(call_id: str, text: str, prompt: int = 4) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": 2, "cached_tokens": 1}
    timings = {"queue_s": 0.1, "prefill_s": 0.2, "decode_s": 0.3, "first_token_s": 0.4}
    return {
        "type": "done",
        "id": call_id,
        "text": text,
        "finish_reason": "stop",
        "usage": usage,
        "timings": timings,
    }


def test_each_choice_is_a_call_with_a_seed_of_its_own() -> None:
    frames = calls("r.1", CHAT, {"tenant": "t"})
    assert [frame["id"] for frame in frames] == ["r.1.0", "r.1.1", "r.1.2"]
    assert [frame["sampling"]["seed"] for frame in frames] == [7, 8, 9]
    assert all(frame["messages"] and frame["tenant"] == "t" for frame in frames)


def test_a_seed_at_the_end_of_its_range_goes_round() -> None:
    asked = CHAT.model_copy(update={"sampling": Sampling(seed=2**63 - 1)})
    assert [f["sampling"]["seed"] for f in calls("r", asked, {})] == [2**63 - 1, -(2**63), -(2**63) + 1]


def test_answers_to_the_first_prompt_come_first() -> None:
    frames = calls("r", TEXTS, {})
    assert [frame.get("prompt", frame.get("prompt_ids")) for frame in frames] == ["a", "a", (1, 2), (1, 2)]
    assert [index_of(frame["id"]) for frame in frames] == [0, 1, 2, 3]


def test_choices_are_put_in_order_and_a_prompt_counts_once() -> None:
    answers = Choices(TEXTS)
    assert [answers.take(done(f"r.{i}", str(i), prompt=10 * (i // 2 + 1))) for i in (3, 0, 2, 1)] == [
        False,
        False,
        False,
        True,
    ]
    result = answers.result()
    assert [choice["text"] for choice in result["choices"]] == ["0", "1", "2", "3"]
    assert result["usage"] == {"prompt_tokens": 30, "completion_tokens": 8, "cached_tokens": 2}
