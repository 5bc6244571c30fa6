"""Fine-tuning: packed against padded, and by the platform against TRL run by hand on the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO, cast

import httpx

from shared.frames import read_frames, write_frame
from tests.bench.figures import Figure
from tests.bench.place import MODEL, Place
from tests.bench.rows import texts
from tests.harness import ROOT

BATCH, RANK = 8, 16
PATIENCE_S = 1800
ALONE = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "passive",
}


def packed(place: Place) -> list[Figure]:
    """Row 12: how much of what padding costs is won back."""
    # In a process of its own: this one stays without torch.
    command = [sys.executable, "-m", "tests.bench.packed", str(place.model_folder)]
    done = subprocess.run(
        [*command, "quick" if place.quick else "full"],
        cwd=ROOT,
        env=ALONE,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    laps = [json.loads(line) for line in done.stdout.splitlines()]
    rates = {way: median(lap["rate"] for lap in laps if lap["way"] == way) for way in ("packed", "padded")}
    full = next(lap["fill"] for lap in laps if lap["way"] == "padded")
    return [
        Figure(
            "training_packed_vs_padded",
            rates["packed"],
            "useful tokens a processor second",
            f"padded batches that are {full:.0%} full, were they quite full",
            rates["padded"] / full,
            f"LoRA on shuffled rows of mixed lengths, {BATCH} a step; median of {len(laps) // 2}, in turns; goal 0.97",
        )
    ]


def platform(place: Place) -> list[Figure]:
    """Seconds from POST until the job has succeeded, against a process that does the same by hand."""
    steps, repeats = place.size(40, 2), place.size(3, 1)
    client, rows = place.platform.client, _rows(place, steps)
    file_id = _upload(client, rows)
    ours: list[float] = []
    script: list[float] = []
    child: list[float] = []
    for lap in range(repeats):
        out = place.folder / f"by-hand-{lap}"
        given = [str(place.model_folder), str(rows), str(out), str(steps), str(BATCH), str(RANK)]
        script.append(_seconds([sys.executable, "-m", "tests.bench.trl_script", *given]))
        child.append(_trainer_alone(place, rows, steps, lap))
        ours.append(_job(client, file_id, steps))
    how = f"LoRA, {steps} steps of {BATCH}, until the model is there; median of {repeats}, in turns"
    seconds = median(ours)
    return [
        Figure(
            "training_platform_vs_script",
            1 / seconds,
            "jobs/s",
            "TRL by hand, with its defaults",
            1 / median(script),
            f"{how}; goal 0.97",
        ),
        Figure(
            "training_platform_vs_trainer",
            1 / seconds,
            "jobs/s",
            "the platform's own trainer as a plain process",
            1 / median(child),
            f"{how}; what queue, store and the check against the engine cost",
        ),
    ]


def _rows(place: Place, steps: int) -> Path:
    path = place.folder / "conversations.jsonl"
    turns = zip(texts(steps * BATCH, seed=3), texts(steps * BATCH, seed=4), strict=True)
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in turns
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def _wanted(steps: int) -> dict[str, Any]:
    return {
        "method": "lora",
        "lora_r": RANK,
        "max_steps": steps,
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "checkpoint_every": steps,
        "log_every": max(1, steps // 4),
    }


def _upload(client: httpx.Client, rows: Path) -> str:
    files = {"file": (rows.name, rows.read_bytes())}
    answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files=files).raise_for_status()
    return str(answer.json()["id"])


def _job(client: httpx.Client, file_id: str, steps: int) -> float:
    method = {"type": "supervised", "supervised": {"hyperparameters": _wanted(steps)}}
    body = {"model": MODEL, "training_file": file_id, "method": method}
    began = time.perf_counter()
    job = client.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()
    while job["status"] not in ("succeeded", "failed", "cancelled"):
        if time.perf_counter() - began > PATIENCE_S:
            raise TimeoutError(f"job {job['id']} did not end in {PATIENCE_S} s")
        time.sleep(0.1)
        job = client.get(f"/v1/fine_tuning/jobs/{job['id']}").raise_for_status().json()
    if job["status"] != "succeeded":
        raise RuntimeError(f"the job ended as {job['status']}: {job['error']}")
    return time.perf_counter() - began


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=ALONE, check=True, capture_output=True)
    return time.perf_counter() - began


def _trainer_alone(place: Place, rows: Path, steps: int, lap: int) -> float:
    folder = place.folder / f"alone-{lap}"
    spec = {
        "kind": "sft",
        "workdir": str(folder / "work"),
        "output_dir": str(folder / "out"),
        "data": {"train": [str(rows)]},
        "base_dir": str(place.model_folder),
        "hyperparameters": _wanted(steps),
    }
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "services.training.child"],
        cwd=ROOT,
        env=ALONE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        write_frame(cast(BinaryIO, child.stdin), spec)
        frames = list(read_frames(cast(BinaryIO, child.stdout)))
    if frames[-1]["type"] != "result":
        raise RuntimeError(f"the trainer ended with {frames[-1]}")
    return time.perf_counter() - began
