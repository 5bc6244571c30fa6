"""Traces of the running platform: each flow is one connected tree over the queue, and no edge of the map is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from shared import semconv
from tests.e2e.stage import SAMPLES, Stage
from tests.e2e.topology import FLOWS, SERVICES, disconnected, missing_edges
from tests.unit.training.head_samples import dialogues

pytestmark = pytest.mark.timeout(900)


def small_search(stage: Stage) -> dict[str, Any]:
    """Two trials of a small classifier, one of which cannot learn anything."""
    rows = [{"text": one["question"], "label": one["intent"]} for one in dialogues(each=8)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    job = {
        "type": "head",
        "name": "searched",
        "head": "single_label",
        "method": "lstm",
        "training_file": stage.upload("intents.jsonl", lines.encode(), "fine-tune"),
        "hyperparameters": {"embedding_size": 16, "hidden_size": 16, "vocab_size": 400, "n_epochs": 8},
    }
    rates = {"type": "categorical", "choices": [1e-7, 0.02]}
    space = {"hyperparameters.learning_rate": rates}
    return {"job": job, "space": space, "sampler": "grid", "objective": {"metric": "valid_accuracy"}}


@pytest.fixture(scope="module")
def traces(stage: Stage) -> dict[str, str]:
    """A trace of every flow. Those of the first dataset, base and adapter are from when the platform came up."""
    client = stage.openai()
    chat = client.chat.completions.with_raw_response.create(
        model=stage.tuned, messages=[{"role": "user", "content": "你好"}], max_tokens=8
    )
    upstream = client.chat.completions.with_raw_response.create(
        model=stage.mirror, messages=[{"role": "user", "content": "你好"}], max_tokens=8
    )
    rows = [
        (str(n), {"model": stage.base, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})
        for n in range(20)
    ]
    batch = client.batches.create(
        input_file_id=stage.batch_file(rows), endpoint="/v1/chat/completions", completion_window="24h"
    )
    body = {"model": stage.tuned, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 8}
    with stage.http() as http:
        later = http.post("/v1/chat/completions", json={**body, "background": True}).json()
    noop = stage.post("/v1/jobs", {"kind": "noop", "steps": 1})
    evaluation = stage.post(
        "/v1/evaluations", {"model": stage.tuned, "dataset_version": stage.version, "limit": 4}
    )
    exact = {"type": "string_check", "name": "a", "input": "{{item.q}}", "reference": "hi", "operation": "eq"}
    made = client.evals.create(
        data_source_config={
            "type": "custom",
            "item_schema": {"type": "object"},
            "include_sample_schema": True,
        },
        testing_criteria=[exact],  # type: ignore[list-item]
    )
    prompt = {"type": "template", "template": [{"role": "user", "content": "{{item.q}}"}]}
    graded = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "model": stage.base,
            "source": {"type": "file_content", "content": [{"item": {"q": "hi"}}]},
            "input_messages": prompt,  # type: ignore[typeddict-item]
            "sampling_params": {"max_completion_tokens": 2},
        },
    )
    tried = client.fine_tuning.alpha.graders.with_raw_response.run(
        grader=exact,  # type: ignore[arg-type]
        model_sample="hi",
        item={"q": "hi"},
    )
    orders = {"kind": "files", "path": str(SAMPLES)}
    stage.post("/v1/sources", {"name": "traced", "connection": orders, "test": False})
    sync = stage.post("/v1/sources/traced/syncs")
    lines = stage.upload("orders.jsonl", b'{"id": 1}\n{"id": 2}\n', "user_data")
    keys = {"keys": [{"input": "orders", "columns": ["id"]}]}
    check = stage.post("/v1/checks", {"inputs": [{"name": "orders", "file_id": lines}], "checks": keys})
    search = stage.post("/v1/training/searches", small_search(stage))
    store = stage.post("/v1/vector_stores", {"embedding_model": stage.base})["id"]
    text = stage.upload("refunds.txt", "退款三天到账。".encode(), "user_data")
    with stage.http() as http:
        added = http.post(f"/v1/vector_stores/{store}/files", json={"file_id": text})
    assert added.status_code == 200, added.text
    client.vector_stores.files.poll(text, vector_store_id=store, poll_interval_ms=200)
    with stage.http() as http:
        preview = http.get(f"/v1/datasets/service/versions/{stage.version}/rows", params={"limit": 3})
    assert len(preview.json()["data"]) == 3
    for job in (
        search["id"],
        graded.id,
        sync["id"],
        check["id"],
        batch.id,
        noop["id"],
        evaluation["id"],
        later["id"],
    ):
        stage.succeeded(job)
    return {
        **stage.traces,
        "chat": chat.headers["x-trace-id"],
        "upstream": upstream.headers["x-trace-id"],
        "background": later["trace_id"],
        "batch": str(batch.model_dump()["trace_id"]),
        "noop": noop["trace_id"],
        "evaluation": evaluation["trace_id"],
        "eval": str(graded.model_dump()["trace_id"]),
        "grade": tried.headers["x-trace-id"],
        "search": search["trace_id"],
        "sync": sync["trace_id"],
        "check": check["trace_id"],
        "index": added.headers["x-trace-id"],
        "preview": preview.headers["x-trace-id"],
    }


def whole(stage: Stage, traces: dict[str, str], flow: str) -> Sequence[dict[str, Any]]:
    """The spans of the flow's own trace, once they are all in."""
    return stage.spans(
        [traces[flow]], lambda spans: not missing_edges(spans, [flow]) and not disconnected(spans)
    )


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_is_one_connected_trace_with_every_edge(
    stage: Stage, traces: dict[str, str], flow: str
) -> None:
    spans = whole(stage, traces, flow)
    assert missing_edges(spans, [flow]) == []
    assert disconnected(spans) == []
    assert {span["trace_id"] for span in spans} == {traces[flow]}


def test_every_edge_between_services_is_seen_in_real_spans(stage: Stage, traces: dict[str, str]) -> None:
    spans = stage.spans(list(traces.values()), lambda found: not missing_edges(found))
    assert missing_edges(spans) == []
    assert {span["service"] for span in spans} == set(SERVICES)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_consumer_tells_how_long_the_work_waited_and_which_attempt_it_is(
    stage: Stage, traces: dict[str, str], flow: str
) -> None:
    consumers = [span for span in whole(stage, traces, flow) if span["kind"] == "consumer"]
    assert consumers
    for span in consumers:
        assert float(span["attributes"][semconv.QUEUE_WAIT]) >= 0
        assert int(span["attributes"][semconv.ATTEMPT]) >= 1
        assert span["attributes"][semconv.TENANT] == str(stage.harness.tenant)


def test_a_chat_tells_when_its_first_token_came(stage: Stage, traces: dict[str, str]) -> None:
    (decode,) = [span for span in whole(stage, traces, "chat") if span["name"] == "engine.decode"]
    (event,) = decode["events"]
    assert event["name"] == "first_token"
    assert decode["start_ns"] <= event["time_ns"] <= decode["end_ns"]


def test_no_span_holds_what_was_said(stage: Stage, traces: dict[str, str]) -> None:
    for flow in ("chat", "batch"):
        assert "你好" not in str(whole(stage, traces, flow))


def test_a_search_has_its_trials_in_its_trace_and_the_best_one_is_served(
    stage: Stage, traces: dict[str, str]
) -> None:
    found = next(
        one for one in stage.get("/v1/training/searches")["data"] if one["trace_id"] == traces["search"]
    )
    shown = stage.get(f"/v1/training/searches/{found['id']}")
    assert [(one["state"], one["error"]) for one in shown["trials"]] == [("complete", None)] * 2
    assert shown["model"] == "searched"
    assert found["best"]["params"] == {"hyperparameters.learning_rate": 0.02}
    spans = whole(stage, traces, "search")
    trials = {span["attributes"].get(semconv.TRIAL) for span in spans} - {None}
    assert {int(number) for number in trials} == {0, 1}
    with stage.openai() as client:
        answer: Any = client.post(
            "/classifications", body={"model": "searched", "input": ["退款"]}, cast_to=object
        )
    assert len(answer["data"]) == 1
