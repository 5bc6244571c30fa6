"""The import of a model from a hub by a real worker: fetched over TLS, checked, registered with where it came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared.contracts.models import ImportModel
from shared.jobs import Job
from tests.harness import Harness, platform
from tests.local_hub import COMMIT, local_hub, make_certificate
from tests.unit.inference.tiny_models import save_model


def submit(harness: Harness, hub_id: str) -> Job:
    contract = ImportModel(name=hub_id.rpartition("/")[2], hub_id=hub_id)
    return harness.submit(contract.kind, contract.dump(), queue=contract.queue_for(), max_attempts=2)


def test_a_model_comes_from_the_hub_with_its_commit(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    certificate = make_certificate(tmp_path)
    folder = save_model(tmp_path / "model", "qwen2")
    files = {file.name: file.read_bytes() for file in folder.iterdir()} | {"pytorch_model.bin": b"\x80\x02"}
    with local_hub(certificate, files) as hub:
        settings = {"HELIU_HUB_URL": hub.url, "HELIU_HUB_ALLOW_PRIVATE": "on", "HELIU_HUB_TOKEN": "hush"}
        with platform(database_url, redis_url, **settings, SSL_CERT_FILE=str(certificate)) as harness:
            good, none = submit(harness, "acme/tiny"), submit(harness, "acme/none")
            harness.start("inference")
            job = harness.wait_job(good.id)
            assert (job.state.value, job.error) == ("succeeded", None)
            assert job.progress["bytes"] == sum(len(c) for n, c in files.items() if n != "pytorch_model.bin")
            missing = harness.wait_job(none.id)
            assert (missing.state.value, (missing.error or {})["code"]) == ("failed", "not_found")
            with harness.db.transaction(harness.tenant) as c:
                (row,) = c.execute("SELECT * FROM training.model").fetchall()
            told = [event["message"] for event in harness.events(good.id)]
            assert any(message.startswith("model.safetensors is here") for message in told)
            assert not any("hush" in process.log.read_text() for process in harness.processes)
    assert (row["id"], row["kind"], row["job_id"]) == ("tiny", "base", good.id)
    assert (row["info"]["source"], row["info"]["hub_id"], row["info"]["commit"]) == (
        "hub",
        "acme/tiny",
        COMMIT,
    )
    assert ("/acme/tiny/resolve/" + COMMIT + "/pytorch_model.bin", "Bearer hush") not in hub.asked
