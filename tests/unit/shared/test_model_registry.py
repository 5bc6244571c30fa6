"""Names of registered models, the legal moves of their versions, and how callers are shared."""

from __future__ import annotations

import pytest

from shared.contracts.model_registry import (
    LEGAL,
    RegisteredRoute,
    ReleaseUsed,
    registered_name,
    shares,
    waivable,
)
from shared.errors import InvalidInput
from shared.task.split import choose


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("registry:service", ("service", None)),
        ("registry:service@12", ("service", 12)),
        ("service", None),
        ("task:service", None),
        (7, None),
    ],
)
def test_a_name_is_told_from_a_model(model: object, named: tuple[str, int | None] | None) -> None:
    assert registered_name(model) == named


@pytest.mark.parametrize(
    "model", ["registry:", "registry:Big", "registry:a@", "registry:a@x", "registry:a@123456789"]
)
def test_what_is_no_name_is_refused(model: str) -> None:
    with pytest.raises(InvalidInput, match="write registry:NAME"):
        registered_name(model)


def test_production_is_reached_from_staging_by_promotion_and_from_before_by_a_roll_back_alone() -> None:
    into = {action for (action, _), stage in LEGAL.items() if stage == "production"}
    assert into == {"promote", "restore"}
    assert [stage for action, stage in LEGAL if action == "promote"] == ["staging"]
    assert {stage for (_, stage) in LEGAL if ("archive", stage) in LEGAL} == {"candidate", "staging"}


def test_a_larger_share_moves_no_caller_back_to_production() -> None:
    keys = [f"u{n}" for n in range(2000)]
    for production, canary in ((1, 2), (3, 2)):
        got = {
            share: {key for key in keys if choose("reg", shares(production, canary, share), key) == canary}
            for share in (500, 1000, 5000)
        }
        assert got[500] < got[1000] < got[5000]
        assert 60 < len(got[500]) < 140
    assert shares(4, None, 0) == ((4, 10_000),)


def test_a_route_knows_the_models_of_its_versions() -> None:
    route = RegisteredRoute(id="reg", weights=((1, 1),), models=((1, "one"), (2, "two")))
    assert (route.model_of(2), route.model_of(3)) == ("two", None)
    used = ReleaseUsed(name="a", version=2)
    assert (used.model, used.metadata) == ("registry:a@2", {"registry": "a", "registry_version": 2})


def test_what_all_other_figures_stand_on_cannot_be_waived() -> None:
    assert [waivable(name) for name in ("quality", "slice:language=zh", "data_gate")] == [True] * 3
    assert [waivable(name) for name in ("parity", "same_items", "leakage", "erasure", "evaluation")] == [
        False
    ] * 5
