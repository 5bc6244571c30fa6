"""The benchmarks themselves: the quick form runs every one on real processes and writes whole rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import BENCHMARKS
from tests.bench.figures import KEYS, Figure, quantile
from tests.harness import ROOT

NAMES = {
    "submit_to_claimed_p50",
    "submit_to_claimed_p95",
    "idle_polled_p95",
    "freed_slot_to_start_p50",
    "dispatch_rate",
    "engine_vs_continuous_batching",
    "engine_vs_continuous_batching_as_it_comes",
    "engine_vs_generate_mixed",
    "engine_vs_generate_uniform",
    "engine_vs_matmuls",
    "adapters_8_vs_base",
    "adapters_many_vs_peft",
    "grammar_on_vs_off",
    "streaming_on_vs_off",
    "first_token_prefix_cold_vs_warm",
    "inter_token_p99_vs_p50",
    "chat_latency_p50",
    "chat_added_p50",
    "live_accepted_p50",
    "live_accepted_p99",
    "live_first_token_p50",
    "live_first_token_p99",
    "sse_events_a_core",
    "sse_events_in_step",
    "sse_events_at_once",
    "batch_platform_vs_engine",
    "goodput_worker_killed",
    "rows_lost_or_doubled",
    "memory_gateway",
    "memory_dispatcher",
    "memory_monitoring",
    "memory_data_governance",
    "memory_training",
    "memory_inference",
    "memory_postgres",
    "memory_valkey",
}
# By benchmark: what loads a trainer's libraries several times over.
HEAVY = {
    "packing": {"training_packed_vs_padded"},
    "training": {"training_platform_vs_script", "training_platform_vs_trainer"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([name for name in BENCHMARKS if name not in HEAVY], NAMES),
        pytest.param(list(HEAVY), set().union(*HEAVY.values()), marks=pytest.mark.long),
    ],
    ids=["most", "heavy"],
)
def test_the_quick_form_writes_every_figure_beside_its_peer(
    tmp_path: Path, parts: list[str], names: set[str]
) -> None:
    target = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json", str(target)]
    command += [word for part in parts for word in ("--only", part)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(target.read_text())
    assert {row["name"] for row in rows} == names
    for row in rows:
        assert tuple(row) == KEYS
        assert row["unit"]
        assert row["peer"]
        assert all(math.isfinite(row[key]) for key in ("value", "peer_value", "ratio"))
        assert row["peer_value"] > 0


def test_a_figure_is_the_ratio_to_its_peer() -> None:
    assert Figure("a", 3.0, "ms", "b", 2.0, "").as_json() == {
        "name": "a",
        "value": 3.0,
        "unit": "ms",
        "peer": "b",
        "peer_value": 2.0,
        "ratio": 1.5,
    }


def test_a_quantile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert quantile(values, 0.5) == 3.0
    assert quantile(values, 0.99) == 5.0
    assert quantile([7.0], 0.5) == 7.0
