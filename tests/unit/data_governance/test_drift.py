"""Drift between two reports: the index by hand, its verdicts, and what a report cannot tell."""

from __future__ import annotations

from typing import Any

import pytest

from services.data_governance.drift import compare, psi, verdict
from services.data_governance.gates import with_drift
from shared.contracts.recipe import Gates

GATE = {
    "passed": True,
    "reasons": [],
    "checks": [{"name": "min_rows", "passed": True, "value": 9, "limit": 1}],
}


def _report(**values: Any) -> dict[str, Any]:
    report = {
        "rows_in": 1000,
        "rows_kept": 1000,
        "scripts": {"chinese": 0.5, "latin": 0.5},
        "lengths": {"16": 400, "32": 600},
        "labels": {"counts": {}, "rows_beyond_listed": 0},
        "pii": {"masked": {}, "left": {}},
    }
    return {**report, **values}


def _labels(beyond: int = 0, **counts: int) -> dict[str, Any]:
    return {"counts": counts, "rows_beyond_listed": beyond}


def _figure(drift: dict[str, Any], name: str) -> dict[str, Any]:
    return next(figure for figure in drift["figures"] if figure["name"] == name)


def test_the_index_is_the_sum_of_share_differences_times_log_ratios() -> None:
    # (.3-.5)*ln(.3/.5) + (.7-.5)*ln(.7/.5) = .2*.510826 + .2*.336472 = .169460
    assert psi({"a": 50, "b": 50}, {"a": 300, "b": 700}) == pytest.approx(0.169460, abs=1e-6)
    assert psi({"a": 300, "b": 700}, {"a": 50, "b": 50}) == pytest.approx(0.169460, abs=1e-6)


def test_a_cell_that_only_one_side_has_counts_as_one_in_ten_thousand() -> None:
    # (.1-.0001)*ln(.1/.0001) + (.9-1)*ln(.9/1) = .0999*6.907755 + .1*.105361 = .700621
    assert psi({"a": 10}, {"a": 90, "b": 10}) == pytest.approx(0.700621, abs=1e-6)


def test_the_verdicts_change_at_a_tenth_and_at_a_quarter() -> None:
    assert [verdict(value) for value in (0.0, 0.0999, 0.1, 0.2499, 0.25)] == [
        "stable", "stable", "moderate", "moderate", "shifted",
    ]  # fmt: skip


def test_a_report_has_not_moved_from_itself() -> None:
    one = _report(labels=_labels(x=700, y=300))
    drift = compare(one, one)
    assert (drift["psi"], drift["verdict"]) == (0.0, "stable")
    assert drift["labels"] == {"new": [], "vanished": []}


def test_the_figure_that_moved_most_gives_the_verdict() -> None:
    drift = compare(_report(), _report(scripts={"chinese": 0.3, "latin": 0.7}))
    assert {figure["name"]: figure["verdict"] for figure in drift["figures"]} == {
        "scripts": "moderate", "lengths": "stable", "dropped": "stable", "pii_masked": "stable",
    }  # fmt: skip
    assert (drift["psi"], drift["verdict"]) == (0.1695, "moderate")
    assert _figure(drift, "scripts")["cells"][0] == {"name": "chinese", "before": 0.5, "after": 0.3}


def test_each_figure_tells_what_chance_alone_makes_of_it() -> None:
    unlabelled = _report(nulls={"label": 1000})
    drift = compare(unlabelled, _report(rows_kept=500, labels=_labels(x=400, y=50, z=50)))
    # Three labels and the rows without one: 3 * (1/1000 + 1/500).
    assert _figure(drift, "labels")["chance"] == 0.009
    assert _figure(drift, "scripts")["chance"] == 0.003


def test_new_and_vanished_labels_are_named() -> None:
    drift = compare(_report(labels=_labels(退款=500, 物流=500)), _report(labels=_labels(退款=500, 发票=500)))
    assert drift["labels"] == {"new": ["发票"], "vanished": ["物流"]}
    assert _figure(drift, "labels")["verdict"] == "shifted"


def test_labels_that_a_report_may_only_not_list_are_neither_new_nor_moved() -> None:
    before, now = _labels(beyond=500, a=400, b=100), _labels(beyond=0, a=400, c=600)
    drift = compare(_report(labels=before), _report(labels=now))
    assert drift["labels"] == {"new": None, "vanished": ["b"]}
    assert _figure(drift, "labels")["psi"] == 0.0


def test_losing_every_label_is_a_shift() -> None:
    drift = compare(_report(labels=_labels(x=1000)), _report(nulls={"label": 1000}))
    assert _figure(drift, "labels")["verdict"] == "shifted"


def test_more_dropped_and_more_masked_show_each_in_their_figure() -> None:
    drift = compare(_report(), _report(rows_kept=500, pii={"masked": {"phone": 1000}}))
    assert _figure(drift, "dropped")["verdict"] == "shifted"
    assert {"name": "phone", "before": 0.0, "after": 0.5} in _figure(drift, "pii_masked")["cells"]


def test_a_report_from_before_there_were_lengths_is_compared_in_all_else() -> None:
    old = _report()
    del old["lengths"]
    assert [figure["name"] for figure in compare(old, _report())["figures"]] == [
        "scripts", "dropped", "pii_masked",
    ]  # fmt: skip


def test_a_version_without_rows_has_no_shares_to_move() -> None:
    empty = _report(rows_in=0, rows_kept=0, scripts={}, lengths={})
    assert compare(empty, _report())["figures"] == []


def test_drift_beyond_its_limit_fails_the_gate_and_names_the_figure() -> None:
    drift = compare(_report(), _report(scripts={"chinese": 0.3, "latin": 0.7}))
    gate = with_drift(GATE, Gates(max_drift=0.1), drift)
    assert not gate["passed"]
    assert gate["reasons"] == ["max_drift: drift of scripts is 0.1695, at most 0.1 is asked for"]
    assert [check["name"] for check in gate["checks"]] == ["min_rows", "max_drift"]


def test_drift_within_its_limit_or_without_one_leaves_the_verdict() -> None:
    drift = compare(_report(), _report(scripts={"chinese": 0.3, "latin": 0.7}))
    assert with_drift(GATE, Gates(max_drift=0.2), drift)["passed"]
    assert with_drift(GATE, Gates(), drift) == GATE
