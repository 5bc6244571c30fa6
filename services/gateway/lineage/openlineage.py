"""Lineage as OpenLineage run events, for catalogues that read those. Pure.

https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.gateway.lineage.graph import Graph, Node

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
JOB_TYPE = "https://openlineage.io/spec/facets/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"
VERSION = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
PRODUCER = "https://github.com/heliu/heliu"
# Runs are named by UUIDs there: ours is made of the job's id, so that it is the same in every export.
RUNS = uuid.UUID("6f1c8f0e-5b2e-4f9c-9a53-8f6f5b8f4a11")
ENDS = {"succeeded": "COMPLETE", "failed": "FAIL", "dead": "FAIL", "cancelled": "ABORT", "expired": "ABORT"}


def events(graph: Graph, jobs: Mapping[str, Mapping[str, Any]], tenant: str) -> list[dict[str, Any]]:
    """START and end of each job that ties nodes of the graph, oldest first."""
    made: list[dict[str, Any]] = []
    for job_id, job in jobs.items():
        inputs = {link.parent for link in graph.links if link.job == job_id}
        outputs = {link.child for link in graph.links if link.job == job_id}
        inputs |= {link.parent for link in graph.links if link.child == Node("job", job_id)}
        outputs |= {link.child for link in graph.links if link.parent == Node("job", job_id)}
        begun = {
            "run": {"runId": run_id(job_id), "facets": {}},
            "job": {"namespace": _namespace(tenant), "name": job["job_kind"], "facets": _job_facets(job)},
            "inputs": [_dataset(graph, node, tenant) for node in sorted(inputs, key=_order)],
            "outputs": [_dataset(graph, node, tenant) for node in sorted(outputs, key=_order)],
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
        }
        if job["started_at"] is not None:
            made.append({"eventType": "START", "eventTime": _moment(job["started_at"]), **begun})
        if job["finished_at"] is not None:
            ended = ENDS.get(job["state"], "OTHER")
            made.append({"eventType": ended, "eventTime": _moment(job["finished_at"]), **begun})
    return sorted(made, key=lambda event: (event["eventTime"], event["eventType"] != "START"))


def run_id(job_id: str) -> str:
    """The UUID that stands for a job."""
    return str(uuid.uuid5(RUNS, job_id))


def _dataset(graph: Graph, node: Node, tenant: str) -> dict[str, Any]:
    about = graph.nodes.get(node, {})
    name = f"{node.kind}/{node.id}"
    facets: dict[str, Any] = {}
    if node.kind == "version":
        name = f"dataset/{about.get('dataset', node.id)}"
        facets["version"] = {"_producer": PRODUCER, "_schemaURL": VERSION, "datasetVersion": node.id}
    return {"namespace": _namespace(tenant), "name": name, "facets": facets}


def _job_facets(job: Mapping[str, Any]) -> dict[str, Any]:
    service = str(job["job_kind"]).partition(".")[0].upper()
    told = {"processingType": "BATCH", "integration": "HELIU", "jobType": service}
    return {"jobType": {"_producer": PRODUCER, "_schemaURL": JOB_TYPE, **told}}


def _order(node: Node) -> tuple[str, str]:
    return node.kind, node.id


def _namespace(tenant: str) -> str:
    return f"heliu://{tenant}"


def _moment(at: datetime) -> str:
    return at.isoformat()
