"""Labelling projects, labellers, items and labels as clients see them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.gateway.labelling.work import Labeller
from services.gateway.shapes import unix

Row = Mapping[str, Any]
Shape = dict[str, Any]


def project(row: Row, progress: Mapping[str, int] | None = None) -> Shape:
    shape = {
        "id": row["id"],
        "object": "labelling.project",
        "name": row["name"],
        **row["spec"],
        "source": row["source"],
        "page": f"/label/{row['id']}",
        "created_at": unix(row["created_at"]),
    }
    return shape if progress is None else {**shape, "progress": dict(progress)}


def labeller(row: Row) -> Shape:
    shape = {
        "id": row["id"],
        "object": "labelling.labeller",
        "name": row["name"],
        "prefix": row["prefix"],
        "adjudicates": row["adjudicates"],
        "created_at": unix(row["created_at"]),
        "revoked_at": unix(row["revoked_at"]),
    }
    counts = {name: row[name] for name in ("labelled", "skipped", "adjudicated") if name in row}
    return {**shape, **counts}


def item(row: Row, labels: Sequence[Row]) -> Shape:
    """As the project's owner sees it: with everybody's labels, and the right answer where it is known."""
    return {
        "id": row["id"],
        "object": "labelling.item",
        "position": row["position"],
        "row_id": row["row_id"],
        "state": row["state"],
        "data": row["data"],
        "extra": row["extra"],
        "gold": row["gold"],
        "weak": row["weak"],
        "priority": row["priority"],
        "agreement": row["agreement"],
        "final": row["final"],
        "final_by": row["final_by"],
        "labels": [
            {
                "labeller_id": label["labeller_id"],
                "labeller": label["labeller"],
                "role": label["role"],
                "state": label["state"],
                "value": label["value"],
                "at": unix(label["updated_at"]),
            }
            for label in labels
        ],
    }


def event(row: Row) -> Shape:
    return {
        "id": str(row["id"]),
        "object": "labelling.event",
        "kind": row["kind"],
        "labeller_id": row["labeller_id"],
        "labeller": row["labeller"],
        "value": row["value"],
        "seconds": row["seconds"],
        "created_at": unix(row["created_at"]),
    }


def suspect(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "labelling.suspect",
        "given": row["given"],
        "guessed": row["guessed"],
        "quality": row["quality"],
        "row_id": row["row_id"],
        "data": row["data"],
        "job_id": row["job_id"],
    }


def work_project(project_id: str, name: str, spec: Row) -> Shape:
    """What a labeller is told of a project: not where its items came from, nor how many are known."""
    told = ("task", "multiple", "labels", "guidelines", "lease_seconds")
    return {"id": project_id, "name": name, **{key: spec[key] for key in told}}


def work(me: Labeller, progress: Mapping[str, int]) -> Shape:
    return {
        "object": "labelling.work",
        "project": work_project(me.project, me.project_name, me.spec.model_dump(mode="json")),
        "labeller": {"id": me.id, "name": me.name, "adjudicates": me.adjudicates},
        "progress": dict(progress),
    }


def work_item(row: Row) -> Shape:
    """As a labeller sees it; to an adjudicator with the labels, and never with whose they are."""
    shape = {
        "id": row["id"],
        "object": "labelling.work.item",
        "data": row["data"],
        "leased_until": unix(row["until"]),
    }
    return {**shape, "labels": row["labels"]} if "labels" in row else shape


def own_label(row: Row) -> Shape:
    return {
        "id": row["id"],
        "object": "labelling.work.label",
        "state": row["state"],
        "value": row["value"],
        "data": row["data"],
        "at": unix(row["updated_at"]),
    }
