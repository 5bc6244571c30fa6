"""A batch on two inference workers, one of which is killed: what is left of the rate, and of the rows."""

from __future__ import annotations

import json
import time
from collections import Counter

from tests.bench.figures import Figure
from tests.bench.place import READY_S, Place
from tests.bench.rows import start_batch, texts, upload, wait_batch
from tests.harness import Process

ANSWER_TOKENS = 24
SECOND = 1


def worker_killed(place: Place) -> list[Figure]:
    """The killed worker is started again at once, as the supervisor does."""
    rows = texts(place.size(1000, 24), seed=7)
    client = place.platform.client
    file_id = upload(client, rows, ANSWER_TOKENS)
    second = place.harness.start("inference", SECOND, wait=False)
    second.wait_ready(READY_S)
    try:
        _run(place, file_id)  # both have the model now
        calm, _ = _run(place, file_id)
        batch_id = start_batch(client, file_id)
        began = time.perf_counter()
        wait_batch(client, batch_id, rows_answered=len(rows) // 3)
        second.kill()
        second = _again(place)
        seconds, answers = _end(place, batch_id, began)
    finally:
        second.stop()
    lost, doubled = len(rows) - len(answers), sum(count - 1 for count in answers.values())
    how = f"{len(rows)} rows on two workers, one killed with -9 after a third and started again"
    return [
        Figure(
            "goodput_worker_killed",
            len(rows) / seconds,
            "rows/s",
            "none killed",
            len(rows) / calm,
            f"{how}; 0.9 is good, goal 0.98",
        ),
        Figure("rows_lost_or_doubled", lost + doubled, "rows", "rows sent", len(rows), f"{how}; 0"),
    ]


def _again(place: Place) -> Process:
    return place.harness.start("inference", SECOND, wait=False)


def _run(place: Place, file_id: str) -> tuple[float, Counter[str]]:
    began = time.perf_counter()
    return _end(place, start_batch(place.platform.client, file_id), began)


def _end(place: Place, batch_id: str, began: float) -> tuple[float, Counter[str]]:
    """Seconds until the output file was read, and how often it answers each row."""
    client = place.platform.client
    batch = wait_batch(client, batch_id)
    output = client.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status().text
    seconds = time.perf_counter() - began
    return seconds, Counter(json.loads(line)["custom_id"] for line in output.splitlines())
