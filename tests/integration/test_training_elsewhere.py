"""Training that goes on where another worker left it: killed, paused, and asked to give way.

Workers here have a HELIU_HOME each, so that all they share is Postgres, Redis and a server that speaks S3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from shared import job_requests
from shared.artifacts import open_artifacts
from shared.contracts.heads import HeadChoice, HeadParameters, TrainHead
from shared.contracts.training import DataRef, Pretrain, PretrainParameters
from shared.jobs import Job, Status
from tests.harness import Harness, Process, platform, wait_for
from tests.s3_server import S3Server, s3_server
from tests.unit.training.head_samples import dialogues, write

QUEUE = "training.default"
LIVE = "heliu:inference.default.live"
PATIENCE_S = 240.0
STEPS = 240
SETTINGS = {
    # A busy machine must not cost a lease; who is killed here is found dead by it all the same.
    "HELIU_LEASE_SECONDS": "12",
    "HELIU_HEARTBEAT_SECONDS": "3",
    "HELIU_DRAIN_SECONDS": "30",
    "HELIU_PREEMPT": f"{QUEUE}:inference.default",
    "HELIU_PREEMPT_WAITING": "3",
    "HELIU_PREEMPT_SECONDS": "0.2",
    "HELIU_PREEMPT_CALM_SECONDS": "0.5",
}


class Site:
    """A platform whose training workers are machines of their own."""

    def __init__(self, harness: Harness, redis_url: str) -> None:
        self.harness = harness
        self.redis = redis.Redis.from_url(redis_url)
        self._machines = 0

    def worker(self, module: str | None = None) -> Process:
        """A worker of training on a new machine."""
        self._machines += 1
        home = self.home(self._machines)
        return self.harness.start("training", self._machines, module=module, HELIU_HOME=str(home))

    def home(self, machine: int) -> Path:
        return self.harness.folder / f"machine-{machine}"

    def train(self, name: str, artifact: str, **values: Any) -> Job:
        """A classifier from scratch: the cheapest training that there is."""
        contract = TrainHead(
            name=name,
            choice=HeadChoice(head="single_label", method="lstm"),
            training=DataRef(id="file-1", kind="file", artifact=artifact),
            seed=5,
            hyperparameters=HeadParameters(
                hidden_size=16,
                max_steps=STEPS,
                batch_size=4,
                learning_rate=0.01,
                dropout=0.3,
                log_every=1,
                checkpoint_every=20,
            ),
        )
        return self.harness.submit(contract.kind, contract.dump(), queue=QUEUE, **values)

    def pretrain(self, name: str, artifact: str, **values: Any) -> Job:
        contract = Pretrain(
            name=name,
            data=DataRef(id="file-1", kind="file", artifact=artifact),
            seed=5,
            hyperparameters=PretrainParameters(
                vocab_size=400,
                hidden_size=16,
                layers=1,
                heads=2,
                context_length=96,
                max_steps=STEPS,
                batch_size=4,
                log_every=1,
                checkpoint_every=20,
            ),
        )
        return self.harness.submit(contract.kind, contract.dump(), queue=QUEUE, **values)

    def last_step(self, job: Job) -> int:
        return max((int(event["data"]["step"]) for event in self.told(job, "metrics")), default=0)

    def told(self, job: Job, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.harness.events(job.id) if event["type"] == type_]

    def resumed_at(self, job: Job) -> list[int]:
        start = "resuming from the checkpoint at step "
        messages = [event["message"] for event in self.told(job, "message")]
        return [int(text.removeprefix(start)) for text in messages if text.startswith(start)]

    def curve(self, job: Job) -> dict[int, dict[str, float]]:
        """What each step told, without its speed. Fails when a step that ran twice told two things."""
        curve: dict[int, dict[str, float]] = {}
        for event in self.told(job, "metrics"):
            data = {k: v for k, v in event["data"].items() if k not in ("step", "tokens_per_second")}
            step = curve.setdefault(event["data"]["step"], {})
            assert {k: step[k] for k in data if k in step} == {k: data[k] for k in data if k in step}
            step |= data
        return curve

    def checkpoint(self, job: Job) -> int:
        return int(self.harness.job(job.id).progress.get("checkpoint", {"step": 0})["step"])

    def wait_for_checkpoint(self, job: Job, after: int) -> int:
        """The step of the first checkpoint past `after` that Postgres knows."""
        wait_for(lambda: self.checkpoint(job) > after, PATIENCE_S, f"a checkpoint past step {after}")
        return self.checkpoint(job)

    def busy(self, worker: Process) -> int:
        """Jobs that a worker says it runs."""
        with self.harness.db.core() as c:
            row = c.execute(
                "SELECT busy FROM core.worker WHERE pid = %s AND state = 'running'", (worker.pid,)
            ).fetchone()
        assert row is not None
        return int(row["busy"])

    def ended(self, job: Job) -> Job:
        done = self.harness.wait_job(job.id, PATIENCE_S)
        assert done.state is Status.SUCCEEDED, f"{done.error}\n{self.harness.logs()}"
        return done

    def ask(self, verb: Any, job: Job) -> None:
        with self.harness.db.transaction(job.tenant_id) as c:
            verb(c, job.id)

    def wait_for_state(self, job: Job, state: Status) -> Job:
        return self.harness.wait_job(job.id, PATIENCE_S, until=lambda now: now.state is state)

    @contextmanager
    def asked_to_stop(self, job: Job, worker: Process, why: str) -> Iterator[None]:
        """However fast this machine trains: the run stands still while the block asks, until its worker has heard."""
        trainer = trainer_of(worker)
        trainer.suspend()
        yield
        told = f"asked to stop at its next step: {why}"
        wait_for(
            lambda: any(event["message"] == told for event in self.told(job, "message")), PATIENCE_S, told
        )
        trainer.resume()

    def begin_peak(self) -> None:
        """Live requests that nobody takes, on a line that an inference worker is said to hear."""
        with self.harness.db.core() as c:
            c.execute(
                "INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots, heartbeat_at) VALUES "
                "('i', 'i', 'inference', 'default', '{inference.default.live}', 'h', 1, 1, now() + interval '1 hour')"
                " ON CONFLICT DO NOTHING"
            )
        self.redis.rpush(LIVE, *["{}"] * 5)

    def end_peak(self) -> None:
        self.redis.delete(LIVE)


@contextmanager
def site(database_url: str, redis_url: str, **settings: str) -> Iterator[Site]:
    with platform(database_url, redis_url, **{**SETTINGS, **settings}) as harness:
        made = Site(harness, redis_url)
        try:
            yield made
        finally:
            made.redis.close()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def dataset(harness: Harness) -> str:
    """Labelled questions as an object of the platform's store, put there from a machine that only has the settings."""
    return open_artifacts(harness.settings).put_file(
        write(harness.folder / "data", "single_label", dialogues(each=8))
    )


def trainer_of(worker: Process) -> psutil.Process:
    (child,) = [
        one for one in psutil.Process(worker.pid).children() if "services.training.child" in one.cmdline()
    ]
    return child


@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_and_one_that_is_paused_are_followed_by_others_with_the_same_losses(
    database_url: str, redis_url: str, s3: S3Server
) -> None:
    with site(database_url, redis_url, **s3.settings) as here:
        here.harness.start("dispatcher", wait=False)
        first = here.worker()
        artifact = dataset(here.harness)
        whole = here.train("whole", artifact)
        here.ended(whole)

        job = here.train("disturbed", artifact)
        killed_after = here.wait_for_checkpoint(job, 0)
        trainer = trainer_of(first)
        first.kill()
        # A trainer without a worker must not go on.
        trainer.wait(PATIENCE_S)
        second = here.worker()
        paused_after = here.wait_for_checkpoint(job, killed_after)
        with here.asked_to_stop(job, second, "pause"):
            here.ask(job_requests.request_pause, job)
        paused = here.wait_for_state(job, Status.PAUSED)
        assert (paused.worker_id, paused.attempt) == (None, 0)
        wait_for(lambda: here.busy(second) == 0, PATIENCE_S, "the worker to be free")
        assert not psutil.Process(second.pid).children()
        assert second.stop() == 0
        here.worker()
        here.ask(job_requests.resume, job)
        done = here.ended(job)

        assert done.crashes == 1
        resumed = here.resumed_at(job)
        assert resumed[0] >= killed_after
        assert resumed[1] == paused.progress["checkpoint"]["step"] >= paused_after
        curve = here.curve(whole)
        assert sorted(curve) == list(range(1, STEPS + 1))
        assert here.curve(job) == curve
        assert done.result is not None
        weights = [
            open_artifacts(here.harness.settings).read_entry(one["artifact"], "head.safetensors")
            for one in (here.harness.job(whole.id).result, done.result)
            if one is not None
        ]
        assert weights[0] == weights[1]
        # Nothing but the bucket carried it: the machines have no file in common.
        inodes = [
            {path.stat().st_ino for path in here.home(machine).rglob("*") if path.is_file()}
            for machine in (1, 2, 3)
        ]
        assert not (inodes[0] & inodes[1]) | (inodes[1] & inodes[2]) | (inodes[0] & inodes[2])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_kills_at_random_steps_and_a_peak_leave_the_losses_of_pretraining_as_they_are(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """kill -9 of the trainer, of its worker, and of both at once; then a peak that has the run give way."""
    seed = random.randrange(10**6)
    dice = random.Random(seed)
    with site(database_url, redis_url, HELIU_ARTIFACTS=str(tmp_path)) as here:
        here.harness.start("dispatcher", wait=False)
        worker = here.worker()
        artifact = dataset(here.harness)
        whole = here.pretrain("whole", artifact)
        here.ended(whole)
        job = here.pretrain("disturbed", artifact, priority=-1, preemptible=True, max_crashes=9)
        step = 0
        for victim in ("trainer", "worker", "both"):
            step += dice.randint(5, 60)
            wait_for(lambda at=step: here.last_step(job) >= at, PATIENCE_S, f"step {step}, seed {seed}")
            trainer = trainer_of(worker)
            if victim != "worker":
                trainer.kill()
            if victim != "trainer":
                worker.kill()
                trainer.wait(PATIENCE_S)
                worker = here.worker()
            crashes = ("trainer", "worker", "both").index(victim) + 1
            here.harness.wait_job(
                job.id,
                PATIENCE_S,
                until=lambda now, n=crashes: now.crashes == n and now.state is Status.LEASED,
            )
        step = here.last_step(job) + dice.randint(5, 20)
        wait_for(lambda: here.last_step(job) >= step, PATIENCE_S, f"step {step}, seed {seed}")
        with here.asked_to_stop(job, worker, "preempt"):
            here.begin_peak()
        here.harness.wait_job(job.id, PATIENCE_S, until=lambda now: bool(now.blocked_by))
        here.end_peak()
        done = here.ended(job)
        assert (done.crashes, done.progress["preempted"]) == (3, 1), f"seed {seed}"
        curve = here.curve(whole)
        assert sorted(curve) == list(range(1, STEPS + 1))
        assert here.curve(job) == curve, f"seed {seed}"


@pytest.mark.timeout(300)
def test_a_peak_of_live_requests_has_training_give_way_and_come_back(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Two dispatchers, and a real worker with a trainer that makes no model."""
    with site(database_url, redis_url, HELIU_ARTIFACTS=str(tmp_path)) as here:
        hold = here.home(1) / "hold"
        hold.parent.mkdir(parents=True)
        hold.write_text("5")
        for index in range(2):
            here.harness.start("dispatcher", index, wait=False)
        here.worker("tests.integration.search_worker")
        job = here.train("gives-way", dataset(here.harness), priority=-1, preemptible=True)
        wait_for(lambda: len(here.told(job, "metrics")) == 5, PATIENCE_S, "five steps")
        here.begin_peak()
        held = here.harness.wait_job(job.id, PATIENCE_S, until=lambda now: bool(now.blocked_by))
        assert (held.state, held.attempt, held.crashes, held.worker_id) == (Status.QUEUED, 0, 0, None)
        assert held.run_at == job.run_at
        assert held.progress["held"] == "live requests wait on inference.default"
        assert held.progress["checkpoint"]["step"] == 5
        # Meanwhile a job that gives way to nobody finds the worker free.
        hold.unlink()
        here.ended(here.train("stays", dataset(here.harness)))
        assert here.harness.job(job.id).blocked_by == 1
        here.end_peak()
        done = here.ended(job)
        assert (done.attempt, done.crashes, done.progress["preempted"]) == (1, 0, 1)
        assert here.resumed_at(job) == [5]
        types = [event["type"] for event in here.harness.events(job.id)]
        assert [types.count(name) for name in ("preempt_requested", "job_preempted", "job_let_go")] == [
            1,
            1,
            1,
        ]
