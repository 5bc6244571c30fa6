"""Writes a batch's output and error files line by line, in the order of its input. Knows no SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from services.inference.answers import row_request_id


class OutputFiles:
    """Rows with an answer go to `output`, rows without to `error`; a file without rows is not made."""

    def __init__(self, folder: Path, batch_id: str) -> None:
        self._folder = folder
        self._batch_id = batch_id
        self._open: dict[str, tuple[Path, TextIO]] = {}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with `row_no`, `custom_id`, `status_code` and `body`."""
        for row in rows:
            answered = row["status_code"] == 200
            request_id = row_request_id(self._batch_id, row["row_no"])
            line = {
                "id": f"batch_req_{request_id}",
                "custom_id": row["custom_id"],
                "response": {
                    "status_code": row["status_code"],
                    "request_id": request_id,
                    "body": row["body"],
                },
                "error": None
                if answered
                else {"code": row["body"]["error"]["code"], "message": row["body"]["error"]["message"]},
            }
            self._file("output" if answered else "error").write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> Iterator[tuple[str, Path]]:
        """(name, path) of each file that was made."""
        for name, (path, handle) in self._open.items():
            handle.close()
            yield name, path

    def _file(self, name: str) -> TextIO:
        if name not in self._open:
            path = self._folder / f"{name}.jsonl"
            self._open[name] = (path, path.open("w", encoding="utf-8"))
        return self._open[name][1]
