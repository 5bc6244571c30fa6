"""Preference tuning and continued pretraining as clients ask for them: what is taken, and what is refused at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune, Pretrain
from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

ARTIFACT = "sha256:" + "a" * 64
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Where is my order?"}]},
    "preferred_output": [{"role": "assistant", "content": "On its way."}],
    "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    name = "test_preferences"
    url = servers.new_database(postgres.url, name, template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as running:
        running.add_model("base")
        running.add_model("tuned", kind="adapter", base_id="base", base_artifact="sha256:" + "b" * 64)
        running.add_model("encoder", kind="encoder")
        yield running
    servers.drop_database(postgres.url, name)


@pytest.fixture
def client(gateway: RunningGateway) -> openai.OpenAI:
    return gateway.openai(max_retries=0)


def _upload(client: openai.OpenAI, *rows: Any) -> str:
    lines = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    return client.files.create(file=("rows.jsonl", lines.encode()), purpose="fine-tune").id


def _payload(gateway: RunningGateway, job: str) -> dict[str, Any]:
    with gateway.as_tenant() as connection:
        row = connection.execute("SELECT kind, payload FROM core.job WHERE id = %s", (job,)).fetchone()
    assert row is not None
    return {"kind": row["kind"], **row["payload"]}


def test_the_clients_dpo_is_accepted_listed_and_told_as_it_was_asked(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    file = _upload(client, PAIR)
    wanted = {"beta": 0.2, "batch_size": 4, "learning_rate_multiplier": "auto", "n_epochs": 2}
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=file,
        suffix="polite",
        seed=3,
        method={"type": "dpo", "dpo": {"hyperparameters": wanted}},  # type: ignore[arg-type,typeddict-item]
    )
    assert (job.status, job.model, job.training_file, job.seed) == ("queued", "base", file, 3)
    assert job.method is not None
    assert job.method.type == "dpo"
    assert job.method.supervised is None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert (job.method.dpo.hyperparameters.beta, job.method.dpo.hyperparameters.n_epochs) == (0.2, 2)
    assert job.id in [one.id for one in client.fine_tuning.jobs.list()]
    assert client.fine_tuning.jobs.retrieve(job.id).hyperparameters.n_epochs == 2
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.list_events(job.id).data
    payload = _payload(gateway, job.id)
    assert payload["kind"] == TunePreferences.kind
    assert payload["hyperparameters"]["loss"] == "sigmoid"


@pytest.mark.parametrize("way", ["dpo", "sft", "pretrain"])
def test_an_adapter_is_a_start_for_every_way(
    client: openai.OpenAI, gateway: RunningGateway, way: str
) -> None:
    file = _upload(client, PAIR if way == "dpo" else CHAT)
    body = {"type": way, "model": "tuned", "training_file": file}
    if way == "pretrain":
        body["name"] = "more"
    job: Any = client.post("/training/jobs", body=body, cast_to=object)
    base = _payload(gateway, job["id"])["base"]
    assert (base["model"], base["base"]) == ("tuned", "base")
    assert (base["base_artifact"], base["adapter_artifact"]) == ("sha256:" + "b" * 64, ARTIFACT)
    kind = {"dpo": TunePreferences, "sft": FineTune, "pretrain": Pretrain}[way].kind
    assert job["kind"] == kind


@pytest.mark.parametrize(
    ("rows", "method", "why"),
    [
        ((PAIR,), "supervised", "line 1: the row is a preference pair, for preference tuning"),
        (
            (CHAT, {"prompt": "a", "chosen": "b", "rejected": "c"}),
            "supervised",
            "line 2: the row is a preference",
        ),
        ((CHAT,), "dpo", "line 1: the row is a conversation with one answer, for supervised fine-tuning"),
        ((PAIR, {"prompt": "a", "chosen": "b"}), "dpo", "line 2: the pair lacks `rejected`"),
        ((PAIR, {"text": "a"}), "dpo", "line 2: the row is no preference pair"),
        (("\n",), "dpo", "has no row"),
        (("\n",), "supervised", "has no row"),
    ],
)
def test_a_file_of_the_wrong_sort_is_refused_before_a_worker_is_taken(
    client: openai.OpenAI, rows: tuple[Any, ...], method: str, why: str
) -> None:
    file = _upload(client, *rows)
    before = len(list(client.fine_tuning.jobs.list()))
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model="base", training_file=file, method={"type": method})  # type: ignore[arg-type,typeddict-item]
    assert why in caught.value.message
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")
    assert len(list(client.fine_tuning.jobs.list())) == before


def test_the_validation_file_is_looked_into_as_well(client: openai.OpenAI) -> None:
    good, wrong = _upload(client, PAIR), _upload(client, CHAT)
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="base", training_file=good, validation_file=wrong, method={"type": "dpo"}
        )
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "validation_file")


def test_a_model_without_answers_is_no_start(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="encoder", training_file=_upload(client, PAIR), method={"type": "dpo"}
        )
    assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")


def test_texts_in_pieces_longer_than_the_model_reads_are_refused(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    with gateway.as_tenant() as connection:
        connection.execute("UPDATE training.model SET info = '{\"context_length\": 96}' WHERE id = 'tuned'")
    body = {"type": "pretrain", "name": "long", "model": "tuned", "training_file": _upload(client, CHAT)}
    with pytest.raises(openai.BadRequestError, match=r"context_length is 97, but .* reads 96") as caught:
        client.post("/training/jobs", body=body | {"hyperparameters": {"context_length": 97}}, cast_to=object)
    assert caught.value.param == "hyperparameters.context_length"
