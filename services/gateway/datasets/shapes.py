"""Datasets and their versions as clients see them."""

from __future__ import annotations

from services.gateway.shapes import Row, Shape, unix


def dataset(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "dataset",
        "name": row["name"],
        "created_at": unix(row["created_at"]),
        "current_version": row["current_version"],
    }


def dataset_version(row: Row, *, full: bool = False) -> Shape:
    shape = {
        "id": row["id"],
        "object": "dataset.version",
        "dataset": row["dataset"],
        "created_at": unix(row["created_at"]),
        "job_id": row["job_id"],
        "file_id": row["file_id"],
        "rows": row["rows"],
        "train_rows": row["train_rows"],
        "validation_rows": row["validation_rows"],
        "gate_passed": row["gate_passed"],
        "gate": row["gate"],
    }
    return {**shape, "report": row["report"], "drift": row["drift"]} if full else shape
