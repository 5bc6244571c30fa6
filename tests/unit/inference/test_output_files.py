"""A batch's files: answers and errors apart, in order, in OpenAI's shape."""

from __future__ import annotations

import json
from pathlib import Path

from services.inference.answers import row_error, row_request_id
from services.inference.output_files import OutputFiles
from shared.contracts.answers import CHAT, answer_id, completion

CHOICE = {"text": "好", "finish_reason": "stop"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1}


def test_answers_and_errors_go_to_their_own_files(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path, "batch_1")
    answer = completion(CHAT, answer_id(CHAT, row_request_id("batch_1", 0)), "m", 1, [CHOICE], USAGE)
    files.add(
        [
            {"row_no": 0, "custom_id": "a", "status_code": 200, "body": answer},
            {
                "row_no": 1,
                "custom_id": "b",
                "status_code": 400,
                "body": row_error("too_long", "too long", "messages"),
            },
        ]
    )
    found = {
        name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.close()
    }
    (good,), (bad,) = found["output"], found["error"]
    assert good["custom_id"] == "a"
    assert good["error"] is None
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "好"
    assert good["response"]["body"]["usage"]["total_tokens"] == 4
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("b", 400)
    assert bad["error"] == {"code": "too_long", "message": "too long"}


def test_a_file_without_rows_is_not_made(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path, "batch_1")
    files.add([{"row_no": 0, "custom_id": "a", "status_code": 500, "body": row_error("x", "y")}])
    assert [name for name, _ in files.close()] == ["error"]


def test_a_row_keeps_its_request_id_across_attempts() -> None:
    assert row_request_id("batch_1", 5) == row_request_id("batch_1", 5) != row_request_id("batch_1", 6)
