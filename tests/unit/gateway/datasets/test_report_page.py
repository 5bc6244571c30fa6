"""The report as a page: all sections, why a gate failed, and nothing of the data that a browser would run."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from services.gateway.datasets.report_page import POLICY, render_report

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
SECTIONS = [
    "verdict", "waterfall", "dropped", "changed", "content", "groups", "pii", "leakage", "drift",
]  # fmt: skip


class Seen(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _report(text: str = "您好") -> dict[str, Any]:
    sample = {"line": 3, "row_id": "row-1", "reason": "an earlier row has the same content", "text": text}
    change = {"line": 4, "row_id": "row-2", "before": text, "after": "好"}
    return {
        "rows_in": 100,
        "rows_kept": 80,
        "dropped": {"exact_duplicates": 15, "not_json": 5},
        "changed": {"pii_phone": 12},
        "splits": {"train": 70, "validation": 10, "test": 0},
        "steps": [
            {
                "op": "exact_duplicates",
                "version": 1,
                "rows_in": 95,
                "rows_kept": 80,
                "dropped": {"exact_duplicates": 15},
                "changed": {},
            }
        ],
        "bad_rows": {
            "total": 5,
            "listed": [{"line": 9, "code": "not_json", "message": "column 2", "byte": 77}],
        },
        "samples": {"dropped": {"exact_duplicates": [sample]}, "changed": {"pii_phone": [change]}},
        "groups": {
            "exact_duplicates": {
                "groups": 7,
                "rows": 22,
                "largest": [{"first": 0, "size": 4, "examples": [text]}],
            }
        },
        "pii": {"masked": {"phone": 12}, "left": {"email": 1}},
        "chars": {"p50": 20, "p95": 60, "max": 90},
        "lengths": {"16": 60, "64": 20},
        "nulls": {},
        "scripts": {"chinese": 0.75, "latin": 0.25},
        "labels": {"counts": {text: 50, "物流": 30}, "rows_beyond_listed": 0, "balance": 0.95},
        "leakage": {"questions_in_both_splits": 0},
    }


def _drift(label: str = "发票") -> dict[str, Any]:
    cells = [{"name": label, "before": 0.0, "after": 0.2}]
    figure = {"name": "labels", "psi": 1.52, "verdict": "shifted", "chance": 0.01, "cells": cells}
    return {
        "against": "dsv-before",
        "psi": 1.52,
        "verdict": "shifted",
        "figures": [figure],
        "labels": {"new": [label], "vanished": ["旧"]},
    }


def _page(*, names: tuple[str, ...] = ("客服.jsonl",), **values: Any) -> str:
    version: dict[str, Any] = {
        "id": "dsv-1",
        "dataset": "客服",
        "created_at": datetime(2026, 5, 4, tzinfo=UTC),
        "rows": 80,
        "gate_passed": True,
        "gate": {"passed": True, "reasons": [], "checks": []},
        "report": _report(),
        "drift": None,
    }
    return render_report({**version, **values}, names)


def test_a_page_has_every_section_and_its_rows_in_words_of_both_languages() -> None:
    seen = Seen(_page(drift=_drift()))
    assert [one["id"] for tag, one in seen.tags if tag == "section"] == SECTIONS
    for told in ("客服.jsonl", "您好", "物流", "exact_duplicates", "64–127", "75.0%", "dsv-before", "发票"):
        assert told in seen.text


def test_the_waterfall_goes_from_rows_in_over_each_loss_to_rows_kept() -> None:
    page = _page()
    rows = re.findall(r'aria-label="(\d+) rows, (\d+) dropped"', page)
    assert rows == [("100", "0"), ("95", "5"), ("80", "15"), ("80", "0")]
    assert 'x="80.000%" width="15.000%"' in page


def test_a_version_that_passed_says_so_and_one_that_failed_says_why() -> None:
    reason = "max_drift: drift of labels is 1.52, at most 0.2 is asked for"
    gate = {"passed": False, "reasons": [reason], "checks": []}
    failed = Seen(_page(gate_passed=False, gate=gate)).text
    assert "training refuses it" in failed
    assert reason in failed
    assert "passed its gate" in Seen(_page()).text


def test_a_row_that_could_not_be_read_is_told_with_its_place_and_why() -> None:
    assert "line 9: column 2" in Seen(_page()).text


def test_hostile_text_in_samples_labels_names_and_reasons_stays_text() -> None:
    gate = {"passed": False, "reasons": [HOSTILE], "checks": []}
    page = _page(
        names=(HOSTILE,),
        dataset=HOSTILE,
        report=_report(HOSTILE),
        drift=_drift(HOSTILE),
        gate=gate,
        gate_passed=False,
    )
    seen = Seen(page)
    assert not {"script", "img", "link", "iframe", "a"} & {tag for tag, _ in seen.tags}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    # Title, heading, file, reason, label, sample, before, group twice, drift twice: each as it was written.
    assert seen.text.count(HOSTILE) >= 10


def test_a_page_names_nothing_outside_itself() -> None:
    page = _page(drift=_drift())
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert not [tag for tag, attributes in Seen(page).tags if {"src", "href", "style"} & attributes.keys()]


def test_the_policy_lets_the_page_s_own_style_through_and_nothing_else() -> None:
    page = _page()
    style = page[page.index("<style>") + len("<style>") : page.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert POLICY.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    meta = next(one for tag, one in Seen(page).tags if tag == "meta" and "http-equiv" in one)
    assert POLICY.startswith(str(meta["content"]))


@pytest.mark.parametrize("report", [{}, {"rows_in": 4}, {"rows_in": 0, "rows_kept": 0}])
def test_a_report_of_an_older_version_that_lacks_parts_still_makes_a_page(report: dict[str, Any]) -> None:
    page = _page(report=report)
    assert "There is no version before this one" in page
    assert "Not measured." in page


def test_leaked_questions_are_counted() -> None:
    report = {**_report(), "leakage": {"questions_in_both_splits": 3}}
    assert "3 distinct questions stand in training" in " ".join(Seen(_page(report=report)).text.split())
