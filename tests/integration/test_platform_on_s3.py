"""Files, content by hash and dataset builds with a bucket for a store, on real processes with a home each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.artifacts import open_artifacts
from tests.harness import ROOT, Harness, platform
from tests.s3_server import BUCKET, S3Server, s3_server

SAMPLES = ROOT / "deploy" / "samples" / "service_dialogues.jsonl"
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@contextmanager
def site(
    database_url: str, redis_url: str, s3: S3Server, *, workers: int = 1, **settings: str
) -> Iterator[tuple[Harness, httpx.Client]]:
    """A gateway and data workers, each on a machine of its own; every build is of several parts."""
    own = {**s3.settings, "HELIU_BUILD_PART_BYTES": "10000", **settings}
    with platform(database_url, redis_url, **own) as harness:
        harness.start("dispatcher", wait=False)
        for machine in range(workers):
            home = str(harness.folder / f"machine-{machine}")
            harness.start("data_governance", machine, wait=False, HELIU_HOME=home)
        address = harness.start_gateway()
        for process in harness.processes:
            process.wait_ready()
        key = {"authorization": f"Bearer {harness.key()}"}
        with httpx.Client(base_url=address, headers=key, timeout=60) as http:
            yield harness, http


def sample(lines: int) -> bytes:
    with SAMPLES.open("rb") as handle:
        return b"".join(islice(handle, lines))


def upload(http: httpx.Client, content: bytes) -> str:
    answer = http.post("/v1/files", files={"file": ("service.jsonl", content)}, data={"purpose": "user_data"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def build(harness: Harness, http: httpx.Client, content: bytes) -> tuple[dict[str, Any], int]:
    """(the ended job of a build of these rows, how many jobs it handed out)."""
    body = {"name": "service", "file_id": upload(http, content)}
    job = http.post("/v1/datasets", json=body).json()
    done = harness.wait_job(job["id"], PATIENCE_S)
    assert done.state.value == "succeeded", f"{done.error}\n{harness.logs()}"
    with harness.db.core() as c:
        row = c.execute("SELECT count(*) AS n FROM core.job WHERE parent_id = %s", (job["id"],)).fetchone()
    assert row is not None
    assert done.result is not None
    return done.result, int(row["n"])


def test_files_blobs_builds_and_readiness_stand_on_a_bucket(
    database_url: str, redis_url: str, s3: S3Server
) -> None:
    with site(database_url, redis_url, s3) as (harness, http):
        content = sample(120)
        file = upload(http, content)
        assert http.get(f"/v1/files/{file}/content").content == content
        part = http.get(f"/v1/files/{file}/content", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])

        weights = os.urandom(5000)
        blob = f"sha256:{hashlib.sha256(weights).hexdigest()}"
        first = http.put(f"/v1/blobs/{blob}", params={"size": 5000}, content=weights[:3000]).json()
        assert (first["received"], first["complete"]) == (3000, False)
        rest = {"size": 5000, "offset": 3000}
        assert http.put(f"/v1/blobs/{blob}", params=rest, content=weights[3000:]).json()["complete"] is True
        assert open_artifacts(harness.settings).open(blob).read() == weights

        # Workers share no folder, so the one that has the build does its parts.
        result, handed_out = build(harness, http, content)
        assert handed_out == 0
        assert result["rows"]["total"] > 50
        version = result["version_id"]
        rows = http.get(f"/v1/datasets/service/versions/{version}/rows", params={"limit": 3})
        assert len(rows.json()["data"]) == 3, rows.text

        assert http.get("/readyz").json()["checks"]["artifacts"] == "ok"
        s3.before = lambda method, path: 403
        try:
            away = http.get("/readyz")
        finally:
            s3.before = lambda method, path: None
        assert away.status_code == 503
        # Who asks may be anybody, and the bucket's name is for the log.
        assert BUCKET not in away.json()["checks"]["artifacts"]


@pytest.mark.long
def test_workers_that_share_a_scratch_folder_share_the_parts_of_a_build(
    database_url: str, redis_url: str, s3: S3Server, tmp_path: Path
) -> None:
    scratch = {"HELIU_ARTIFACTS": f"s3://{BUCKET}/shared", "HELIU_SCRATCH": str(tmp_path / "scratch")}
    with site(database_url, redis_url, s3, workers=2, **scratch) as (harness, http):
        result, handed_out = build(harness, http, sample(300))
        assert handed_out > 1
        assert result["rows"]["total"] > 100
        assert not list((tmp_path / "scratch" / "scratch").iterdir())
