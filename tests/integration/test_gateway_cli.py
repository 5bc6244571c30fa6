"""The command line's HTTP verbs against a real gateway, without a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared import keys
from shared.errors import HeliuError
from tests.integration.gateway_app import RunningGateway, running_gateway


class Heliu:
    """`heliu ...` in this process, as the tenant acme or as the operator."""

    def __init__(self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateway = gateway
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("HELIU_GATEWAY_URL", gateway.url)
        self.use("acme")

    def use(self, key: str) -> None:
        self._monkeypatch.setenv("HELIU_API_KEY", self.gateway.keys[key])

    def run(self, *words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, HeliuError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))


@pytest.fixture
def heliu(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Heliu]:
    with running_gateway(database_url, redis_url, tmp_path / "home") as gateway:
        gateway.add_model("base")
        gateway.add_version("dsv-1")
        yield Heliu(gateway, monkeypatch)


def test_a_key_is_made_shown_once_and_revoked(heliu: Heliu) -> None:
    heliu.use("operator")
    made = heliu.json("keys", "create", "ci", "--tenant", "acme")
    assert keys.well_formed(made["key"])
    assert keys.well_formed(heliu.run("keys", "create", "other").strip())
    assert made["key"] not in heliu.run("keys", "list")
    assert heliu.json("keys", "revoke", made["id"])["deleted"] is True
    assert heliu.json("tenants", "create", "third")["name"] == "third"
    assert "third" in heliu.run("tenants", "list")
    assert heliu.json("workers", "list")["data"] == []


def test_files_go_up_and_come_back(heliu: Heliu, tmp_path: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_text('{"a": 1}\n')
    file = heliu.json("files", "upload", str(source), "--purpose", "batch")
    assert file["id"] in heliu.run("files", "list")
    assert heliu.run("files", "get", file["id"]) == source.read_text()
    heliu.run("files", "get", file["id"], "-o", str(target))
    assert target.read_text() == source.read_text()
    batch = heliu.json("batch", "run", str(source), "--no-wait")
    assert batch["id"] in heliu.run("batch", "list")
    assert heliu.json("batch", "cancel", batch["id"])["status"] == "cancelled"
    with pytest.raises(HeliuError, match="has no output file"):
        heliu.run("batch", "output", batch["id"])
    assert heliu.json("files", "delete", file["id"])["deleted"] is True


def test_training_is_submitted_watched_and_cancelled(heliu: Heliu) -> None:
    job = heliu.json("train", "tune", "base", "dsv-1", "--set", "n_epochs=2", "--no-wait")
    assert job["hyperparameters"]["n_epochs"] == 2
    assert "accepted" in heliu.run("jobs", "events", job["id"])
    assert heliu.json("jobs", "pause", job["id"])["status"] == "paused"
    assert heliu.json("jobs", "resume", job["id"])["status"] == "queued"
    assert heliu.json("jobs", "cancel", job["id"])["status"] == "cancelled"
    assert "cancelled" in heliu.run("jobs", "events", job["id"], "--follow")
    assert job["id"] in heliu.run("jobs", "list", "--status", "cancelled")
    assert "training.fine_tune" in heliu.run("jobs", "show", job["id"])
    new = ("train", "pretrain", "new", "dsv-1", "--no-wait")
    low, lent = heliu.json(*new, "--priority", "-7"), heliu.json(*new, "--preemptible")
    kept = heliu.json(*new, "--priority", "-7", "--not-preemptible")
    assert [job["priority"] for job in (low, lent, kept)] == [-7, 0, -7]
    with heliu.gateway.as_tenant() as c:
        rows = c.execute("SELECT job_id FROM core.preemptible").fetchall()
    assert {row["job_id"] for row in rows} == {low["id"], lent["id"]}
    assert heliu.json("train", "evaluate", "base", "dsv-1", "--no-wait")["kind"] == "training.evaluate"


def test_what_a_model_answers_by_itself_is_pinned(heliu: Heliu) -> None:
    pins = ("--pin", "temperature=0.5", "--pin", "max_tokens=9", "--no-wait")
    # OpenAI's API has no such settings; ours has.
    for way in (("pretrain", "pinned", "dsv-1"), ("tune", "base", "dsv-1", "--set", "n_epochs=2")):
        job = heliu.json("train", *way, *pins)
        with heliu.gateway.as_tenant() as c:
            row = c.execute("SELECT payload FROM core.job WHERE id = %s", (job["id"],)).fetchone()
        assert row is not None
        decoding = row["payload"]["decoding"]
        assert {name: value for name, value in decoding.items() if value is not None} == {
            "temperature": 0.5,
            "max_tokens": 9,
        }
    with pytest.raises(
        HeliuError, match=r"decoding.*temperature 0 takes the likeliest token, so leave out top_p"
    ):
        heliu.run("train", "pretrain", "p", "dsv-1", "--pin", "temperature=0", "--pin", "top_p=0.5")
    with pytest.raises(HeliuError, match=r"decoding\.top_q"):
        heliu.run("train", "tune", "base", "dsv-1", "--pin", "top_q=0.5")
    assert heliu.json("models", "show", "base")["decoding"] in (None, {})


def test_data_and_models_are_shown(heliu: Heliu, tmp_path: Path) -> None:
    source, recipe = tmp_path / "a.csv", tmp_path / "recipe.yml"
    source.write_text("prompt,completion\na,b\n")
    recipe.write_text("version: 1\nsteps: [{op: drop_empty}]\n")
    job = heliu.json("data", "build", str(source), "--name", "mine", "--recipe", str(recipe), "--no-wait")
    assert job["dataset"] == "mine"
    assert "mine" in heliu.run("data", "list")
    assert "passed" in heliu.run("data", "show", "service")
    assert "rows_in" in heliu.run("data", "report", "service", "dsv-1")
    assert "base" in heliu.run("models", "list")
    assert heliu.json("models", "delete", "base")["deleted"] is True


def test_an_error_tells_the_trace_and_what_would_be_right(heliu: Heliu) -> None:
    with pytest.raises(HeliuError, match=r"did you mean 'base'\?.*\(trace [0-9a-f]{32}\)") as caught:
        heliu.run("train", "tune", "bass", "dsv-1")
    assert caught.value.code == "model_not_found"
    with pytest.raises(HeliuError, match="needs an operator key"):
        heliu.run("keys", "list")
