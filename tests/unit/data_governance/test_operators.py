"""Each operator on its own: what it keeps, drops and changes, and that batches do not matter."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.data_governance.build.spill import Keys, KeyWriter
from services.data_governance.operators import OPERATORS, SETTLING, build, build_settling
from services.data_governance.operators.mask_pii import count_pii
from services.data_governance.rows import Message, Outcome, Row, normalise_key
from shared.contracts.steps import STEP_TYPES, Step

MakeRow = Callable[..., Row]
STEP: TypeAdapter[Step] = TypeAdapter(Step)
# Operators that say nothing of a row without being told what to look for.
PLAIN = sorted(
    step.model_fields["op"].annotation.__args__[0]
    for step in STEP_TYPES
    if not step.model_fields["params"].is_required()
)


def _run(rows: Sequence[Row], op: str, batch: int = 1000, **params: Any) -> Outcome:
    step = STEP.validate_python({"op": op, "params": params})
    batches = [rows[at : at + batch] for at in range(0, len(rows), batch)]
    if op in SETTLING:
        return _settled(batches, step)
    operator = build(step)
    total = Outcome()
    for part in batches:
        outcome = operator(part)
        assert len(part) == len(outcome.kept) + len(outcome.dropped)
        total.kept.extend(outcome.kept)
        total.dropped.extend(outcome.dropped)
        total.changed.extend(outcome.changed)
    return total


def _settled(parts: Sequence[Sequence[Row]], step: Step) -> Outcome:
    """Each batch is a part of its own, with keys on disk as in a build."""
    operator = build_settling(step)
    total = Outcome()
    if not parts:
        return total
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / str(number) for number in range(len(parts))]
        for part, place in zip(parts, folders, strict=True):
            place.mkdir()
            keys = KeyWriter()
            keys.add(operator.keys(part))
            keys.write(place, 0)
        counts = [len(part) for part in parts]
        verdicts = operator.settle(Keys(folders, 0, counts), np.ones(sum(counts), bool))
    for row, verdict in zip([row for part in parts for row in part], verdicts, strict=True):
        if verdict["drop"]:
            total.dropped.append(operator.dropped(row, verdict))
        else:
            total.kept.append(row)
    return total


def _rules(outcome: Outcome) -> list[tuple[int, str]]:
    return [(drop.row.line, drop.rule) for drop in outcome.dropped]


def test_every_step_of_the_contract_has_its_operator() -> None:
    assert {
        step.model_fields["op"].annotation.__args__[0] for step in STEP_TYPES
    } == OPERATORS.keys() | SETTLING.keys()


@pytest.mark.parametrize(
    ("raw", "clean", "rule"),
    [
        ("ＡＢＣ１２３", "ABC123", "width"),
        ("你好，　世界！", "你好， 世界！", "width"),
        ("a  b\t c", "a b c", "whitespace"),
        ("a \r\n  b\r\rc\n\n\n\nd", "a\nb\n\nc\n\nd", "whitespace"),
        ("a\u00a0b\u2003c", "a b c", "whitespace"),
        ("a\u200bb\ufeff\x07\u202ec", "abc", "control_characters"),
        ("e\u0301", "é", "unicode_form"),
        ("cafÃ©", "café", "mojibake_repaired"),
    ],
)
def test_normalising_names_the_rule_that_applied(raw: str, clean: str, rule: str, row: MakeRow) -> None:
    outcome = _run([row(raw, "ok")], "normalize_text")
    assert outcome.kept[0].texts() == (clean, "ok")
    assert rule in outcome.changed[0].rules


def test_sound_text_passes_normalising_untouched(row: MakeRow) -> None:
    rows = [row("你好，请问（订单）在哪？", "It’s on its way – “tomorrow” 👩‍👩‍👧\n\nBye."), row(text="plain")]
    outcome = _run(rows, "normalize_text")
    assert outcome.kept == rows
    assert outcome.changed == []


def test_nfkc_is_only_applied_when_asked_for(row: MakeRow) -> None:
    assert _run([row(text="①，ﬁ")], "normalize_text").kept[0].text == "①，ﬁ"
    assert _run([row(text="①，ﬁ")], "normalize_text", form="nfkc").kept[0].text == "1,fi"


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = _run([Row("r", 1, "1", None, text, None, "{}")], "normalize_text").kept
    again = _run(once, "normalize_text")
    assert again.kept == once or "mojibake_repaired" in again.changed[0].rules


def test_empty_rows_and_blank_messages_are_dropped(row: MakeRow) -> None:
    rows = [
        row("a", "b", line=1),
        row("a", " ", line=2),
        row("", "\n", line=3),
        row(text="", line=4),
        row(line=5),
    ]
    assert _rules(_run(rows, "drop_empty")) == [
        (2, "empty_message"),
        (3, "empty"),
        (4, "empty"),
        (5, "empty"),
    ]


@pytest.mark.parametrize(
    ("roles", "rule"),
    [
        ("user assistant", None),
        ("system user assistant user assistant", None),
        ("user assistant tool assistant", None),
        ("user", "no_answer"),
        ("user assistant user", "no_answer"),
        ("assistant", "wrong_alternation"),
        ("user user assistant", "wrong_alternation"),
        ("user assistant assistant", "wrong_alternation"),
        ("user system assistant", "wrong_alternation"),
        ("user bot", "unknown_role"),
        ("user -", "missing_role"),
        ("", "no_answer"),
    ],
)
def test_conversations_in_an_unlearnable_order_are_dropped(roles: str, rule: str | None) -> None:
    messages = tuple(Message("" if role == "-" else role, "x") for role in roles.split())
    outcome = _run([Row("r", 1, "1", messages, None, None, "{}")], "drop_broken")
    assert [drop.rule for drop in outcome.dropped] == ([rule] if rule else [])


def test_encoding_damage_is_dropped_in_any_turn(row: MakeRow) -> None:
    outcome = _run([row("你好", "收到\ufffd"), row(text="锟斤拷")], "drop_broken")
    assert [drop.rule for drop in outcome.dropped] == ["encoding_damage"] * 2


def test_only_the_first_of_equal_rows_is_kept(row: MakeRow) -> None:
    rows = [
        row("a", "b", line=1),
        row("a", "b", line=2),
        row("a", "b", label="x", line=3),
        row("A!", "b", line=4),
    ]
    assert _rules(_run(rows, "exact_duplicates")) == [(2, "exact_duplicates")]
    assert [line for line, _ in _rules(_run(rows, "exact_duplicates", normalised=True))] == [2, 4]
    assert [line for line, _ in _rules(_run(rows, "exact_duplicates", include_label=False))] == [2, 3]


def test_the_border_between_turns_counts(row: MakeRow) -> None:
    assert _run([row("ab", "c"), row("a", "bc"), row(text="abc")], "exact_duplicates").dropped == []


def test_the_majority_of_labels_wins_and_a_tie_drops_all(row: MakeRow) -> None:
    rows = [
        *(row("Where is it?", "a", label=label, line=i) for i, label in enumerate("xxy", start=1)),
        *(row("退款？", "a", label=label, line=i) for i, label in enumerate("xy", start=4)),
        row("where is it", "b", label=None, line=6),
        row("other", "b", label="z", line=7),
    ]
    assert [line for line, _ in _rules(_run(rows, "conflicting_labels"))] == [3, 4, 5]
    assert [line for line, _ in _rules(_run(rows, "conflicting_labels", resolution="drop"))] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_answers_can_be_compared_instead_of_labels(row: MakeRow) -> None:
    rows = [row("q", "yes", line=1), row("q", "no", line=2), row("q", "Yes.", line=3), row(text="q", line=4)]
    assert _rules(_run(rows, "conflicting_labels", compare="answer")) == [(2, "conflicting_labels")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("价格2.5元", "价格25元"),
        ("票价100-150元", "票价100150元"),
        ("It is -5 degrees", "It is 5 degrees"),
        ("At 10:30", "At 1030"),
        ("1/2 cup", "12 cup"),
        ("涨了5％", "涨了5"),
        ("I know C++", "I know C"),
        ("$5", "€5"),
    ],
)
def test_rows_that_differ_in_a_mark_that_matters_are_no_duplicates(
    one: str, other: str, row: MakeRow
) -> None:
    rows = [row("q", one, line=1), row("q", other, line=2)]
    assert _rules(_run(rows, "exact_duplicates", normalised=True)) == []
    assert normalise_key(one) != normalise_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("价格 2.5 元！", "价格２．５元"),
        ("A check-in, please", "a check in please"),
        ("Open at 10 : 30?", "open at 10:30"),
        ("138 0013 8000", "13800138000"),
        ("Wait... 5 days", "wait 5 days"),
        ("好的～", "好的"),
    ],
)
def test_rows_that_differ_in_case_width_spaces_and_punctuation_are_duplicates(
    one: str, other: str, row: MakeRow
) -> None:
    rows = [row("q", one, line=1), row("q", other, line=2)]
    assert _rules(_run(rows, "exact_duplicates", normalised=True)) == [(2, "exact_duplicates")]


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("电话\n13800138000", "电话\n[PHONE]"),
        ("id\t11010519491231002X", "id\t[ID_CARD]"),
        ('"13800138000\\', '"[PHONE]\\'),
        ("13800138000.0", "[PHONE]"),
        (13800138000.0, "[PHONE]"),
        ([{"tel": 13800138000}], [{"tel": "[PHONE]"}]),
        (0.5, 0.5),
        ("3.0", "3.0"),
        ("2024-05-01 10:00:00.0", "2024-05-01 10:00:00.0"),
        (1714550400.0, 1714550400.0),
    ],
)
def test_other_columns_are_masked_as_what_they_say_and_not_as_their_json(
    value: Any, clean: Any, row: MakeRow
) -> None:
    meta = json.dumps({"k": value}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    before = row("q", "a", meta=meta)
    after = _run([before], "mask_pii").kept[0]
    assert json.loads(after.meta) == {"k": clean}
    assert sum(count_pii(before).values()) == (value != clean)
    assert not count_pii(after)


def test_a_number_that_names_a_field_is_counted_as_left(row: MakeRow) -> None:
    after = _run([row("q", "a", meta='{"by":{"13800138000":"x"}}')], "mask_pii").kept[0]
    assert count_pii(after) == {"phone": 1}


def test_personal_data_is_masked_in_every_column(row: MakeRow) -> None:
    meta = json.dumps({"phone": 13800138000, "note": ["寄到zhang@qq.com"], "n": 5})
    outcome = _run([row("电话13800138000", "好的13800138000", label="a@b.cn", meta=meta)], "mask_pii")
    after = outcome.kept[0]
    assert after.texts() == ("电话[PHONE]", "好的[PHONE]")
    assert after.label == "[EMAIL]"
    assert json.loads(after.meta) == {"phone": "[PHONE]", "note": ["寄到[EMAIL]"], "n": 5}
    assert outcome.changed[0].rules == {"pii_phone": 3, "pii_email": 2}


def test_lengths_are_bounded_in_characters_and_user_turns(row: MakeRow) -> None:
    rows = [
        row("a", "b", line=1),
        row("aaa", "bbb", line=2),
        row("a", "b", "c", "d", line=3),
        row(text="abc", line=4),
    ]
    bounds = {"min_chars": 3, "max_chars": 5, "max_turns": 1}
    assert _rules(_run(rows, "length_bounds", **bounds)) == [
        (1, "too_short"),
        (2, "too_long"),
        (3, "too_many_turns"),
    ]


_TEXTS = st.sampled_from(
    ["", " ", "a", "A", "a  b", "电话13800138000", "你好", "\ufffd", "ä½\xa0å¥½", "long " * 9]
)
_ROWS = st.lists(st.tuples(st.lists(_TEXTS, max_size=3), st.sampled_from([None, "x", "y"])), max_size=25)


@settings(deadline=None)
@given(rows=_ROWS, batch=st.integers(1, 7), op=st.sampled_from(PLAIN))
def test_an_operator_does_not_see_how_rows_were_cut(
    rows: list[tuple[list[str], str | None]], batch: int, op: str
) -> None:
    made = [
        Row(
            f"r{i}",
            i,
            str(i),
            tuple(Message(("user", "assistant")[j % 2], t) for j, t in enumerate(turns)),
            None,
            label,
            "{}",
        )
        for i, (turns, label) in enumerate(rows, start=1)
    ]
    assert _run(made, op, batch) == _run(made, op, 1000)
