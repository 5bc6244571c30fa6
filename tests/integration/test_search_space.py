"""What a search may be, through the real gateway without a worker: what can be known is refused at once, by place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

RATE, SIZE = "hyperparameters.learning_rate", "hyperparameters.batch_size"
LOG_RATE = {"type": "float", "low": 1e-4, "high": 0.1, "log": True}
HEAD = {"type": "head", "name": "h", "head": "single_label", "method": "lstm", "training_file": "dsv-1"}
TUNE = {"type": "sft", "model": "m", "training_file": "dsv-1"}


def choice(*choices: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(choices)}


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    url = servers.new_database(postgres.url, "test_search_space", template="heliu_template")
    home: Path = tmp_path_factory.mktemp("home")
    with running_gateway(url, valkey.url, home) as running:
        running.add_model("m")
        running.add_model("other")
        running.add_version("dsv-1")
        yield running
    servers.drop_database(postgres.url, "test_search_space")


def ask(gateway: RunningGateway, key: str = "acme", **body: Any) -> tuple[int, dict[str, Any]]:
    with gateway.http(key) as http:
        answer = http.post("/v1/training/searches", json={"job": HEAD, "space": {RATE: LOG_RATE}, **body})
    return answer.status_code, answer.json()


def payload(gateway: RunningGateway, search: str) -> dict[str, Any]:
    with gateway.as_tenant() as c:
        row = c.execute("SELECT payload FROM core.job WHERE id = %s", (search,)).fetchone()
    assert row is not None
    return dict(row["payload"])


BAD: list[tuple[dict[str, Any], str, int, str]] = [
    ({"space": {}}, "space", 400, ""),
    (
        {"space": {"hyperparameters.learning_rat": LOG_RATE}},
        "space.hyperparameters.learning_rat",
        400,
        "mean",
    ),
    ({"space": {"learning_rate": LOG_RATE}}, "space.learning_rate", 400, "unknown"),
    ({"space": {RATE + ".x": LOG_RATE}}, f"space.{RATE}.x", 400, ""),
    ({"space": {"hyperparameters.": LOG_RATE}}, "space.hyperparameters.", 400, "no parameter"),
    ({"space": {"name": choice("a", "b")}}, "space.name", 400, "cannot be searched"),
    ({"space": {"type": choice("head", "sft")}}, "space.type", 400, "cannot be searched"),
    ({"space": {RATE: {**LOG_RATE, "low": 0.0}}}, f"space.{RATE}", 400, "log scale"),
    (
        {"space": {RATE: {"type": "float", "low": -1.0, "high": 1.0}}},
        f"space.{RATE}",
        400,
        "greater than or equal",
    ),
    ({"space": {RATE: {**LOG_RATE, "high": 1e-5}}}, f"space.{RATE}", 400, "low must be the smaller"),
    ({"space": {RATE: {**LOG_RATE, "step": 0.1}}}, f"space.{RATE}", 400, "do not go together"),
    ({"space": {RATE: {**LOG_RATE, "mode": 1}}}, f"space.{RATE}.mode", 400, "unknown"),
    ({"space": {SIZE: {"type": "int", "low": 0, "high": 8}}}, f"space.{SIZE}", 400, "greater than or equal"),
    ({"space": {SIZE: {"type": "int", "low": 1, "high": 10**9}}}, f"space.{SIZE}", 400, "4096"),
    ({"space": {SIZE: {"type": "float", "low": 1.5, "high": 8.0}}}, f"space.{SIZE}", 400, ""),
    ({"space": {"loss": choice("focal", "focall")}}, "space.loss", 400, "cross_entropy"),
    ({"space": {"loss": choice("focal", "focal")}}, "space.loss", 400, "twice"),
    ({"space": {"loss": choice("focal")}}, "space.loss.choices", 400, ""),
    # Each is right by itself and the two are not.
    (
        {
            "space": {
                "loss": choice("label_smoothing", "focal"),
                "hyperparameters.label_smoothing": {"type": "float", "low": 0.01, "high": 0.2},
            }
        },
        "space.hyperparameters.label_smoothing",
        400,
        "label_smoothing",
    ),
    ({"space": {"model": choice("m", "nobody")}, "job": TUNE}, "space.model", 404, "nobody"),
    ({"job": {**HEAD, "training_file": "dsv-2"}}, "job.training_file", 404, ""),
    ({"job": {**HEAD, "head": "sorting"}}, "job.head", 400, ""),
    ({"job": {**HEAD, "hyperparameters": {"layers": 100}}}, "job.hyperparameters.layers", 400, ""),
    ({"job": {"type": "dream"}}, "job.type", 400, ""),
    ({"objective": {"metric": "valid_acuracy"}}, "objective.metric", 400, "valid_accuracy"),
    ({"objective": {"metric": "valid_ndcg"}}, "objective.metric", 400, "valid_macro_f1"),
    ({"objective": {"metric": "valid_loss", "direction": "maximize"}}, "objective.direction", 400, "smaller"),
    ({"trials": 0}, "trials", 400, ""),
    ({"trials": 100_000}, "trials", 400, ""),
    ({"parallel": 0}, "parallel", 400, ""),
    ({"sampler": "cmaes"}, "sampler", 400, ""),
    ({"sampler": "grid"}, f"space.{RATE}", 400, "step"),
    (
        {"sampler": "grid", "trials": 5, "space": {SIZE: {"type": "int", "low": 1, "high": 9}}},
        "trials",
        400,
        "9",
    ),
    ({"sampler": "grid", "space": {SIZE: {"type": "int", "low": 1, "high": 4000}}}, "space", 400, "1001"),
    ({"pruner": "hyperband", "pruner_startup_trials": 3}, "pruner_startup_trials", 400, "median"),
    ({"name": "m"}, "name", 409, "exists"),
    ({"name": "a b"}, "name", 400, ""),
    ({"max_seconds": 0}, "max_seconds", 400, ""),
    ({"spase": {}}, "spase", 400, "space"),
]


@pytest.mark.parametrize(("body", "param", "status", "word"), BAD)
def test_what_no_trial_could_be_is_refused_by_its_place(
    gateway: RunningGateway, body: dict[str, Any], param: str, status: int, word: str
) -> None:
    answered, answer = ask(gateway, **body)
    assert (answered, answer["error"]["param"]) == (status, param), answer
    assert word in answer["error"]["message"]


def test_a_job_without_held_out_rows_cannot_be_searched_by_what_is_measured_on_them(
    gateway: RunningGateway,
) -> None:
    row = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    with gateway.http() as http:
        file = http.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", row)}
        ).json()
    job = {**TUNE, "training_file": file["id"]}
    status, answer = ask(gateway, job=job)
    assert (status, answer["error"]["param"]) == (400, "job.validation_file")
    status, answer = ask(gateway, job=job, objective={"metric": "train_loss"})
    assert (status, answer["objective"]["direction"]) == (200, "minimize")


def test_values_land_where_the_contract_has_them(gateway: RunningGateway) -> None:
    space = {
        "model": choice("m", "other"),
        "hyperparameters.lora_r": {"type": "int", "low": 2, "high": 16, "log": True},
        "hyperparameters.target_modules": choice("auto", ["q_proj"], ["q_proj", "v_proj"]),
        "seed": {"type": "int", "low": 0, "high": 4, "step": 2},
    }
    status, answer = ask(gateway, job=TUNE, space=space, trials=7, seed=5)
    assert status == 200, answer
    assert (answer["status"], answer["trials_wanted"], answer["counts"]["total"]) == ("queued", 7, 0)
    assert answer["objective"] == {"metric": "valid_loss", "direction": "minimize"}
    stored = {one["path"]: one for one in payload(gateway, answer["id"])["space"]}
    assert stored["hyperparameters.lora_r"]["place"] == "hyperparameters.lora_r"
    assert [set(one) for one in stored["model"]["patches"]] == [{"base.model"}] * 2
    assert stored["hyperparameters.target_modules"]["patches"][1] == {
        "hyperparameters.target_modules": ["q_proj"]
    }
    with gateway.http() as http:
        shown = http.get(f"/v1/training/searches/{answer['id']}").json()
        assert shown["space"] == {
            path: {"log": False, "step": 1, **one} if one["type"] == "int" else one
            for path, one in space.items()
        }
        assert shown["trials"] == []
        assert http.get(f"/v1/training/searches/{answer['id']}/importance").json()["importances"] is None
        assert http.get(f"/v1/training/searches/{answer['id']}/history").json()["data"] == []
        page = http.get(f"/v1/training/searches/{answer['id']}/report")
    assert (page.status_code, "None yet" in page.text) == (200, True)
    assert "script" not in page.headers["content-security-policy"]


def test_a_small_space_is_tried_no_more_often_than_it_has_points(gateway: RunningGateway) -> None:
    status, answer = ask(gateway, space={"loss": choice("focal", "cross_entropy")}, trials=50)
    assert (status, answer["trials_wanted"]) == (200, 2)
    status, answer = ask(gateway, space={SIZE: {"type": "int", "low": 1, "high": 9}}, sampler="grid")
    assert (status, answer["trials_wanted"]) == (200, 9)


def test_a_tenant_sees_and_stops_only_its_own_searches(gateway: RunningGateway) -> None:
    _, answer = ask(gateway)
    with gateway.http("rival") as rival:
        for part in ("", "/history", "/importance", "/report"):
            assert rival.get(f"/v1/training/searches/{answer['id']}{part}").status_code == 404
        assert rival.get("/v1/training/searches").json()["data"] == []
        assert rival.post(f"/v1/jobs/{answer['id']}/cancel").status_code == 404
    with gateway.http() as acme:
        listed = acme.get("/v1/training/searches", params={"limit": 1}).json()
        assert [one["id"] for one in listed["data"]] == [answer["id"]]
        assert "trials" not in listed["data"][0]
        assert acme.get("/v1/training/searches", params={"after": "search-none"}).status_code == 400
        assert acme.post(f"/v1/jobs/{answer['id']}/cancel").json()["status"] == "cancelled"


def test_the_same_request_again_is_the_same_search(gateway: RunningGateway) -> None:
    with gateway.http(**{"idempotency-key": "once"}) as http:
        body = {"job": HEAD, "space": {RATE: LOG_RATE}}
        first = http.post("/v1/training/searches", json=body).json()
        again = http.post("/v1/training/searches", json=body).json()
    assert first["id"] == again["id"]
