"""Two runs side by side: constructed scores give known differences, verdicts and slices."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.evals.compare import compare
from services.gateway.evals.page import render_run
from services.gateway.evals.shapes import item_id, item_number


def rows(scores: list[float], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "item_key": f"k{n}",
            "cluster": more.get("cluster", lambda n: f"k{n}")(n),
            "passed": score >= 0.5,
            "score": score,
            "scores": {"exact": score, "judge": None if n % 2 else score},
            "slices": {"language": "chinese" if n < len(scores) // 2 else "latin"},
            "error": None,
        }
        for n, score in enumerate(scores)
    ]


def test_the_better_one_is_told_with_its_difference() -> None:
    a = rows([float(n % 4 == 0) for n in range(80)])
    b = rows([float(n % 4 != 1) for n in range(80)])
    told = compare(a, b)
    assert told["verdict"] == "better"
    assert told["score"]["difference"] == pytest.approx(0.5)
    assert told["score"]["low"] > 0.3
    assert (told["passed"]["a_only"], told["passed"]["b_only"]) == (0, 40)
    assert told["passed"]["mcnemar_p_value"] == pytest.approx(2 / 2**40)
    assert told["criteria"]["judge"]["n"] == 40
    assert told["slices"]["language"]["chinese"]["verdict"] == "better"
    assert compare(b, a)["verdict"] == "worse"
    assert compare(a, a)["verdict"] == "no_difference"


def test_few_items_are_inconclusive_however_clear_they_look() -> None:
    told = compare(rows([0.0] * 20), rows([1.0] * 20))
    assert (told["verdict"], told["score"]["difference"]) == ("inconclusive", 1.0)
    assert "20 independent items, and 30 are the least" in told["reason"]
    assert compare(rows([0.0] * 20), rows([1.0] * 20), min_items=20)["verdict"] == "better"


def test_items_of_one_cluster_count_as_one() -> None:
    talk = {"cluster": lambda n: f"talk {n // 20}"}
    told = compare(rows([0.0] * 200, **talk), rows([1.0] * 200, **talk))
    assert told["verdict"] == "inconclusive"
    assert "10 independent items" in told["reason"]


def test_only_items_that_both_have_are_compared() -> None:
    a, b = rows([0.0] * 50), rows([1.0] * 60)
    told = compare(a, b[10:])
    assert told["items"] == {"paired": 40, "only_in_a": 10, "only_in_b": 10}
    nothing = compare(a[:5], b[20:])
    assert (nothing["verdict"], nothing["reason"]) == ("inconclusive", "no item is in both runs")


def test_an_items_id_says_which_it_is_and_no_other_text_does() -> None:
    made = item_id("evalrun_abc", 12)
    assert item_number("evalrun_abc", made) == 12
    for wrong in (item_id("evalrun_abd", 12), "outputitem_abc_", "outputitem_abc_-1", f"{made}x", "12", ""):
        assert item_number("evalrun_abc", wrong) is None


def test_a_report_escapes_what_a_model_has_said() -> None:
    evil = "<script>alert(1)</script>"
    run = {
        "id": "evalrun_1",
        "name": evil,
        "model": evil,
        "status": "failed",
        "error": {"message": evil},
        "result_counts": {"total": 1, "passed": 0, "failed": 1, "errored": 0},
        "per_testing_criteria_results": [{"testing_criteria": evil, "passed": 0, "failed": 1}],
        "slices": {
            evil: {
                evil: {"n": 1, "passed": None, "score": None},
                "b": {"n": 1, "passed": None, "score": None},
            }
        },
    }
    item = {
        "datasource_item_id": 0,
        "status": "fail",
        "datasource_item": {"q": evil},
        "sample": {"output": [{"content": evil}]},
        "results": [{"name": evil, "passed": False, "score": 0.0, "error": {"message": evil}}],
    }
    page = render_run(evil, run, [item])
    assert "<script" not in page
    assert page.count("alert(1)") >= 8
