"""The spec frame: whole or refused, with the place of the fault."""

from __future__ import annotations

from typing import Any

import pytest

from services.training.run import Run
from services.training.spec import parse_spec
from shared.errors import HeliuError, InvalidInput

GOOD: dict[str, Any] = {
    "kind": "pretrain",
    "workdir": "/w",
    "output_dir": "/o",
    "data": {"train": ["/d.jsonl"]},
}


def test_a_whole_spec_is_taken() -> None:
    assert parse_spec(GOOD).kind == "pretrain"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kind": "dream"}, "kind"),
        ({"seed": -1}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"data": {"train": ["/d"], "test": []}}, "data.test"),
        ({"data": {}}, "spec"),
        ({"kind": "sft"}, "spec"),
        ({"kind": "encoder", "base_dir": "/b"}, "spec"),
        ({"adapter_dir": "/a"}, "spec"),
        ({"threads": 0}, "threads"),
    ],
)
def test_a_faulty_one_names_the_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_spec(GOOD | change)
    assert caught.value.param == place


def test_a_cancel_outweighs_an_earlier_pause() -> None:
    run = Run(lambda _: None)
    run.request_stop("pause")
    run.request_stop("drain")
    assert run.stop_reason == "pause"
    run.request_stop("cancel")
    assert run.stop_reason == "cancel"


def test_an_unknown_stop_reason_is_refused() -> None:
    with pytest.raises(HeliuError, match="unknown stop reason"):
        Run(lambda _: None).request_stop("why not")


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(HeliuError) as caught:
        Run(lambda _: None).metrics(3, {"train_loss": float("nan")})
    assert caught.value.code == "training_diverged"
