"""What stays of a run's steps: the table, TensorBoard's event file and the curves, after an attempt that was killed."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import Result
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from services.cli import curves
from services.cli.main import app
from services.cli.plots import Look, picture
from services.training.tasks.tracking import Tracking
from shared import job_store
from shared.contracts.registry import parse_job
from shared.db import Connection
from shared.errors import HeliuError
from shared.job_context import JobContext
from shared.job_ends import JobEnds
from shared.jobs import Job, NewJob, Status, new_id
from tests import servers
from tests.harness import wait_for
from tests.integration.gateway_app import RunningGateway, running_gateway

REF = "sha256:" + "a" * 64
PAYLOAD = {
    "base": {"model": "base", "base_artifact": REF, "adapter_artifact": None},
    "training": {"id": "file-1", "kind": "file", "artifact": REF},
    "validation": None,
    "suffix": None,
    "seed": 3,
    "hyperparameters": {"method": "lora", "n_epochs": 2, "learning_rate": 0.01},
}

TRAINED = {"trained_tokens": 800, "data": {"steps": 8}, "peak_memory_bytes": 500_000_000}


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    url = servers.new_database(postgres.url, "test_tracking", template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as running:
        yield running
    servers.drop_database(postgres.url, "test_tracking")


@dataclass
class Held:
    """A fine-tuning job that this test holds as its worker would."""

    gateway: RunningGateway
    ctx: JobContext
    folder: Path

    @property
    def id(self) -> str:
        return self.ctx.job.id

    @property
    def tracking(self) -> Tracking:
        return Tracking(self.gateway.platform, self.ctx, self.folder)

    def tell(self, step: int, **values: float) -> None:
        self.ctx.event("metrics", f"Step {step}", {"step": step, "total_steps": 8, **values})

    def end(self, target: Status, **options: Any) -> Job:
        return JobEnds(self.ctx.db).leave(self.ctx.job, target, message="ended", **options)


def hold(gateway: RunningGateway, folder: Path, kind: str = "training.fine_tune") -> Held:
    tenant, queue = gateway.tenants["acme"], f"training.{folder.name}"
    with gateway.as_tenant() as c:
        new = NewJob(id=new_id("ftjob-"), tenant_id=tenant, kind=kind, queue=queue, payload=PAYLOAD)
        job_store.submit(c, new)
    with gateway.platform.db.core() as c:
        job = job_store.claim(c, queue, "worker", timedelta(seconds=60))
    assert job is not None
    platform = gateway.platform
    span = platform.tracing.start("process", kind="consumer")
    return Held(
        gateway,
        JobContext(job, parse_job(job.kind, job.payload), platform.db, platform.tracing, span),
        folder,
    )


def test_what_comes_behind_the_steps_is_measured_and_counted_in_by_later_runs_of_the_size(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    def begun(parameters: int) -> tuple[Held, Tracking]:
        held = hold(gateway, tmp_path)
        tracking = held.tracking
        now = time.time_ns()
        tracking.span("load", now, now + 7_000_000_000)
        tracking.event({"memory": {"device": "cpu", "parameters": parameters, "trained": 10}})
        return held, tracking

    held, tracking = begun(1000)
    # Until a run was measured, it is as long as it took to begin.
    assert tracking.pace.behind == pytest.approx(7, abs=2)
    ended = time.time() - 50
    for step in (0, 8):
        tracking.pace.step(step, 8, ended - 16 + 2 * step)
    kept = tracking.keep(TRAINED)
    measured = kept.measured
    assert measured["seconds_per_step"] == pytest.approx(2.0)
    assert 50 <= measured["seconds_behind"] < 200
    held.end(Status.SUCCEEDED, result=kept.told, write=lambda c: tracking.write(c, kept))
    alike, other = begun(1500)[1], begun(1_000_000)[1]
    assert alike.pace.behind == pytest.approx(measured["seconds_behind"])
    assert other.pace.behind == pytest.approx(7, abs=2)


def told_twice(held: Held) -> None:
    """Six steps, a kill behind the checkpoint at step 4, and the steps from there on again."""
    for step in range(1, 7):
        held.tell(step, train_loss=9.0 - step, train_mean_token_accuracy=step / 10, learning_rate=0.01)
    for step in range(5, 9):
        held.tell(step, train_loss=9.0 - step, train_mean_token_accuracy=step / 10, learning_rate=0.01)
    held.tell(8, train_loss=1.0, valid_loss=1.5, valid_mean_token_accuracy=0.75, full_valid_loss=1.5)


def test_a_run_that_was_killed_leaves_each_step_once_in_the_file_that_openai_names(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    held = hold(gateway, tmp_path)
    told_twice(held)
    kept = held.tracking.keep(TRAINED)

    def write(connection: Connection) -> None:
        held.tracking.write(connection, kept)

    held.end(Status.SUCCEEDED, result={"fine_tuned_model": "ft", **kept.told}, write=write)
    client = gateway.openai()
    job = client.fine_tuning.jobs.retrieve(held.id)
    (name,) = job.result_files
    assert client.files.retrieve(name).purpose == "fine-tune-results"
    rows = list(csv.reader(io.StringIO(client.files.content(name).text)))
    assert rows[0] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [row[0] for row in rows[1:]] == [str(step) for step in range(1, 9)]
    assert rows[5] == ["5", "4.0", "0.5", "", ""]
    assert rows[8] == ["8", "1.0", "0.8", "1.5", "0.75"]
    assert gateway.http("rival").get(f"/v1/files/{name}/content").status_code == 404


def test_tensorboard_reads_the_event_file_back(gateway: RunningGateway, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = hold(gateway, tmp_path)
    told_twice(held)
    kept = held.tracking.keep(TRAINED)
    held.end(Status.SUCCEEDED, result=kept.told, write=lambda c: held.tracking.write(c, kept))
    answer = gateway.http().get(f"/v1/training/jobs/{held.id}/tensorboard")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "read")
        (name,) = archive.namelist()
    assert name.startswith(f"{held.id}/events.out.tfevents.")
    read = EventAccumulator(str(tmp_path / "read" / held.id)).Reload()
    losses = read.Scalars("train/loss")
    assert [(one.step, one.value) for one in losses] == [(step, 9.0 - step) for step in range(1, 9)]
    times = [one.wall_time for one in losses]
    assert times == sorted(times)
    assert [one.value for one in read.Scalars("valid/loss")] == [1.5]
    (text,) = read.Tensors("settings/text_summary")
    assert b"|learning_rate|0.01|" in text.tensor_proto.string_val[0]
    assert "hparams" in read.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name


def test_a_run_without_a_model_leaves_its_event_file_too(gateway: RunningGateway, tmp_path: Path) -> None:
    held = hold(gateway, tmp_path)
    url = f"/v1/training/jobs/{held.id}/tensorboard"
    held.tell(1, train_loss=2.0)
    running = gateway.http().get(url)
    assert (running.status_code, "curves" in running.json()["error"]["message"]) == (409, True)
    held.tracking.leave(HeliuError("it diverged", code="training_diverged"))
    held.end(Status.FAILED, error={"code": "training_diverged", "message": "no"})
    assert gateway.http().get(url).content[:2] == b"PK"
    assert gateway.http("rival").get(url).status_code == 404


def test_a_run_that_told_of_nothing_has_no_event_file(gateway: RunningGateway, tmp_path: Path) -> None:
    held = hold(gateway, tmp_path)
    held.tracking.leave(HeliuError("it diverged", code="training_diverged"))
    held.end(Status.CANCELLED)
    answer = gateway.http().get(f"/v1/training/jobs/{held.id}/tensorboard")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def ask(gateway: RunningGateway, held: Held, **query: Any) -> httpx.Response:
    return gateway.http().get(f"/v1/training/jobs/{held.id}/curves", params=query)


def test_curves_keep_peaks_and_dips_and_go_on_behind_a_step(gateway: RunningGateway, tmp_path: Path) -> None:
    held = hold(gateway, tmp_path)
    for step in range(1, 301):
        loss = {100: 77.0, 200: -5.0}.get(step, 1.0 / step)
        held.tell(step, train_loss=loss, tokens_per_second=10.0)
    answer = ask(gateway, held, metrics="train_loss", points=20).json()
    (curve,) = answer["data"]
    assert (answer["object"], answer["status"], answer["last_step"]) == ("training.curves", "leased", 300)
    assert (curve["metric"], curve["count"], curve["max"], curve["min"]) == ("train_loss", 300, 77.0, -5.0)
    steps, values = [p[0] for p in curve["points"]], [p[1] for p in curve["points"]]
    assert len(steps) <= 20
    assert (steps[0], steps[-1], steps) == (1, 300, sorted(steps))
    assert {77.0, -5.0} <= set(values)
    later = ask(gateway, held, after_step=298).json()
    assert {c["metric"]: [p[0] for p in c["points"]] for c in later["data"]} == {
        name: [299, 300] for name in ("tokens_per_second", "train_loss")
    }
    assert ask(gateway, held, after_step=300).json()["last_step"] == 300
    held.end(Status.CANCELLED)


@pytest.mark.parametrize(
    "query", [{"points": 3}, {"points": "many"}, {"metrics": "a,,b"}, {"after_step": -1}]
)
def test_curves_that_cannot_be_are_refused_by_name(
    gateway: RunningGateway, tmp_path: Path, query: dict[str, Any]
) -> None:
    held = hold(gateway, tmp_path)
    answer = ask(gateway, held, **query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))
    held.end(Status.CANCELLED)


def test_a_running_job_tells_when_it_is_expected_to_end_and_an_ended_one_does_not(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    held = hold(gateway, tmp_path)
    client = gateway.openai()
    assert client.fine_tuning.jobs.retrieve(held.id).estimated_finish is None
    held.ctx.progress(step=2, total_steps=8, estimated_finish=2_000_000_000)
    assert client.fine_tuning.jobs.retrieve(held.id).estimated_finish == 2_000_000_000
    assert gateway.http().get(f"/v1/training/jobs/{held.id}").json()["estimated_finish"] == 2_000_000_000
    held.end(Status.CANCELLED)
    assert client.fine_tuning.jobs.retrieve(held.id).estimated_finish is None
    with pytest.raises(openai.NotFoundError):
        gateway.openai("rival").fine_tuning.jobs.retrieve(held.id)


def command(gateway: RunningGateway, *words: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setenv("HELIU_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("HELIU_API_KEY", gateway.keys["acme"])
    return CliRunner().invoke(app, ["train", *words])


def test_the_command_line_draws_an_ended_run_and_streams_it_as_lines(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(gateway, tmp_path)
    told_twice(held)
    held.ctx.event("message", "checkpoint at step 4")
    kept = held.tracking.keep(TRAINED)
    held.end(Status.SUCCEEDED, result=kept.told, write=lambda c: held.tracking.write(c, kept))
    drawn = command(gateway, "watch", held.id, monkeypatch=monkeypatch)
    assert drawn.exit_code == 0, drawn.output
    assert "succeeded" in drawn.stdout
    assert "train_loss 1  valid_loss 1.5" in drawn.stdout
    assert "checkpoint at step 4" in drawn.stdout
    lines = [
        json.loads(line)
        for line in command(gateway, "watch", held.id, "--json", monkeypatch=monkeypatch).stdout.splitlines()
    ]
    assert (lines[0]["object"], lines[-1]["status"]) == ("job.event", "succeeded")
    assert [one["data"]["step"] for one in lines if one.get("type") == "metrics"][:6] == [1, 2, 3, 4, 5, 6]
    shown = command(gateway, "curves", held.id, "--json", "--metrics", "valid_loss", monkeypatch=monkeypatch)
    assert [point[:2] for point in json.loads(shown.stdout)["data"][0]["points"]] == [[8, 1.5]]
    fetched = command(gateway, "tensorboard", held.id, "--out", str(tmp_path / "o"), monkeypatch=monkeypatch)
    (path,) = fetched.stdout.split()
    assert Path(path).parent == tmp_path / "o" / held.id
    assert Path(path).stat().st_size > 0


def test_watching_goes_on_until_the_run_ends_and_fails_with_it(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(gateway, tmp_path)
    held.tell(1, train_loss=3.0)
    ran: list[Result] = []
    watching = threading.Thread(
        target=lambda: ran.append(command(gateway, "watch", held.id, "--json", monkeypatch=monkeypatch))
    )
    watching.start()
    held.tell(2, train_loss=2.0)
    held.end(Status.FAILED, error={"code": "training_diverged", "message": "no"})
    watching.join(60)
    assert not watching.is_alive()
    assert (ran[0].exit_code, '"train_loss": 2.0' in ran[0].stdout) == (1, True)


def test_the_newest_events_come_first_where_they_are_asked_for(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    held = hold(gateway, tmp_path)
    for step in range(1, 6):
        held.tell(step, train_loss=1.0)
    http, url = gateway.http(), f"/v1/jobs/{held.id}/events"
    first = http.get(url, params={"order": "desc", "limit": 2}).json()
    assert ([e["data"]["step"] for e in first["data"]], first["has_more"]) == ([5, 4], True)
    second = http.get(url, params={"order": "desc", "limit": 2, "after": first["last_id"]}).json()
    assert [e["data"]["step"] for e in second["data"]] == [3, 2]
    held.end(Status.CANCELLED)


def test_a_tracker_that_the_operator_asked_for_is_told_and_its_failure_is_one_warning(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mlflow.py").write_text(
        "import types\n"
        "def start_run(**_): return types.SimpleNamespace(info=types.SimpleNamespace(run_id='r1'))\n"
        "def set_experiment(_): pass\ndef log_params(_): pass\n"
        "def log_metrics(metrics, step):\n    if step == 2: raise OSError('no route to the server')\n"
        "def end_run(**_): raise AssertionError('it was asked again')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), str(Path.cwd())]))
    held = hold(gateway, tmp_path)
    settings = replace(gateway.platform.settings, trackers="mlflow")
    tracking = Tracking(replace(gateway.platform, settings=settings), held.ctx, tmp_path / "scratch")
    for step in range(1, 6):
        held.tell(step, train_loss=1.0)
        tracking.metrics(step, {"train_loss": 1.0})
    kept = tracking.keep(TRAINED)
    held.end(Status.SUCCEEDED, result=kept.told, write=lambda c: tracking.write(c, kept))
    events = gateway.http().get(f"/v1/jobs/{held.id}/events").json()["data"]
    warnings = [event["message"] for event in events if event["level"] == "warn"]
    assert warnings == ["the tracker mlflow: OSError: no route to the server; the run goes on without it"]
    assert gateway.http().get(f"/v1/jobs/{held.id}").json()["progress"]["trackers"] == {"mlflow": "r1"}


def test_a_terminal_shows_the_curves_grow_until_the_run_ends(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(gateway, tmp_path)
    held.tell(1, train_loss=3.0)
    held.ctx.progress(step=1, total_steps=2, estimated_finish=int(time.time()) + 500)
    terminal = partial(Console, highlight=False, force_terminal=True, width=90, height=60)
    monkeypatch.setattr(curves, "Console", lambda **_: terminal())
    monkeypatch.setattr(curves, "POLL_S", 0.05)
    drawn: list[Look] = []

    def seen(look: Look, width: int, *, color: bool) -> RenderableType:
        drawn.append(look)
        return picture(look, width, color=color)

    monkeypatch.setattr(curves, "picture", seen)
    ran: list[Result] = []
    watching = threading.Thread(
        target=lambda: ran.append(command(gateway, "watch", held.id, monkeypatch=monkeypatch))
    )
    watching.start()
    wait_for(lambda: len(drawn) > 1, 60, "the second picture")
    held.tell(2, train_loss=2.0)
    held.end(Status.SUCCEEDED, result={})
    watching.join(60)
    assert not watching.is_alive()
    assert ran[0].exit_code == 0, ran[0].output
    assert [len(drawn[0].curves["train_loss"]), len(drawn[-1].curves["train_loss"])] == [1, 2]
    assert drawn[-1].job["status"] == "succeeded"
    assert "step 1/2 (50%)  about 8 min" in ran[0].stdout
    assert "\x1b[" in ran[0].stdout
