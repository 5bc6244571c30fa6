"""The platform as its own upstream: an answer through it is the answer that it forwards."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.stage import Stage

pytestmark = pytest.mark.timeout(900)

GREEDY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "您好,我想查询订单"}],
    "max_tokens": 12,
    "temperature": 0,
    "logprobs": True,
    "top_logprobs": 2,
}


def test_an_answer_through_an_upstream_is_the_same(stage: Stage) -> None:
    chat = stage.openai().chat.completions
    near, far = (chat.create(model=name, n=2, seed=5, **GREEDY) for name in (stage.base, stage.mirror))
    assert far.model == stage.mirror
    for one, other in zip(near.choices, far.choices, strict=True):
        assert (other.message, other.finish_reason) == (one.message, one.finish_reason)
        for here, there in zip(one.logprobs.content, other.logprobs.content, strict=True):
            assert (there.token, there.bytes) == (here.token, here.bytes)
            # Not to the last bit: what else is in a step decides how its products are summed up.
            assert there.logprob == pytest.approx(here.logprob, abs=1e-4)
            assert len(there.top_logprobs) == 2
    assert (far.usage.prompt_tokens, far.usage.completion_tokens) == (
        near.usage.prompt_tokens,
        near.usage.completion_tokens,
    )
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in chat.create(model=stage.mirror, stream=True, **GREEDY)
    )
    assert streamed == near.choices[0].message.content


def test_the_form_of_an_answer_is_kept_by_an_upstream(stage: Stage) -> None:
    for form, fits in (
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        ({"structured_outputs": {"json": {"enum": [17]}}}, lambda text: json.loads(text) == 17),
        (
            {"structured_outputs": {"regex": "[ab]{3}"}},
            lambda text: len(text) == 3 and not set(text) - {*"ab"},
        ),
    ):
        answer = stage.openai().chat.completions.create(
            model=stage.mirror, messages=[{"role": "user", "content": "hi"}], max_tokens=20, extra_body=form
        )
        assert fits(answer.choices[0].message.content), (form, answer)


def test_texts_and_vectors_come_through_an_upstream(stage: Stage) -> None:
    client = stage.openai()
    near, far = (
        client.completions.create(model=name, prompt=["您", [5, 6]], max_tokens=4, temperature=0)
        for name in (stage.base, stage.mirror)
    )
    assert [choice.text for choice in far.choices] == [choice.text for choice in near.choices]
    vectors = [
        client.embeddings.create(model=name, input=["您好", "hi"]).data for name in (stage.base, stage.mirror)
    ]
    for one, other in zip(*vectors, strict=True):
        assert other.embedding == pytest.approx(one.embedding, abs=1e-5)


def test_what_the_upstream_refuses_is_refused_with_its_parameter(stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stage.openai().chat.completions.create(
            model=stage.mirror,
            messages=[{"role": "user", "content": "hi"}],
            extra_body={"logit_bias": {"99999": 1}},
        )
    assert (caught.value.code, caught.value.param) == ("upstream_refused", "logit_bias")
