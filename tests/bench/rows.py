"""The prompts that benchmarks send, the same in every run, and a batch of them through the gateway."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import httpx

from tests.bench.place import MODEL

SENTENCES = (
    "Hello, how can I help you today? My order has not arrived yet.",
    "您好，请问有什么可以帮您？我的订单还没有到。",
    "Please check the tracking number and wait for one or two days.",
    "请稍等，我帮您查询一下物流信息。",
)
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
POLL_S = 0.2
PATIENCE_S = 900


def texts(count: int, seed: int = 1) -> list[str]:
    """Customer-service chatter of mixed lengths, Chinese and English, each its own."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        said = " ".join(rng.choices(SENTENCES, k=2))
        cut = rng.randint(20, len(said))
        found.append(f"{index} {said[:cut]}")
    return found


def upload(client: httpx.Client, rows: list[str], max_tokens: int) -> str:
    """The id of a batch's input file."""
    body = "".join(
        json.dumps(
            {
                "custom_id": f"row-{index}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": chat_body(text, max_tokens),
            },
            ensure_ascii=False,
        )
        + "\n"
        for index, text in enumerate(rows)
    )
    answer = client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("bench.jsonl", body.encode())}
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def chat_body(text: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


def start_batch(client: httpx.Client, file_id: str) -> str:
    """The id of a batch."""
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = client.post("/v1/batches", json=body)
    answer.raise_for_status()
    return str(answer.json()["id"])


def wait_batch(client: httpx.Client, batch_id: str, *, rows_answered: int | None = None) -> dict[str, Any]:
    """The batch once it has ended, or once so many of its rows are answered."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        batch: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").raise_for_status().json()
        if batch["status"] not in OPEN:
            return batch
        if rows_answered is not None and batch["request_counts"]["completed"] >= rows_answered:
            return batch
        time.sleep(POLL_S)
    raise TimeoutError(f"batch {batch_id} did not end in {PATIENCE_S} s")
