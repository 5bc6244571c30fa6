"""A batch goes where its first line wants to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.cli.batches import _endpoint


@pytest.mark.parametrize(
    ("first", "endpoint"),
    [
        (json.dumps({"url": "/v1/embeddings"}), "/v1/embeddings"),
        (json.dumps({"url": "/v1/completions"}), "/v1/completions"),
        (json.dumps({"url": "/v1/nowhere"}), "/v1/chat/completions"),
        ("[]", "/v1/chat/completions"),
        ("{", "/v1/chat/completions"),
        ("", "/v1/chat/completions"),
        ("\udcff", "/v1/chat/completions"),
    ],
)
def test_the_endpoint_is_the_first_lines(tmp_path: Path, first: str, endpoint: str) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_text(first + "\n{}", encoding="utf-8", errors="surrogateescape")
    assert _endpoint(file) == endpoint
