"""What asks for held-out rows is refused by name where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.contracts.early_stopping import asks_for_looks, check_watched
from shared.contracts.encoders import EncoderParameters
from shared.contracts.heads import HeadParameters
from shared.contracts.multi_task import MultiTaskParameters
from shared.contracts.training import PretrainParameters
from shared.errors import InvalidInput

ALL = (PretrainParameters, HeadParameters, MultiTaskParameters, EncoderParameters)


@pytest.mark.parametrize("of", ALL)
@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"early_stopping_patience": 3}, "early_stopping_patience"),
        ({"early_stopping_patience": 3, "keep_best": False}, "early_stopping_patience"),
        ({"keep_best": True}, "keep_best"),
        ({"keep_best": "auto"}, None),
        ({"keep_best": False, "early_stopping_patience": None}, None),
        ({}, None),
    ],
)
def test_only_what_is_asked_for_needs_held_out_rows(of: Any, given: dict[str, Any], name: str | None) -> None:
    asked = of(**given)
    assert asks_for_looks(asked) == name
    check_watched(asked, True)
    if name is None:
        check_watched(asked, False)
        return
    with pytest.raises(InvalidInput, match=f"leave {name} out") as refused:
        check_watched(asked, False)
    assert refused.value.param == f"hyperparameters.{name}"


@pytest.mark.parametrize("of", ALL)
@pytest.mark.parametrize("given", [{"early_stopping_patience": 0}, {"keep_best": "best"}])
def test_nothing_else_is_taken(of: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        of(**given)
