"""A page of a tenant's jobs, as every list of jobs has it: newest first, a cursor that is no job of theirs refused."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.auth import Caller
from services.gateway.pages import Page, unknown_cursor
from shared import job_store
from shared.db import Connection
from shared.errors import NotFound
from shared.jobs import Job


def jobs_page(
    connection: Connection,
    caller: Caller,
    page: Page,
    *,
    kinds: Sequence[str] | None,
    states: Sequence[str] | None = None,
    parts: bool = False,
    metadata: dict[str, str] | None = None,
) -> tuple[list[Job], bool]:
    """(jobs, whether there are more). Raises InvalidInput on `after` for a cursor that is not there."""
    try:
        return job_store.list_jobs(
            connection,
            caller.tenant,
            kinds=kinds,
            states=states,
            after=page.after,
            limit=page.limit,
            parts=parts,
            metadata=metadata,
        )
    except NotFound as exc:
        raise unknown_cursor(page.after or "") from exc
