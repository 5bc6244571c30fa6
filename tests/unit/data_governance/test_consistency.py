"""Keys, references and entities across files: what is found, what is settled, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from services.data_governance.consistency.entities import MOST_SHARING
from services.data_governance.consistency.normal import email, name, phone
from services.data_governance.consistency.run import Checked, run
from shared.contracts.consistency import Checks
from shared.errors import InvalidInput

CRM = [
    {"id": 1, "name": "王 小明 先生", "phone": "138 0013 8000", "city": "上海", "at": "2026-01-01"},
    {"id": 2, "name": "Dr. Jane Doe", "phone": "+44 20 7946 0958", "city": "London", "at": "2026-05-01"},
    {"id": 3, "name": "李雷", "phone": None, "city": "北京", "at": "2026-01-01"},
]
SHOP = [
    {
        "nr": "a",
        "customer": "王小明",
        "tel": "+8613800138000",
        "town": "北京",
        "changed": "2026-03-01",
        "mail": "W@x.cn",
    },
    {
        "nr": "b",
        "customer": "JANE  DOE",
        "tel": "020 1234",
        "town": "Paris",
        "changed": "2026-02-01",
        "mail": None,
    },
]
CALLS = [
    {"no": 1, "customer": 1, "place": "北京", "tel": "１３８００１３８０００"},
    {"no": 2, "customer": 9, "place": "x", "tel": "1"},
]
MATCH = [
    {"kind": "phone", "columns": {"crm": "phone", "shop": "tel", "calls": "tel"}},
    {"kind": "name", "columns": {"crm": "name", "shop": "customer"}},
]
ENTITIES = {
    "match": MATCH,
    "values": {
        "name": {"crm": "name", "shop": "customer"},
        "city": {"crm": "city", "shop": "town", "calls": "place"},
        "mail": {"shop": "mail"},
    },
    "rules": {"name": "priority", "city": "vote"},
    "priority": ["crm", "shop"],
    "newest": {"crm": "at", "shop": "changed"},
}


def checked(folder: Path, checks: dict[str, Any], **files: list[dict[str, Any]]) -> Checked:
    given = []
    for name_, rows in files.items():
        path = folder / f"{name_}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        given.append((name_, path, path.name))
    scratch = folder / "scratch"
    scratch.mkdir()
    return run(Checks.model_validate_json(json.dumps(checks)), given, scratch, lambda: None)


def things(done: Checked) -> dict[frozenset[str], dict[str, Any]]:
    assert done.merged is not None
    return {
        frozenset(f"{m['source']}#{m['key']}" for m in row["_origin"]): row
        for row in pq.read_table(done.merged).to_pylist()
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("13800138000", "+8613800138000"),
        ("１３８ ００１３-８０００", "+8613800138000"),
        ("+86 138-0013-8000", "+8613800138000"),
        ("0086 13800138000", "+8613800138000"),
        ("(+44) 020 7946 0958", "+442079460958"),
        ("12345", None),
        ("no phone", None),
    ],
)
def test_phone_numbers_meet_in_e164(text: str, found: str | None) -> None:
    assert phone(text, "CN") == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("王 小明先生", "王小明"),
        ("Dr. Jane Doe", "ＪＡＮＥ doe"),
        ("O'Neil, Mr. Pat", "oneil pat"),
        ("张三经理", "张三"),
    ],
)
def test_names_meet_without_width_case_spaces_and_titles(one: str, other: str) -> None:
    assert name(one) == name(other) != None  # noqa: E711


def test_a_single_letter_and_what_is_no_address_tell_nobody_apart() -> None:
    assert (name("A."), name("先生"), email("nobody"), email(" Ａ@X.cn ")) == (None, "先生", None, "a@x.cn")


def test_values_that_stand_twice_in_a_key_and_nulls_are_found_with_their_places(tmp_path: Path) -> None:
    rows = [{"id": n % 4, "x": 1} for n in range(8)] + [{"id": None, "x": 2}, {"id": 77, "x": 1}]
    [told] = checked(tmp_path, {"keys": [{"input": "a", "columns": ["id"]}]}, a=rows).report["keys"]
    assert (told["values"], told["rows"], told["nulls"], told["ok"]) == (4, 8, 1, False)
    assert told["samples"][0] == {"value": {"id": 0}, "rows": 2, "places": ["1", "5"]}


def test_a_key_that_holds_is_said_to(tmp_path: Path) -> None:
    done = checked(tmp_path, {"keys": [{"input": "crm", "columns": ["id", "name"]}]}, crm=CRM)
    assert (done.report["ok"], done.merged) == (True, None)


def test_rows_that_name_nothing_are_found_whatever_the_types(tmp_path: Path) -> None:
    rule = {"input": "calls", "columns": ["customer"], "to": "crm", "to_columns": ["id"]}
    crm = [row | {"id": str(row["id"])} for row in CRM]
    calls = [*CALLS, {"no": 3, "customer": None, "place": "", "tel": ""}]
    [told] = checked(tmp_path, {"references": [rule]}, crm=crm, calls=calls).report["references"]
    assert (told["rows"], told["samples"]) == (1, [{"value": {"customer": 9}, "rows": 1, "places": ["2"]}])


def test_records_of_one_thing_are_matched_through_any_of_their_keys(tmp_path: Path) -> None:
    done = checked(tmp_path, {"entities": ENTITIES}, crm=CRM, shop=SHOP, calls=CALLS)
    found = things(done)
    assert set(found) == {
        frozenset({"crm#1", "shop#1", "calls#1"}),
        frozenset({"crm#2", "shop#2"}),
        frozenset({"crm#3"}),
        frozenset({"calls#2"}),
    }
    assert done.rows == 4
    assert done.report["entities"]["records_without_a_key"] == 1


def test_contradictions_are_settled_by_their_rules_and_all_told(tmp_path: Path) -> None:
    done = checked(tmp_path, {"entities": ENTITIES}, crm=CRM, shop=SHOP, calls=CALLS)
    found = things(done)
    wang = found[frozenset({"crm#1", "shop#1", "calls#1"})]
    assert (wang["name"], wang["city"], wang["mail"]) == ("王 小明 先生", "北京", "W@x.cn")
    # One vote each: the source that is trusted more.
    assert found[frozenset({"crm#2", "shop#2"})]["city"] == "London"
    assert done.conflicts is not None
    notes = {(row["entity"], row["column"]): row for row in pq.read_table(done.conflicts).to_pylist()}
    assert set(notes) == {("crm#1", "name"), ("crm#1", "city"), ("crm#2", "name"), ("crm#2", "city")}
    assert (notes["crm#1", "city"]["from"], len(json.loads(notes["crm#1", "city"]["values"]))) == (
        "shop#1",
        3,
    )
    assert done.report["entities"]["conflicts"] == {"total": 4, "by_column": {"name": 2, "city": 2}}


def test_the_newest_record_wins_where_the_rule_says_so(tmp_path: Path) -> None:
    spec = ENTITIES | {"rules": {"name": "priority", "city": "newest"}}
    found = things(checked(tmp_path, {"entities": spec}, crm=CRM, shop=SHOP, calls=CALLS))
    assert found[frozenset({"crm#1", "shop#1", "calls#1"})]["city"] == "北京"
    assert found[frozenset({"crm#2", "shop#2"})]["city"] == "London"


def test_a_number_that_a_whole_firm_has_joins_nobody_and_is_told_of(tmp_path: Path) -> None:
    staff = [{"n": n, "tel": "010 65261234"} for n in range(MOST_SHARING + 1)]
    spec = {"match": [{"kind": "phone", "columns": {"a": "tel"}}], "values": {"n": {"a": "n"}}}
    done = checked(tmp_path, {"entities": spec}, a=staff)
    assert (done.rows, done.report["entities"]["forms_shared_too_often"]) == (len(staff), 1)


@pytest.mark.parametrize(
    ("checks", "param"),
    [
        ({"keys": [{"input": "crm", "columns": ["idd"]}]}, "checks.keys[0].columns"),
        ({"entities": ENTITIES | {"newest": {"crm": "no"}}}, "checks.entities.newest.crm"),
        (
            {"entities": ENTITIES | {"values": {"x": {"crm": "no"}}, "rules": {}}},
            "checks.entities.values.x.crm",
        ),
    ],
)
def test_a_column_that_is_not_there_is_refused_by_its_place(
    tmp_path: Path, checks: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(tmp_path, checks, crm=CRM, shop=SHOP, calls=CALLS)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "checks",
    [
        {},
        {"entities": ENTITIES | {"rule": "newest", "newest": {}}},
        {"entities": ENTITIES | {"rules": {"nme": "vote"}}},
        {"references": [{"input": "a", "columns": ["x"], "to": "b", "to_columns": ["x", "y"]}]},
        {"keys": [{"input": "a", "columns": []}]},
    ],
)
def test_checks_that_cannot_be_meant_are_refused(checks: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Checks.model_validate_json(json.dumps(checks))
