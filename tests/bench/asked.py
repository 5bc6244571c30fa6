"""The platform of a benchmark, asked as a client asks it: over HTTP, waiting for jobs. Knows no method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.bench.place import READY_S, Place
from tests.harness import ROOT

SERVICES = ("gateway", "dispatcher", "data_governance", "training", "inference")
ENDED = ("succeeded", "failed", "cancelled", "dead", "expired")


class Asked:
    """All services, one process each, for as long as the place is there."""

    def __init__(self, place: Place) -> None:
        self.place = place
        harness = place.harness
        processes = [harness.start(name, wait=False) for name in SERVICES]
        for process in processes:
            process.wait_ready(READY_S)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{harness.settings.gateway_port}",
            headers={"Authorization": f"Bearer {harness.key()}"},
            timeout=READY_S,
        )

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.http.post(path, json=body)
        if answer.is_error:
            raise SystemExit(f"{path}: {answer.text}")
        return answer.json()

    def done(self, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """(the result of the job that the request starts, seconds)."""
        began = time.monotonic()
        job = self.post(path, body)
        while job["status"] not in ENDED:
            time.sleep(0.5)
            job = self.http.get(f"/v1/jobs/{job['id']}").json()
        if job["status"] != "succeeded":
            raise SystemExit(f"{path} {body.get('type', '')}: {job['status']}: {job['error']}")
        return dict(job["result"]), time.monotonic() - began

    def upload(self, content: bytes, purpose: str = "fine-tune") -> str:
        answer = self.http.post(
            "/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": purpose}
        )
        answer.raise_for_status()
        return str(answer.json()["id"])

    def upload_rows(self, rows: Sequence[dict[str, Any]]) -> str:
        """As JSONL."""
        return self.upload(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))

    def add_model(self, folder: Path, name: str) -> str:
        """Bring a folder in, by the command line."""
        added = [sys.executable, "-m", "services.cli.main", "models", "add", str(folder), "--name", name]
        known = {name: value for name, value in os.environ.items() if not name.startswith("HELIU_")}
        ours = {"HELIU_GATEWAY_URL": str(self.http.base_url), "HELIU_API_KEY": self.place.harness.key()}
        subprocess.run(added, env={**known, **ours, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
        return name
