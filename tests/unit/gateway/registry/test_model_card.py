"""Model cards: what they say of what is known, and what they leave of texts that others have written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from services.gateway.registry import card as model_card
from services.gateway.registry.checks import Item
from services.gateway.registry.facts import Facts

MODEL: dict[str, Any] = {
    "id": "m",
    "kind": "classifier",
    "base_id": "minilm",
    "artifact": "sha256:aa",
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    "job_id": "headjob-1",
    "dataset_version": "file-1",
    "info": {"context_length": 128, "labels": ["a|b", "c"], "held_out": {"accuracy": 0.9, "f1": 0.8}},
}
RUN = {"id": "evalrun_1", "eval_id": "eval_1", "eval_name": "x | y", "created_at": MODEL["created_at"]}


def card(**info: Any) -> dict[str, Any]:
    model = {**MODEL, "info": {**MODEL["info"], **info}}
    facts = Facts("m", "classifier", True, info.get("parity"), None, "file-1")
    items = [
        Item(f"k{n}", f"k{n}", float(n % 2), bool(n % 2), {"label": "<b>" if n < 6 else "ok"})
        for n in range(30)
    ]
    told = [model_card.evaluated(RUN, items, sliced=True)]
    return model_card.card(model, None, facts, registered=None, decision=None, evals=told, history=[])


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a | b", "a \\| b"),
        ("<img src=x onerror=1>", "&lt;img src=x onerror=1&gt;"),
        ("[x](y) ![z]", "\\[x\\]\\(y\\) \\!\\[z\\]"),
        ("# head\n- item", "\\# head - item"),
        ("`code` *b* _i_ ~s~", "\\`code\\` \\*b\\* \\_i\\_ \\~s\\~"),
        ("see https://x.y and www.z.org", "see https:\\/\\/x.y and www\\.z.org"),
        (None, ""),
    ],
)
def test_a_text_of_others_is_no_markup(given: str | None, shown: str) -> None:
    assert model_card.text(given) == shown


def test_limits_name_what_is_not_known() -> None:
    told = " ".join(card()["limits"])
    for said in ("128 tokens", "learned from a file", "not shown that it is served", "label=<b> (6)"):
        assert said in told
    assert "not shown" not in " ".join(card(parity={"passed": True})["limits"])


def test_metrics_stand_beside_their_baseline() -> None:
    text = model_card.markdown(card(baseline={"accuracy": 0.5}))
    assert "| accuracy | 0.9 | 0.5 |" in text
    assert "| f1 | 0.8 |  |" in text


def test_every_row_of_a_table_has_its_cells_and_slices_their_intervals() -> None:
    text = model_card.markdown(card())
    assert "| label=&lt;b&gt; | 6 | 0.5 | " in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables
    assert all(line.endswith("|") for line in tables)
    assert text.startswith("# m\n")


def test_a_model_without_any_record_has_a_card() -> None:
    bare = {**MODEL, "dataset_version": None, "job_id": None, "info": {}}
    facts = Facts("m", "base", False)
    made = model_card.card(bare, None, facts, registered=None, decision=None, evals=[], history=[])
    assert "It was brought in: what it learned from is not known here." in made["limits"]
    assert "Not known." in model_card.markdown(made)
