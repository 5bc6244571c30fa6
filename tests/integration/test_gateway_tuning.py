"""Options of supervised fine-tuning as clients ask for them: taken whole, or refused before there is a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

LAYERS = {"q_proj": 64, "k_proj": 16, "down_proj": 64}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    name = "test_tuning"
    url = servers.new_database(postgres.url, name, template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as running:
        running.add_model("base")
        with running.as_tenant() as connection:
            connection.execute(
                "UPDATE training.model SET info = %s WHERE id = 'base'",
                (json.dumps({"linear_layers": LAYERS}),),
            )
        running.add_model("unknown")
        yield running
    servers.drop_database(postgres.url, name)


@pytest.fixture(scope="module")
def file(gateway: RunningGateway) -> str:
    rows = (json.dumps(CHAT) + "\n").encode() * 10
    return gateway.openai().files.create(file=("rows.jsonl", rows), purpose="fine-tune").id


def _ask(gateway: RunningGateway, file: str, model: str, **wanted: Any) -> Any:
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": wanted}}
    return gateway.openai(max_retries=0).fine_tuning.jobs.create(
        model=model, training_file=file, method=method
    )


@pytest.mark.parametrize(
    ("wanted", "param", "message"),
    [
        ({"lora_r": 17}, "lora_r", "at most 16"),
        ({"lora_r": 32, "target_modules": ["q_proj", "k_proj"]}, "lora_r", "width of the layer 'k_proj'"),
        ({"target_modules": ["q_porj"]}, "target_modules", "did you mean 'q_proj'"),
        ({"use_dora": True, "quantization": "nf4"}, "use_dora", "leave out"),
        ({"method": "full", "use_rslora": True}, "use_rslora", "goes with the method 'lora'"),
        ({"loss": "focal"}, "loss", "dft"),
        ({"early_stopping_patience": 2}, "early_stopping_patience", "the job has none"),
        ({"keep_best": True}, "keep_best", "give it a validation_file"),
    ],
)
def test_what_the_model_cannot_have_is_refused_before_there_is_a_job(
    gateway: RunningGateway, file: str, wanted: dict[str, Any], param: str, message: str
) -> None:
    before = len(gateway.openai().fine_tuning.jobs.list().data)
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(gateway, file, "base", **wanted)
    assert message in str(caught.value)
    assert str(caught.value.param).endswith(param)  # type: ignore[attr-defined]
    assert len(gateway.openai().fine_tuning.jobs.list().data) == before


def test_a_model_of_unknown_layers_is_left_to_the_worker(gateway: RunningGateway, file: str) -> None:
    assert _ask(gateway, file, "unknown", lora_r=512).status == "queued"


def test_options_reach_the_job_as_they_were_asked(gateway: RunningGateway, file: str) -> None:
    wanted = {
        "lora_r": 16,
        "use_rslora": True,
        "packing": True,
        "loss": "label_smoothing",
        "label_smoothing": 0.2,
        "gradient_accumulation_steps": 2,
        "batch_size": 8,
        "processes": 2,
    }
    job = _ask(gateway, file, "base", **wanted)
    with gateway.as_tenant() as connection:
        row = connection.execute("SELECT payload FROM core.job WHERE id = %s", (job.id,)).fetchone()
    assert row is not None
    assert wanted.items() <= row["payload"]["hyperparameters"].items()
