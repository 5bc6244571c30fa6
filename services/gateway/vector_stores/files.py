"""What may happen to the files of a vector store: put in, taken out, cancelled. Works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.gateway.auth import Caller
from services.gateway.models import resolve
from services.gateway.models.uses import NAMED, few
from services.gateway.vector_stores import repository
from shared import job_requests, job_store
from shared.contracts.inference import ModelRef
from shared.contracts.retrieval import IndexFile, Static
from shared.db import Connection, Row
from shared.errors import Conflict, HeliuError, NotFound
from shared.jobs import NewJob, new_id

STORE_EXPIRED = "vector_store_expired"


@dataclass(frozen=True)
class Given:
    """A file that is put into a store; `place` is what its request calls it."""

    file_id: str
    sizes: Static
    attributes: dict[str, Any] = field(default_factory=dict)
    place: str = "file_id"


def store(connection: Connection, caller: Caller, store_id: str, *, usable: bool = False) -> Row:
    """The tenant's store. Raises NotFound; HeliuError `vector_store_expired` where it must be `usable`."""
    row = repository.find(connection, caller.tenant, store_id)
    if row is None:
        raise NotFound(f"no vector store {store_id[:80]!r}", param="vector_store_id")
    if usable and row["expired"]:
        raise HeliuError(
            f"the vector store {store_id!r} expired {row['expires_days']} days after its last use; make a new one, or "
            "change its expires_after",
            code=STORE_EXPIRED,
            param="vector_store_id",
        )
    return row


def check_unused(connection: Connection, caller: Caller, store_id: str) -> None:
    """Raise Conflict (`in_use`) for a store that tasks answer from. No task comes to until the transaction ends."""
    repository.lock(connection, caller.tenant, store_id)
    tasks = repository.tasks_with(connection, caller.tenant, store_id, NAMED + 1)
    if tasks:
        raise Conflict(
            f"the vector store {store_id} is needed by {few('tasks', tasks)}; change or delete those first",
            code="in_use",
            param="vector_store_id",
        )


def attach(
    connection: Connection,
    caller: Caller,
    found: Row,
    files: Sequence[Given],
    *,
    pool: str,
    traceparent: str,
    batch: str | None = None,
) -> list[str]:
    """Put files into a store; returns the ids of the jobs that index them, none for what is indexed already.

    A file that is there or on its way with the same chunks gets the new attributes and nothing else, so that a
    request that is sent twice does nothing twice.
    """
    # Two requests for one file at once would each see that it is not there.
    repository.lock(connection, caller.tenant, found["id"])
    jobs = []
    for given in files:
        row = resolve.file_row(connection, given.file_id, param=given.place)
        held = repository.file(connection, found["id"], given.file_id)
        same = held is not None and held["chunking"] == given.sizes.model_dump()
        if held is not None and same and held["state"] in ("in_progress", "completed"):
            repository.keep_file(connection, found["id"], given.file_id, given.attributes, batch)
            continue
        job = _job(caller, found, row, given, pool, traceparent)
        job_store.submit(connection, job)
        repository.add_file(
            connection,
            {
                "store": found["id"],
                "file": given.file_id,
                "tenant": caller.tenant,
                "batch": batch,
                "job": job.id,
                "attributes": given.attributes,
                "chunking": given.sizes.model_dump(),
            },
        )
        jobs.append(job.id)
    repository.touch(connection, found["id"])
    return jobs


def _job(caller: Caller, found: Row, file: Row, given: Given, pool: str, traceparent: str) -> NewJob:
    encoder = found["encoder"]
    contract = IndexFile(
        store_id=found["id"],
        file_id=given.file_id,
        artifact=file["artifact"],
        filename=file["filename"],
        max_tokens=given.sizes.max_chunk_size_tokens,
        overlap_tokens=given.sizes.chunk_overlap_tokens,
        encoder=ModelRef.model_validate(encoder["model"]) if encoder else None,
        context=encoder["context"] if encoder else None,
        pool=pool,
    )
    return NewJob(
        id=new_id(IndexFile.id_prefix),
        tenant_id=caller.tenant,
        kind=IndexFile.kind,
        queue=IndexFile.queue_for(pool),
        payload=contract.dump(),
        max_attempts=IndexFile.max_attempts,
        max_crashes=IndexFile.max_crashes,
        api_key_id=caller.key_id,
        traceparent=traceparent,
    )


def end_jobs(connection: Connection, jobs: Sequence[str]) -> None:
    """Ask the jobs of files that are no longer wanted to end; those that have ended already did."""
    for job in jobs:
        try:
            job_requests.request_cancel(connection, job)
        except Conflict:
            continue
