"""The files that are checked, each in a bench of its own. Memory is the benches', whatever the size of the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from services.data_governance.sync import documents
from services.data_governance.sync.bench import ORIGIN, Bench
from services.data_governance.sync.staging import Staging
from shared.contracts.recipe_text import did_you_mean
from shared.contracts.sources import Options
from shared.errors import InvalidInput


class Input:
    """One file: `rows` and `bad` as counts, and its rows by column. Close it."""

    def __init__(self, name: str, path: Path, filename: str, folder: Path, check: Callable[[], None]) -> None:
        """Raises InvalidInput for a file that cannot be read at all."""
        folder.mkdir()
        self.name = name
        self.bench = Bench(folder)
        staging = Staging(self.bench, (), Options(), first=True)
        for part in documents.read(path, filename, check):
            check()
            if isinstance(part, documents.BadPlace):
                staging.refuse(str(part.place), None, part.code, part.message)
            else:
                records = [{k: v for k, v in record.items() if k != ORIGIN} for record in part.records]
                staging.take(records, None, part.places)
        staging.flush()
        self.rows = self.bench.count("SELECT count(*) FROM new")
        self.bad = self.bench.count("SELECT count(*) FROM bad")

    def close(self) -> None:
        self.bench.close()

    def place(self, column: str, param: str) -> str:
        """What a column is called in the bench. Raises InvalidInput for one that the file does not have."""
        if column not in self.bench.columns:
            raise InvalidInput(
                f"{param}: the input {self.name!r} has no column `{column}`; "
                f"{did_you_mean(column, list(self.bench.columns)[:50])}",
                code="unknown_column",
                param=param,
            )
        return self.bench.place(column)

    def values(self, places: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Some columns of all rows, with `key`, the line or row of each, in order."""
        chosen = ", ".join(["key", *dict.fromkeys(places)])
        for batch in self.bench.batches(f"SELECT {chosen} FROM new ORDER BY n"):
            yield batch.to_pylist()
