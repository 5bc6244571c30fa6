"""Some rows of a Parquet file as JSON can hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from services.data_governance.sync.values import plain


def page(path: Path, offset: int, limit: int) -> dict[str, Any]:
    """`{"rows": [...], "total": n}`, reading the row groups that are needed."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        first, chosen, skipped = 0, [], 0
        for index in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if first + rows <= offset:
                skipped += rows
            elif first < offset + limit:
                chosen.append(index)
            first += rows
        found = file.read_row_groups(chosen).slice(offset - skipped, limit) if chosen else None
    return {"rows": [plain(row) for row in found.to_pylist()] if found is not None else [], "total": first}
