"""A training job on the platform whose saved model is not what was trained: it fails, and leaves no model."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch

from services.training.model_folder import load_base
from services.training.parity import Sample, leave_samples
from shared.artifacts import open_artifacts
from shared.contracts.training import DataRef, Pretrain
from shared.jobs import Status
from tests import servers
from tests.harness import Harness, platform
from tests.unit.inference.tiny_models import save_model

SEED = 1


@pytest.fixture
def harness(postgres: servers.RunningServer, valkey: servers.RunningServer) -> Iterator[Harness]:
    url = servers.new_database(postgres.url, "test_engine_gate", template="heliu_template")
    with platform(url, valkey.url) as running:
        folder = running.settings.home / f"made-{SEED}"
        model, tokenizer = load_base(save_model(folder / "model"), torch.device("cpu"))
        leave_samples(model, tokenizer, (Sample(text="请稍等，我帮您查询一下物流信息。"),), folder)
        template = folder / "model" / "chat_template.jinja"
        template.write_text("Be brief. " + template.read_text(encoding="utf-8"), encoding="utf-8")
        yield running
    servers.drop_database(postgres.url, "test_engine_gate")


def test_a_job_whose_template_was_changed_fails_and_leaves_no_model(harness: Harness) -> None:
    artifact, _ = open_artifacts(harness.settings).put(io.BytesIO(b'{"text": "a"}\n'))
    data = DataRef(id="file-1", kind="file", artifact=artifact)
    contract = Pretrain(name="made", data=data, seed=SEED)
    queue = Pretrain.queue_for(harness.settings.pool)
    job = harness.submit(Pretrain.kind, contract.dump(), queue=queue)
    harness.start("dispatcher")
    harness.start("training", module="tests.integration.copying_trainer")
    ended = harness.wait_job(job.id)
    assert (ended.state, ended.attempt) == (Status.FAILED, 1)
    assert ended.error is not None
    assert ended.error["code"] == "parity_check_failed"
    assert "chat template" in ended.error["message"]
    with harness.db.transaction(harness.tenant) as connection:
        assert connection.execute("SELECT id FROM training.model").fetchall() == []
