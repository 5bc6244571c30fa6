"""The mapping guessed from columns and sample rows."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contracts.recipe_infer import default_recipe, infer_mapping
from shared.errors import InvalidInput

TURNS = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好"}]


def _mapping(*samples: dict[str, Any]) -> dict[str, Any]:
    columns = list(dict.fromkeys(column for sample in samples for column in sample))
    found = infer_mapping(columns, samples).model_dump()
    return {k: v for k, v in found.items() if v and k not in {"encoding", "role_field", "content_field"}}


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (
            {"text": "Is it here?", "category": "arrival"},
            {"prompt": "text", "completion": "category", "label": "category"},
        ),
        (
            {"id": "1", "type": "单领域", "messages": TURNS},
            {"messages": "messages", "id": "id", "label": "type"},
        ),
        (
            {
                "id": "d1",
                "channel": "web",
                "language": "zh",
                "intent": "refund",
                "messages": TURNS,
                "created_at": "x",
            },
            {"messages": "messages", "id": "id", "label": "intent"},
        ),
        ({"question": "a?", "answer": "b"}, {"prompt": "question", "completion": "answer"}),
        ({"问题": "怎么退款", "答案": "点退款"}, {"prompt": "问题", "completion": "答案"}),
        (
            {"Prompt": "a", "Completion": "b", "System": "c"},
            {"prompt": "Prompt", "completion": "Completion", "system": "System"},
        ),
        (
            {"instruction": "Summarise", "input": "Some text.", "output": "x"},
            {"prompt": "instruction", "context": "input", "completion": "output"},
        ),
        (
            {"context": "Some text.", "question": "Why?", "answer": "x"},
            {"prompt": "question", "context": "context", "completion": "answer"},
        ),
        ({"input": "a", "output": "b"}, {"prompt": "input", "completion": "output"}),
        ({"instruction": "a", "input": "", "output": "b"}, {"prompt": "instruction", "completion": "output"}),
        ({"内容": "文章", "编号": 3}, {"text": "内容", "id": "编号"}),
        ({"note": "one text column"}, {"text": "note"}),
        ({"messages": '[{"role": "user", "content": "a"}]'}, {"messages": "messages"}),
    ],
)
def test_usual_columns_are_understood(sample: dict[str, Any], expected: dict[str, str]) -> None:
    assert _mapping(sample) == expected


def test_share_gpt_conversations_are_renamed() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    mapping = infer_mapping(["conversations"], [{"conversations": turns}])
    assert (mapping.role_field, mapping.content_field) == ("from", "value")
    assert mapping.roles == {"gpt": "assistant", "human": "user"}


def test_a_column_of_distinct_long_values_is_no_label() -> None:
    samples = [{"question": f"q{i}", "answer": f"a{i}", "type": f"t{i}"} for i in range(100)]
    assert infer_mapping(["question", "answer", "type"], samples).label is None


def test_rows_that_fit_nothing_are_refused_with_the_columns_found() -> None:
    with pytest.raises(InvalidInput, match="`a`, `b`") as caught:
        infer_mapping(["a", "b"], [{"a": "x", "b": "y"}])
    assert caught.value.param == "input"


def test_the_default_recipe_settles_conflicts_only_where_there_is_a_label() -> None:
    with_label = default_recipe(infer_mapping(["text", "label"], [{"text": "a", "label": "b"}]))
    without = default_recipe(infer_mapping(["text"], [{"text": "a"}]))
    assert "conflicting_labels" in [step.op for step in with_label.steps]
    assert "conflicting_labels" not in [step.op for step in without.steps]
