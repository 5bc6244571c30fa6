"""`python -m tests.bench.governance`: documents governed by the whole platform, with every feature on.

Made-up documents with planted duplicates (`documents.py`) go through a recipe of all operators that suit them, on one
data worker and on two; then with kill -9 of a worker again and again; then on ten times as many rows, for memory.
`--rows` says how many, `--times-ten` adds the large run. `--data-juicer` and `--datatrove` name Pythons that
have them: then `--peer-rows` of the documents go through each, and through the platform once more.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
from rich.console import Console

from shared.artifacts import ArtifactStore
from tests.bench.documents import Planted, write_documents
from tests.bench.figures import Figure, show, write
from tests.bench.governance_peers import PeerRun, data_juicer, datatrove
from tests.harness import Harness, Process, platform
from tests.servers import new_database, postgres_server, valkey_server

PATIENCE_S = 1800.0
KILLS = 5
RECIPE: dict[str, Any] = {
    "input": {"text": "text", "id": "id"},
    "steps": [
        {"op": "strip_markup"},
        {"op": "normalize_text"},
        {"op": "convert_chinese"},
        {"op": "drop_empty"},
        {"op": "drop_broken"},
        {"op": "filter_language"},
        {"op": "quality_filter"},
        {"op": "drop_repetitive"},
        {"op": "blocked_words", "params": {"words": ["forbiddenword", "违禁词语"]}},
        {"op": "exact_duplicates"},
        {"op": "near_duplicates"},
        {"op": "mask_pii"},
        {"op": "length_bounds", "params": {"min_chars": 5}},
    ],
    "gates": {"min_rows": 1, "max_pii_left": 0, "max_leaked_questions": 0},
}


@dataclass
class Run:
    """What one build came to. Memory in MiB: the highest peak of any one worker."""

    seconds: float
    version: str
    report: dict[str, Any]
    artifact: str
    peak: float
    kills: int = 0


class Governed:
    """A platform with some data workers, and nothing else but what a build needs."""

    def __init__(self, harness: Harness, url: str) -> None:
        self._harness = harness
        self.client = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {harness.key()}"}, timeout=600
        )

    def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = self.client.post(
                "/v1/files", data={"purpose": "user_data"}, files={"file": (path.name, file)}
            )
        return str(answer.raise_for_status().json()["id"])

    def build(self, file_id: str, workers: int, kills: int = 0) -> Run:
        """Builds a version with so many workers; of `kills`, each hits one at a random moment."""
        processes = [self._harness.start("data_governance", index) for index in range(workers)]
        dice = random.Random(kills)
        started = time.perf_counter()
        body = {"name": f"documents-{time.time_ns()}", "file_id": file_id, "recipe": RECIPE}
        job = self.client.post("/v1/datasets", json=body).raise_for_status().json()
        peak, killed = 0.0, 0
        due = started + dice.uniform(0.5, 4)
        while job["status"] not in ("succeeded", "failed", "dead", "cancelled"):
            if time.perf_counter() - started > PATIENCE_S:
                raise RuntimeError(f"the build is not over after {PATIENCE_S:.0f} s: {job['progress']}")
            time.sleep(0.25)
            peak = max([peak, *map(_peak, processes)])
            if killed < kills and time.perf_counter() >= due:
                at = dice.randrange(workers)
                processes[at].kill()
                processes[at] = self._harness.start("data_governance", at)
                killed += 1
                due = time.perf_counter() + dice.uniform(0.5, 2.5)
            job = self.client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        seconds = time.perf_counter() - started
        for process in processes:
            process.stop()
        if job["status"] != "succeeded":
            raise RuntimeError(f"the build ended as {job['state']}: {job['error']}")
        result = job["result"]
        path = f"/v1/datasets/{result['dataset']}/versions/{result['version_id']}"
        report = self.client.get(path).raise_for_status().json()["report"]
        return Run(seconds, result["version_id"], report, result["artifact"], peak, killed)

    def kept(self, artifact: str) -> set[int]:
        """Numbers of the documents in a version."""
        settings = self._harness.settings
        folder = ArtifactStore(settings.artifact_folder).materialize(artifact, settings.home / "looked-at")
        ids = [
            one
            for part in sorted((folder / "data").glob("*.parquet"))
            for one in pq.read_table(part, columns=["id"]).column("id").to_pylist()
        ]
        return {int(one.removeprefix("doc-")) for one in ids}


def _peak(process: Process) -> float:
    """The kernel's high-water mark of a process's resident memory, in MiB."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0
    )


def _found(kept: set[int], planted: Planted, report: dict[str, Any]) -> tuple[float, float, int]:
    """(recall of near duplicates, share of other rows that the step dropped, exact duplicates that are left)."""
    near, exact = planted.near.keys(), planted.exact.keys()
    recall = 1 - len(near & kept) / max(1, len(near))
    dropped = int(report["dropped"].get("near_duplicates", 0))
    false = max(0, dropped - len(near - kept)) / max(1, planted.rows - len(near) - len(exact))
    return recall, false, len(exact & kept)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.governance", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times-ten", action="store_true", help="also ten times the rows, for memory")
    parser.add_argument("--data-juicer", type=Path, metavar="PYTHON", help="a Python that has it")
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON", help="a Python that has it")
    parser.add_argument("--peer-rows", type=int, default=20_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres_server() as postgres,
        valkey_server() as valkey,
        platform(
            new_database(postgres.url, "governance"), valkey.url, HELIU_MAX_UPLOAD_BYTES=str(4 * 1024**3)
        ) as harness,
    ):
        harness.start("dispatcher")
        governed = Governed(harness, harness.start_gateway())
        figures = _measure(governed, Path(folder), options.rows, options.repeats, options.times_ten)
        peers = [
            (run, python.absolute())
            for run, python in ((data_juicer, options.data_juicer), (datatrove, options.datatrove))
            if python is not None
        ]
        if peers:
            figures += _against(governed, Path(folder), options.peer_rows, peers)
    show(figures, console)
    if options.json:
        write(figures, options.json)
    return 0


def _measure(governed: Governed, folder: Path, rows: int, repeats: int, times_ten: bool) -> list[Figure]:
    path = folder / "documents.jsonl"
    planted = write_documents(path, rows)
    file_id = governed.upload(path)
    ones, twos = [], []
    for _ in range(repeats):
        ones.append(governed.build(file_id, 1))
        twos.append(governed.build(file_id, 2))
    killed = governed.build(file_id, 2, kills=KILLS)
    same = len({run.version for run in [*ones, *twos, killed]}) == 1
    recall, false, left = _found(governed.kept(twos[0].artifact), planted, twos[0].report)
    about = f"{rows} documents, {planted.size / 1e6:.0f} MB, {len(RECIPE['steps'])} steps"
    one, two = (sorted(run.seconds for run in runs)[len(runs) // 2] for runs in (ones, twos))
    figures = [
        Figure(
            "governance_two_workers",
            rows / two,
            "rows/s",
            "one worker",
            rows / one,
            f"{about}, POST /v1/datasets to the job's end; median of {repeats}, in turns; 6,000 rows/s or more",
        ),
        Figure(
            "governance_near_recall",
            recall * 100,
            "%",
            "planted",
            100.0,
            f"{len(planted.near)} near duplicates planted; other rows dropped by the step: {false:.4%}; exact "
            f"duplicates left: {left} of {len(planted.exact)}; 99.5 % or more, 0.1 % or less",
        ),
        Figure(
            "governance_killed",
            killed.seconds,
            "s",
            "undisturbed",
            two,
            f"{killed.kills} times kill -9 of one of two workers at a random moment; every run gave "
            f"{'the same version id' if same else 'ANOTHER VERSION ID'}",
        ),
    ]
    if times_ten:
        many = folder / "many.jsonl"
        write_documents(many, rows * 10)
        large = governed.build(governed.upload(many), 2)
        figures.append(
            Figure(
                "governance_memory",
                large.peak,
                "MiB",
                f"{rows} rows",
                max(run.peak for run in twos),
                f"highest peak of a worker on {rows * 10} rows ({rows * 10 / large.seconds:.0f} rows/s); at most 1.3",
            )
        )
    return figures


def _against(
    governed: Governed, folder: Path, rows: int, peers: list[tuple[Callable[..., PeerRun], Path]]
) -> list[Figure]:
    """Two data workers and each peer's two processes, one after another, on the same documents."""
    path = folder / "peers.jsonl"
    planted = write_documents(path, rows)
    ours = governed.build(governed.upload(path), 2)
    recall, _, _ = _found(governed.kept(ours.artifact), planted, ours.report)
    figures = []
    for run, python in peers:
        place = folder / run.__name__
        place.mkdir()
        peer = run(python, path, place)
        figures.append(
            Figure(
                f"governance_{run.__name__}",
                rows / ours.seconds,
                "rows/s",
                peer.name,
                rows / peer.seconds,
                f"{rows} documents, two processes each, starts included; near duplicates found {recall:.1%} against "
                f"{peer.recall(planted):.1%}; 10 times the rows/s or more",
            )
        )
    return figures


if __name__ == "__main__":
    sys.exit(main())
