"""What a worker says of itself, and what it does not load."""

from __future__ import annotations

import pytest

from services.inference.engines import check_packages
from services.inference.placement import check_served, holdings
from shared.contracts.batches import Batch, BatchShard
from shared.contracts.inference import Generate, ModelRef, rows_queue
from shared.errors import HeliuError
from shared.settings import read_settings


def test_a_base_that_is_not_named_is_not_loaded() -> None:
    check_served((), "any")
    check_served(("a", "b"), "b")
    with pytest.raises(HeliuError, match="serves a, b and not 'c'") as caught:
        check_served(("a", "b"), "c")
    assert (caught.value.code, caught.value.retryable) == ("wrong_worker", True)


def test_holdings_are_told_by_name_where_a_request_gave_one() -> None:
    stats = {
        "models": [{"base_id": "sha256:1", "bytes": 10, "adapters": ["sha256:2"], "running": 1}],
        "encoders": [{"encoder_id": "sha256:3", "bytes": 5, "waiting": 0}],
    }
    told = holdings(("qwen",), stats, {"sha256:1": 7.9}, {"sha256:1": "qwen", "sha256:2": "tuned"})
    assert told == {
        "serves": ["qwen"],
        "bases": [
            {
                "name": "qwen",
                "artifact": "sha256:1",
                "bytes": 10,
                "since": 7,
                "adapters": [{"name": "tuned", "artifact": "sha256:2", "since": None}],
            }
        ],
        "encoders": [{"name": "sha256:3", "artifact": "sha256:3", "bytes": 5, "since": None}],
    }
    assert holdings((), {}, {}, {}) == {"serves": None, "bases": [], "encoders": []}


def test_a_call_goes_to_workers_of_its_base_before_those_of_any() -> None:
    ref = ModelRef(name="tuned", base="qwen", base_artifact="a", adapter_artifact="b")
    call = Generate(model=ref, prompts=("x",))
    assert call.queues_for("gpu") == ("inference.gpu.qwen.live", "inference.gpu.live")
    assert call.needs == "the model 'tuned' (base 'qwen')"
    # A base of any name stays apart from the pool's own queues.
    for name in ("live", "batch", "rows"):
        call = Generate(model=ModelRef(name=name, base_artifact="a"), prompts=("x",))
        assert call.queues_for("gpu")[0] != call.queue_for("gpu")
        assert rows_queue("gpu", name) not in (Batch.queue_for("gpu"), BatchShard.queue_for("gpu"))


def test_the_names_of_served_bases_are_read_with_commas() -> None:
    assert read_settings({"HELIU_MODELS": " a, b,,a "}).served_models == ("a", "b")
    assert read_settings({}).served_models == ()


def test_a_worker_without_packages_refuses_models_of_its_own_before_it_fetches_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_packages("qwen")
    monkeypatch.setattr("services.inference.engines.find_spec", lambda _: None)
    with pytest.raises(HeliuError, match="'qwen' has no packages") as caught:
        check_packages("qwen")
    assert (caught.value.code, caught.value.retryable) == ("no_worker", True)
