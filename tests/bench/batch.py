"""The whole platform against its own engine on a batch, and the memory that it takes meanwhile."""

from __future__ import annotations

import json
import time
from statistics import median

from tests.bench.figures import Figure
from tests.bench.place import Place
from tests.bench.rows import start_batch, texts, upload, wait_batch

ANSWER_TOKENS = 24
ENOUGH_S = 100.0


def whole_platform(place: Place) -> list[Figure]:
    """Tokens a second from POST /v1/batches until the output file is here, and from Engine.generate alone."""
    rows, repeats = texts(place.size(1000, 24)), place.size(3, 1)
    client = place.platform.client
    file_id = upload(client, rows, ANSWER_TOKENS)
    ours: list[float] = []
    theirs: list[float] = []
    began = time.monotonic()
    while len(ours) < repeats and (not ours or time.monotonic() - began < ENOUGH_S):
        # In turns, so that whatever else the machine does falls on both.
        bare = place.bare_engine.ask({"rows": rows, "max_tokens": ANSWER_TOKENS})
        theirs.append(bare["tokens"] / bare["seconds"])
        with place.memory.watching("batch"):
            ours.append(_run(place, file_id, len(rows)))
    return [
        Figure(
            "batch_platform_vs_engine",
            median(ours),
            "tokens/s",
            "bare engine",
            median(theirs),
            f"{len(rows)} rows, {ANSWER_TOKENS} tokens each: POST /v1/batches to output file read, against "
            f"Engine.generate on the same prompts; median of {len(ours)}, in turns; goal 0.85 or more",
        )
    ]


def _run(place: Place, file_id: str, rows: int) -> float:
    client = place.platform.client
    started = time.perf_counter()
    batch = wait_batch(client, start_batch(client, file_id))
    if batch["status"] != "completed" or batch["request_counts"]["completed"] != rows:
        raise RuntimeError(f"the batch ended as {batch['status']}: {batch['request_counts']}")
    output = client.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status().text
    seconds = time.perf_counter() - started
    answers = [json.loads(line) for line in output.splitlines()]
    return sum(one["response"]["body"]["usage"]["completion_tokens"] for one in answers) / seconds


def memory(place: Place) -> list[Figure]:
    """Each process when all is idle and at its peak in the batch."""
    if "batch" not in place.memory.peaks:
        whole_platform(place)
    idle, peaks = place.memory.peaks["idle"], place.memory.peaks["batch"]
    return [
        Figure(
            f"memory_{name}",
            peaks[name],
            "MiB",
            "idle",
            idle[name],
            "peak in the batch against idle, no model loaded; "
            + ("PSS" if name in place.memory.servers else "RSS, children counted in"),
        )
        for name in sorted(idle)
    ]
