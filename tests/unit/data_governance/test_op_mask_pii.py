"""What a recipe may have done with personal data, beyond a placeholder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.data_governance.operators.mask_pii import Mask, count_pii
from services.data_governance.pseudonyms import pseudonym
from services.data_governance.rows import Outcome, Row
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe
from shared.contracts.steps.mask_pii import MaskPii
from shared.text.pii import ALL_TYPES, find

MakeRow = Callable[..., Row]
SALT = "a salt of the tests"


def _run(rows: Sequence[Row], **params: Any) -> Outcome:
    return Mask(MaskPii.model_validate({"op": "mask_pii", "params": params}))(rows)


def test_a_hash_is_the_same_wherever_and_however_a_number_is_written(row: MakeRow) -> None:
    texts = ["打13800138000", "+86 138-0013-8000", "１３８００１３８０００", "13900139000"]
    kept = _run([row(text=text) for text in texts], action="hash", salt=SALT).kept
    stands = pseudonym("phone", "13800138000", SALT)
    assert [r.text for r in kept[:3]] == [f"打[PHONE:{stands}]", f"[PHONE:{stands}]", f"[PHONE:{stands}]"]
    assert stands not in str(kept[3].text)


def test_another_salt_or_type_gives_another_pseudonym() -> None:
    made = {
        pseudonym(kind, "6222020200112230", salt)
        for kind in ("phone", "bank_card")
        for salt in (SALT, "another salt")
    }
    assert len(made) == 4


def test_a_pseudonym_holds_no_personal_data(row: MakeRow) -> None:
    kept = _run([row(text=f"打1380013{n:04d}") for n in range(500)], action="hash", salt=SALT).kept
    assert not any(count_pii(r, ALL_TYPES) for r in kept)


def test_each_type_may_have_an_action_of_its_own(row: MakeRow) -> None:
    outcome = _run(
        [
            row(text="13800138000 a@b.cn", line=1),
            row(text="身份证11010519491231002X", line=2),
            row(text="京A12345", line=3),
        ],
        types=["phone", "email", "id_card", "plate"],
        actions={"email": "flag", "id_card": "drop"},
    )
    assert [(d.row.line, d.rule) for d in outcome.dropped] == [(2, "pii_id_card")]
    assert [r.text for r in outcome.kept] == ["[PHONE] a@b.cn", "[PLATE]"]
    assert json.loads(outcome.kept[0].meta) == {"pii": ["email"]}
    assert [change.rules for change in outcome.changed] == [
        {"pii_phone": 1, "pii_flagged_email": 1},
        {"pii_plate": 1},
    ]


def test_the_reason_of_a_drop_quotes_nothing_of_the_row(row: MakeRow) -> None:
    dropped = _run([row(text="打13800138000")], action="drop").dropped
    assert "1380" not in dropped[0].reason
    assert "phone" in dropped[0].reason


def test_the_name_of_a_column_says_what_its_values_are(row: MakeRow) -> None:
    meta = json.dumps({"联系人": "李明华", "护照号": "E12345678", "品名": "李明华"}, ensure_ascii=False)
    kept = _run([row(text="ok", meta=meta)], types=["name", "passport"]).kept
    assert json.loads(kept[0].meta) == {"联系人": "[NAME]", "护照号": "[PASSPORT]", "品名": "李明华"}


def test_other_columns_are_left_alone_where_the_recipe_says_so(row: MakeRow) -> None:
    before = row(text="ok", meta='{"tel":"13800138000"}')
    assert _run([before], meta=False).kept == [before]
    assert _run([before], meta=False, action="drop").dropped == []


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"action": "hash"}, "needs a `salt`"),
        ({"actions": {"name": "drop"}}, "not among `types`"),
        ({"action": "hash", "salt": "short"}, "at least 8"),
        ({"actions": {"phone": "burn"}}, "'mask', 'hash', 'drop' or 'flag'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_runs(params: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe({"steps": [{"op": "mask_pii", "params": params}]})
    assert says in caught.value.message


def test_the_first_version_of_the_step_still_means_what_it_meant() -> None:
    old = parse_recipe({"steps": [{"op": "mask_pii", "version": 1, "params": {"types": ["phone"]}}]})
    assert old.steps[0].version == 1
    with pytest.raises(InvalidRecipe, match="version 1"):
        parse_recipe({"steps": [{"op": "mask_pii", "version": 1, "params": {"types": ["plate"]}}]})


@pytest.mark.parametrize(
    "text",
    [
        "订单号6222020200112230",
        "运单：4111111111111111",
        "version 10.0.0.1",
        "更新A12345",
        "E12345678",
        "李先生您好",
    ],
)
def test_the_words_beside_a_number_may_say_that_it_is_something_else(text: str) -> None:
    assert find(text, ALL_TYPES) == []


@pytest.mark.parametrize("unit", ["京A", "1.", "::", "护照", "姓名", "王伟", "2001:", "91110108", "A1"])
def test_no_repetition_makes_the_search_slow(unit: str) -> None:
    # Quadratic matching would need minutes here; the suite's own limit is the judge.
    find(unit * (200_000 // len(unit)), ALL_TYPES)
