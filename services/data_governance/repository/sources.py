"""SQL of sources as syncs read and publish them. A sync publishes where nobody else has changed the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row
from shared.errors import HeliuError
from shared.jobs import new_id

# As the platform, for a tenant's transaction sees no credentials; so the tenant is asked for by hand.
GET = """
SELECT id, name, connection, options, sealed, generation, state FROM data_governance.source
WHERE id = %s AND tenant_id = %s AND deleted_at IS NULL"""

ITEMS = "SELECT item, fingerprint, digest FROM data_governance.source_item WHERE source_id = %s"

PUBLISH = """
UPDATE data_governance.source SET state = %(state)s, generation = generation + 1
WHERE id = %(id)s AND generation = %(generation)s AND deleted_at IS NULL"""

PUT_ITEMS = """
INSERT INTO data_governance.source_item (source_id, tenant_id, item, fingerprint, digest)
SELECT %s, %s, item, fingerprint, digest
FROM unnest(%s::text[], %s::text[], %s::text[]) AS given (item, fingerprint, digest)
ON CONFLICT (source_id, item) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, digest = EXCLUDED.digest"""

FORGET_ITEMS = "DELETE FROM data_governance.source_item WHERE source_id = %s AND item = ANY(%s)"

ADD_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'user_data', %s, %s, %s)"""

ENSURE_DATASET = """
INSERT INTO data_governance.dataset (id, tenant_id, name) VALUES (%s, %s, %s)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO UPDATE SET name = EXCLUDED.name RETURNING id"""

BATCH = 5000


class SourceChanged(HeliuError):
    """The source was changed, or synced by another, while this sync read it."""

    code = "source_changed"
    retryable = True


def find(connection: Connection, tenant: UUID, source_id: str) -> Row | None:
    """The source with its sealed credentials; as the platform. None when it was deleted."""
    return connection.execute(GET, (source_id, tenant)).fetchone()


def items(connection: Connection, source_id: str) -> dict[str, tuple[str, str]]:
    """Fingerprint and digest by item."""
    rows = connection.execute(ITEMS, (source_id,)).fetchall()
    return {row["item"]: (row["fingerprint"], row["digest"]) for row in rows}


def publish(connection: Connection, source_id: str, generation: int, state: Mapping[str, Any]) -> None:
    """Put a new state in the place of the one that was read at `generation`. Raises SourceChanged."""
    values = {"id": source_id, "generation": generation, "state": Jsonb(dict(state))}
    if connection.execute(PUBLISH, values).rowcount != 1:
        raise SourceChanged("the source was changed while it was read; the sync starts over")


def put_items(
    connection: Connection,
    tenant: UUID,
    source_id: str,
    taken: Sequence[tuple[str, str, str]],
    gone: Sequence[str],
) -> None:
    """(item, fingerprint, digest) as they are now, and those that are there no more."""
    for start in range(0, len(taken), BATCH):
        columns = [list(column) for column in zip(*taken[start : start + BATCH], strict=True)]
        connection.execute(PUT_ITEMS, (source_id, tenant, *columns))
    connection.execute(FORGET_ITEMS, (source_id, list(gone)))


def add_file(
    connection: Connection, file_id: str, tenant: UUID, filename: str, size: int, artifact: str, job_id: str
) -> None:
    connection.execute(ADD_FILE, (file_id, tenant, filename, size, artifact, job_id))


def ensure_dataset(connection: Connection, tenant: UUID, name: str) -> str:
    """The id of the tenant's dataset of this name, made when it is not there."""
    row = connection.execute(ENSURE_DATASET, (new_id("ds-"), tenant, name)).fetchone()
    assert row is not None
    return str(row["id"])
