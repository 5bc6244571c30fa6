"""Searches through the real gateway, queue and workers, with a trainer that makes no model: nothing is lost or run
twice, whoever is killed."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.artifacts import open_artifacts
from shared.jobs import TERMINAL
from tests import servers
from tests.harness import Harness, Process, platform, wait_for

TRAINER = "tests.integration.search_worker"
RATE = "hyperparameters.learning_rate"
SIZE = "hyperparameters.batch_size"
VERSION = "dsv-" + "0" * 32
LOG_RATE = {"type": "float", "low": 1e-4, "high": 1.0, "log": True}
SPANS_OF = "SELECT id, parent_id, traceparent FROM core.job WHERE id = %s OR parent_id = %s"


class Searched:
    """A platform whose workers train nothing; `hold` names the step after which every trainer waits."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.http = httpx.Client(
            base_url=harness.start_gateway(),
            headers={"authorization": f"Bearer {harness.key()}"},
            timeout=30,
        )
        self.hold = harness.settings.home / "hold"
        harness.start("dispatcher")
        self.workers = [self.worker(0), self.worker(1)]
        self._add_version(harness.folder / "version")

    def worker(self, index: int) -> Process:
        return self.harness.start("training", index, module=TRAINER)

    def _add_version(self, folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "train.parquet").write_bytes(b"")
        (folder / "manifest.json").write_text(json.dumps({"gate": {"passed": True, "reasons": []}}))
        artifact = open_artifacts(self.harness.settings).put_tree(folder)
        with self.harness.db.transaction(self.harness.tenant) as c:
            c.execute(
                "INSERT INTO data_governance.dataset (id, tenant_id, name) VALUES ('ds-1', %s, 'texts')",
                (self.harness.tenant,),
            )
            c.execute(
                "INSERT INTO data_governance.version (tenant_id, id, dataset_id, job_id, artifact, rows, train_rows,"
                " validation_rows, gate_passed, gate, report) VALUES (%s, %s, 'ds-1', 'dsjob-1', %s, 3, 2, 1, true,"
                " '{\"passed\": true, \"reasons\": []}', '{}')",
                (self.harness.tenant, VERSION, artifact),
            )

    def hold_after(self, step: int) -> None:
        aside = self.hold.with_suffix(".new")
        aside.write_text(str(step))
        aside.rename(self.hold)

    def create(self, name: str, **body: Any) -> str:
        job = {"type": "pretrain", "name": name, "training_file": VERSION}
        answer = self.http.post(
            "/v1/training/searches",
            json={"job": job, "space": {RATE: LOG_RATE}, "pruner": "none", **body},
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def get(self, search: str, part: str = "") -> dict[str, Any]:
        answer = self.http.get(f"/v1/training/searches/{search}{part}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, search: str) -> dict[str, Any]:
        self.harness.wait_job(search)
        return self.get(search)

    def ask(self, job: str, verb: str) -> None:
        assert self.http.post(f"/v1/jobs/{job}/{verb}").status_code == 200

    def trials(self, search: str, state: str) -> list[dict[str, Any]]:
        return [one for one in self.get(search)["trials"] if one["state"] == state]

    def at_step(self, search: str, count: int = 2) -> list[dict[str, Any]]:
        """Running trials that have told of something, once there are `count` of them."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [one for one in self.trials(search, "running") if one["intermediate_values"]]
            return len(found) >= count

        wait_for(look, 60, f"{count} trials of {search} at work")
        return found

    def models(self) -> set[str]:
        return {one["id"] for one in self.http.get("/v1/models").json()["data"]}


@pytest.fixture(scope="module")
def searched(postgres: servers.RunningServer, valkey: servers.RunningServer) -> Iterator[Searched]:
    url = servers.new_database(postgres.url, "test_searches", template="heliu_template")
    # A worker that is slow on a busy machine is not taken for dead; one that is started again says so itself.
    patient = {"HELIU_LEASE_SECONDS": "60", "HELIU_HEARTBEAT_SECONDS": "15"}
    with platform(url, valkey.url, **patient) as harness:
        yield Searched(harness)
    servers.drop_database(postgres.url, "test_searches")


def test_twelve_trials_on_two_workers_of_which_one_is_killed_are_all_accounted_for(
    searched: Searched,
) -> None:
    searched.hold_after(4)
    search = searched.create("killed", trials=12, seed=3)
    running = searched.at_step(search)
    holder = {one["job_id"]: searched.harness.job(one["job_id"]).worker_id for one in running}
    victim = searched.workers[0]
    victim.kill()
    searched.workers[0] = searched.worker(0)
    searched.hold.unlink()
    found = searched.ended(search)
    assert (found["status"], found["counts"]["complete"], found["counts"]["total"]) == ("succeeded", 12, 12)
    jobs = [searched.harness.job(one["job_id"]) for one in found["trials"]]
    assert len({job.id for job in jobs}) == 12
    assert {job.state.value for job in jobs} == {"succeeded"}
    # The one that was killed with its worker ran again, from its checkpoint or from the start; no other did.
    assert Counter(job.crashes for job in jobs)[1] == 1
    assert next(job.id for job in jobs if job.crashes) in holder
    for trial in found["trials"]:
        assert [point["step"] for point in trial["intermediate_values"]] == list(range(1, 11))
    best = min(found["trials"], key=lambda one: one["value"])
    assert found["best"] == {name: best[name] for name in ("number", "value", "params")}
    assert (found["model"], {"killed"} & searched.models()) == ("killed", {"killed"})
    info = searched.http.get("/v1/models/killed").json()
    assert (info["job_id"], info["info"]["search"]["trial"]) == (best["job_id"], best["number"])
    # One trace holds them all.
    with searched.harness.db.core() as c:
        rows = c.execute(SPANS_OF, (search, search)).fetchall()
    assert len(rows) == 13
    assert len({row["traceparent"].split("-")[1] for row in rows}) == 1
    # What the trials made is named by no row but the best one's.
    with searched.harness.db.transaction(searched.harness.tenant) as c:
        left = c.execute("SELECT job_id FROM training.search_trial WHERE models IS NOT NULL").fetchall()
        left += c.execute("SELECT job_id FROM training.checkpoint").fetchall()
    assert left == []
    history = searched.get(search, "/history")["data"]
    assert sorted(one["number"] for one in history) == list(range(12))
    assert history[-1]["best_value"] == best["value"]
    shares = searched.get(search, "/importance")
    assert shares["importances"] == {RATE: 1.0}
    page = searched.http.get(f"/v1/training/searches/{search}/report")
    assert page.headers["content-type"].startswith("text/html")
    assert page.text.count('class="dot ') > 24
    assert "<script" not in page.text


def test_a_search_whose_coordinator_is_killed_goes_on_from_its_rows(searched: Searched) -> None:
    searched.hold_after(0)
    search = searched.create("restarted", trials=4)
    wait_for(lambda: len(searched.trials(search, "running")) == 2, 60, "two trials at work")
    for index, worker in enumerate(searched.workers):
        worker.kill()
        searched.workers[index] = searched.worker(index)
    searched.hold.unlink()
    found = searched.ended(search)
    assert (found["status"], found["counts"]["complete"], found["counts"]["total"]) == ("succeeded", 4, 4)


def test_trials_that_fail_are_counted_with_their_reason_and_the_search_goes_on(searched: Searched) -> None:
    space = {
        RATE: {"type": "categorical", "choices": [0.01, 0.02]},
        SIZE: {"type": "categorical", "choices": [13, 8, 17]},
    }
    found = searched.ended(searched.create("mixed", space=space, sampler="grid"))
    assert found["counts"] == {**found["counts"], "total": 6, "complete": 2, "failed": 4}
    assert found["best"]["params"] == {RATE: 0.01, SIZE: 8}
    errors = {one["params"][SIZE]: one["error"] for one in found["trials"]}
    assert errors[13]["message"] == "13 rows are bad luck"
    assert errors[17]["code"] == "training_diverged"
    events = searched.harness.events(found["id"])
    told = [event["data"]["trial"] for event in events if event["type"] == "trial_ended"]
    assert sorted(told) == list(range(6))


def test_a_search_of_which_all_trials_fail_fails_with_the_reasons_and_tries_not_all(
    searched: Searched,
) -> None:
    space = {RATE: LOG_RATE, SIZE: {"type": "categorical", "choices": [13, 17]}}
    job = searched.create("nothing", space=space, trials=6, sampler="random")
    found = searched.ended(job)
    assert (found["status"], found["model"]) == ("failed", None)
    assert found["error"]["code"] == "all_trials_failed"
    assert "13 rows are bad luck" in found["error"]["message"]
    space[SIZE] = {"type": "int", "low": 13, "high": 14, "step": 3}
    assert "nothing" not in searched.models()


def test_a_trial_that_falls_behind_is_given_up_and_keeps_its_curve(searched: Searched) -> None:
    space = {RATE: {"type": "categorical", "choices": [0.01, 0.011, 0.012, 1.0]}}
    asked = {"pruner": "median", "pruner_startup_trials": 2, "pruner_warmup": 0.3, "parallel": 1}
    found = searched.ended(searched.create("pruned", space=space, sampler="grid", seed=2, **asked))
    assert found["status"] == "succeeded"
    [given_up] = [one for one in found["trials"] if one["state"] == "pruned"]
    assert given_up["params"] == {RATE: 1.0}
    assert 3 <= len(given_up["intermediate_values"]) <= 7
    assert "median" in given_up["error"]["message"]
    job = searched.harness.job(given_up["job_id"])
    assert (job.state.value, job.error) == ("succeeded", None)


def test_a_paused_search_frees_its_workers_and_goes_on_where_it_was(searched: Searched) -> None:
    searched.hold_after(5)
    search = searched.create("paused", trials=3, parallel=2)
    running = searched.at_step(search)
    searched.ask(search, "pause")
    wait_for(lambda: len(searched.trials(search, "paused")) == 2, 60, "both trials to pause")
    assert searched.get(search)["status"] == "paused"
    searched.hold.unlink()
    other = searched.ended(searched.create("meanwhile", trials=1))
    assert other["status"] == "succeeded"
    assert {one["number"] for one in searched.trials(search, "paused")} == {one["number"] for one in running}
    searched.ask(search, "resume")
    found = searched.ended(search)
    assert found["counts"] == {**found["counts"], "total": 3, "complete": 3}
    for trial in found["trials"]:
        assert [point["step"] for point in trial["intermediate_values"]] == list(range(1, 11))


def test_a_cancelled_search_ends_its_trials_and_registers_nothing(searched: Searched) -> None:
    search = searched.create("cancelled", trials=50)
    wait_for(lambda: searched.get(search)["counts"]["complete"] >= 1, 60, "a trial to end")
    searched.ask(search, "cancel")
    found = searched.ended(search)
    assert found["status"] == "cancelled"
    assert found["counts"]["complete"] >= 1
    assert found["counts"]["complete"] + found["counts"]["cancelled"] == found["counts"]["total"] < 50
    assert all(searched.harness.job(one["job_id"]).state in TERMINAL for one in found["trials"])
    assert "cancelled" not in searched.models()


def test_a_search_whose_time_is_over_gives_up_what_runs_and_keeps_the_best_so_far(searched: Searched) -> None:
    search = searched.create("late", trials=1000, max_seconds=8, parallel=3)
    wait_for(lambda: searched.get(search)["counts"]["complete"] >= 1, 60, "a trial to end")
    searched.hold_after(2)
    found = searched.ended(search)
    searched.hold.unlink()
    assert (found["status"], found["model"]) == ("succeeded", "late")
    # Two ran and one had no worker yet.
    late = [one for one in found["trials"] if one["state"] in ("cancelled", "failed")]
    assert len(late) == 3
    assert {one["error"]["code"] for one in late} == {"search_time_over"}


def heliu(searched: Searched, *words: str) -> str:
    address = {"HELIU_GATEWAY_URL": str(searched.http.base_url), "HELIU_API_KEY": searched.harness.key()}
    result = CliRunner().invoke(app, ["search", *words], env=address)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_search_is_made_watched_and_looked_at_from_the_command_line(
    searched: Searched, tmp_path: Path
) -> None:
    job = tmp_path / "job.yml"
    job.write_text(f"type: pretrain\nname: typed\ntraining_file: {VERSION}\n")
    vary = ["--vary", f"{RATE}=1e-3..1e-1:log", "--vary", f"{SIZE}=8,9"]
    said = heliu(searched, "create", str(job), *vary, "--trials", "6", "--pruner", "none", "--seed", "4")
    assert "typed" in said
    assert said.count(" complete ") == 6
    listed = json.loads(heliu(searched, "list", "--json"))["data"]
    [found] = [one for one in listed if one["model"] == "typed"]
    assert found["space"][SIZE]["choices"] == [8, 9]
    shown = json.loads(heliu(searched, "show", found["id"], "--json"))
    assert len(shown["trials"]) == 6
    assert "learning_rate" in heliu(searched, "watch", found["id"])
    told = heliu(searched, "report", found["id"])
    assert told.count("complete") == 6
    assert "%" in told
    page = tmp_path / "page.html"
    heliu(searched, "report", found["id"], "--html", str(page))
    assert page.read_text().startswith("<!doctype html>") or "<svg" in page.read_text()
    whole = tmp_path / "search.yml"
    space = f"space:\n  {RATE}: {{type: float, low: 1e-4, high: 1e-2, log: true}}\n"
    whole.write_text(
        "job:\n  " + job.read_text().replace("\n", "\n  ").replace("typed", "again").rstrip() + "\n" + space
    )
    accepted = json.loads(heliu(searched, "create", str(whole), "--trials", "1", "--no-wait", "--json"))
    assert searched.ended(accepted["id"])["model"] == "again"


@pytest.mark.long
def test_a_search_outlives_ten_kills_at_random_moments(searched: Searched) -> None:
    dice = random.Random(7)
    search = searched.create("hunted", trials=30, pruner="median", seed=9)
    for _ in range(10):
        time.sleep(dice.uniform(0.2, 2.0))
        index = dice.randrange(2)
        searched.workers[index].kill()
        searched.workers[index] = searched.worker(index)
    found = searched.ended(search)
    counts = found["counts"]
    assert (found["status"], counts["total"]) == ("succeeded", 30)
    assert counts["complete"] + counts["pruned"] + counts["failed"] == 30
    # Only one that was killed three times may have failed.
    assert {one["error"]["code"] for one in found["trials"] if one["state"] == "failed"} <= {"crashed"}
    jobs = [searched.harness.job(one["job_id"]) for one in found["trials"]]
    assert len({job.id for job in jobs}) == 30
    assert sum(job.crashes for job in jobs) <= 10
    told = [e["data"]["trial"] for e in searched.harness.events(search) if e["type"] == "trial_ended"]
    assert sorted(told) == list(range(30))
