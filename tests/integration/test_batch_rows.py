"""Rows of a batch on a real Postgres: what a model may say is what is read back."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from services.inference import repository
from services.inference.answers import StoredRow
from shared import job_store
from shared.bootstrap import create_tenant
from shared.db import Database
from shared.jobs import NewJob, new_id


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, application="test", max_size=2)
    yield opened
    opened.close()


def stored(db: Database, *texts: str) -> list[str]:
    """Each text as the body of one row, read back in order; a second storing of the first row is refused."""
    with db.core() as connection:
        tenant = create_tenant(connection, "default")
    new = NewJob(new_id("batch_"), tenant, "inference.batch", "inference.default.batch", {})
    rows = [StoredRow(n, f"c{n}", 200, {"text": text}, model="m") for n, text in enumerate(texts)]
    about = {"tenant": tenant, "batch_id": new.id, "epoch": 1, "endpoint": "/v1/chat/completions"}
    more = {"pool": "default", "api_key_id": None, "trace_id": None}
    with db.transaction(tenant) as connection:
        job_store.submit(connection, new)
        repository.add_rows(connection, rows=rows, **about, **more)  # type: ignore[arg-type]
    with pytest.raises(psycopg.errors.UniqueViolation), db.transaction(tenant) as connection:
        repository.add_rows(connection, rows=rows[:1], **about, **more)  # type: ignore[arg-type]
    with db.transaction(tenant) as connection:
        return [row["body"]["text"] for row in repository.page(connection, new.id, -1)]


def test_an_answer_keeps_every_character_that_a_byte_level_model_can_say(db: Database) -> None:
    texts = ["\x00", "a\x00\x1f\x7fb", "\ufffd 你好 🙂", '"\\u0000"', "\ud800"]
    assert stored(db, *texts) == texts
