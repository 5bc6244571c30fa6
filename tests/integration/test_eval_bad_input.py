"""Whatever is wrong with an eval or a run is a 4xx that names the place and what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import servers
from tests.integration.eval_bodies import EXACT, completions, config, given
from tests.integration.gateway_app import RunningGateway, neighbour, running_gateway


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One gateway for the whole table, without a worker: what ought to be refused and is not would wait."""
    url = servers.new_database(postgres.url, "test_eval_bad_input", template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home"), eval_python=True) as running:
        running.add_model("far")
        running.add_model("encoder", kind="encoder")
        yield running
    servers.drop_database(postgres.url, "test_eval_bad_input")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    (
        {"data_source_config": {"type": "logs", "metadata": {"use": 1}}},
        "data_source_config.metadata.use",
        "valid string",
    ),
    (
        {"data_source_config": {"type": "logs", "item_schema": {"type": "object"}}},
        "data_source_config.item_schema",
        "unknown parameter",
    ),
    (
        {"data_source_config": config({"type": "list"})},
        "data_source_config.item_schema.type",
        "one of object",
    ),
    ({"data_source_config": config({"$ref": "#"})}, "data_source_config.item_schema", "not served"),
    ({"testing_criteria": []}, "testing_criteria", "at least 1"),
    ({"testing_criteria": [{**EXACT, "type": "vibes"}]}, "testing_criteria[0].type", "string_check"),
    ({"testing_criteria": [EXACT, EXACT]}, "testing_criteria[1].name", "earlier one"),
    (
        {"testing_criteria": [{**EXACT, "reference": "{{item.anser}}"}]},
        "testing_criteria[0].reference",
        "item.answer",
    ),
    (
        {"testing_criteria": [{**EXACT, "input": "{{ item.answer"}]},
        "testing_criteria[0].input",
        "no template",
    ),
    (
        {"testing_criteria": [{**EXACT, "input": "{{item.answer.upper()}}"}]},
        "testing_criteria[0].input",
        "call",
    ),
    ({"testing_criteria": [{**EXACT, "operation": "equals"}]}, "testing_criteria[0].operation", "eq"),
    ({"testing_criteria": [{**EXACT, "grace": 1}]}, "testing_criteria[0].grace", "unknown parameter"),
    ({"data_source_config": config(sample=False)}, "testing_criteria[0].input", "include_sample_schema"),
    (
        {"testing_criteria": [{"type": "python", "name": "p", "source": "def grade(:"}]},
        "testing_criteria[0].source",
        "no Python",
    ),
    (
        {
            "testing_criteria": [
                {
                    "type": "label_model",
                    "name": "j",
                    "model": "farr",
                    "labels": ["a"],
                    "passing_labels": ["a"],
                    "input": [{"role": "user", "content": "x"}],
                }
            ]
        },
        "testing_criteria[0].model",
        "did you mean 'far'",
    ),
    (
        {
            "testing_criteria": [
                {
                    "type": "score_model",
                    "name": "s",
                    "model": "encoder",
                    "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
                }
            ]
        },
        "testing_criteria[0].input[0].content",
        "evals are of text",
    ),
    ({"metrics": [{"type": "bleu", "reference": "{{item.gold}}"}]}, "metrics[0].reference", "item.gold"),
    ({"slices": ["colour"]}, "slices[0]", "item.colour"),
    ({"cluster": "conversation"}, "cluster", "item.NAME"),
    ({"metadata": {"a": 1}}, "metadata.a", "string"),
]


@pytest.mark.parametrize(("changes", "param", "words"), WRONG)
def test_a_wrong_eval_is_refused_with_place_and_mend(
    gateway: RunningGateway, changes: dict[str, Any], param: str, words: str
) -> None:
    body = {"data_source_config": config(), "testing_criteria": [EXACT], **changes}
    with gateway.http() as http:
        answer = http.post("/v1/evals", json=body)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404), error
    assert (error["param"], words in error["message"]) == (param, True), error


def test_a_wrong_run_is_refused_before_a_worker_is_taken(gateway: RunningGateway) -> None:
    with gateway.http() as http:
        made = http.post(
            "/v1/evals", json={"data_source_config": config(), "testing_criteria": [EXACT]}
        ).json()
    good = given({"question": "a", "answer": "a"})
    template = {"type": "template", "template": [{"role": "user", "content": "{{item.quest}}"}]}
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"type": "jsonl", "source": {"type": "responses"}}, "data_source.source", "not served"),
        ({"type": "jsonl", "source": {"type": "stored_completions"}}, "data_source.source", "need question"),
        ({"type": "completions", "source": good}, "data_source.model", "missing"),
        (
            {"type": "jsonl", "source": {"type": "file_id", "id": "file-x"}},
            "data_source.source.id",
            "no file",
        ),
        (
            {"type": "jsonl", "source": given({"question": 1, "answer": "a"})},
            "data_source.source.content[0].item",
            "item.question must be of the type string",
        ),
        (completions(good, model="nope"), "data_source.model", "does not exist"),
        (completions(good, model="encoder"), "data_source.model", "encoder"),
        (completions(good, model="task:nope"), "data_source.model", "does not exist"),
        (completions(good, model="task:say it"), "data_source.model", "is no task"),
        (
            completions(good, input_messages=template),
            "data_source.input_messages.template[0].content",
            "item.question",
        ),
        (completions(good, input_messages=None), "data_source", "input_messages is missing"),
        (
            completions({"type": "dataset_version", "id": "dsv-nope"}),
            "data_source.source.id",
            "no dataset version",
        ),
        (
            completions(good, sampling_params={"temperature": 9}),
            "data_source.sampling_params.temperature",
            "2",
        ),
    ]
    for source, param, words in wrong:
        with gateway.http() as http:
            answer = http.post(f"/v1/evals/{made['id']}/runs", json={"data_source": source})
        error = answer.json()["error"]
        assert answer.status_code in (400, 404), (source, error)
        assert (error["param"], words in error["message"]) == (param, True), error
    with gateway.http() as http:
        assert http.get(f"/v1/evals/{made['id']}/runs").json()["data"] == []


def test_python_is_refused_where_the_operator_has_not_let_it(
    gateway: RunningGateway,
) -> None:
    grader = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}
    body = {"data_source_config": config(), "testing_criteria": [EXACT, grader]}
    with neighbour(gateway, eval_python=False) as url, gateway.http() as http:
        made = http.post(f"{url}/v1/evals", json=body)
        tried = http.post(f"{url}/v1/fine_tuning/alpha/graders/validate", json={"grader": grader})
    assert (made.status_code, made.json()["error"]["code"]) == (400, "python_not_allowed")
    assert made.json()["error"]["param"] == "testing_criteria[1].type"
    assert "HELIU_EVAL_PYTHON=on" in made.json()["error"]["message"]
    assert (tried.status_code, tried.json()["error"]["param"]) == (400, "grader.type")


def test_a_wrong_run_over_stored_chats_is_refused_before_a_worker_is_taken(gateway: RunningGateway) -> None:
    grader = {**EXACT, "reference": "{{item.output_text}}"}
    config = {"type": "stored_completions", "metadata": {"use": "refunds"}}
    with gateway.http() as http:
        made = http.post(
            "/v1/evals", json={"data_source_config": config, "testing_criteria": [grader]}
        ).json()
        unknown = {**EXACT, "reference": "{{item.answer}}"}
        refused = http.post("/v1/evals", json={"data_source_config": config, "testing_criteria": [unknown]})
        assert refused.json()["error"]["param"] == "testing_criteria[0].reference"
        source = {"type": "stored_completions"}
        asking = {"type": "item_reference", "item_reference": "item.input"}
        wrong: list[tuple[dict[str, Any], str, str]] = [
            ({"source": source}, "data_source.source", "no stored chat"),
            (
                {"source": {**source, "metadata": {"use": "other"}}},
                "data_source.source.metadata.use",
                "refunds",
            ),
            ({"source": {**source, "created_after": 9, "created_before": 3}}, "created_after", "behind"),
            ({"source": {**source, "limit": 0}}, "data_source.source.limit", "greater"),
            ({"source": source, "input_messages": asking}, "data_source.model", "missing"),
            ({"source": source, "model": "nope"}, "data_source.model", "does not exist"),
        ]
        for more, param, words in wrong:
            answer = http.post(
                f"/v1/evals/{made['id']}/runs", json={"data_source": {"type": "completions", **more}}
            )
            error = answer.json()["error"]
            assert answer.status_code in (400, 404), error
            assert (error["param"], words in error["message"]) == (param, True), error
