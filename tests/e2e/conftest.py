"""One platform for all end-to-end tests, on servers of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.migrate import migrate
from tests import servers
from tests.e2e.stage import Stage, open_stage


@pytest.fixture(scope="package")
def stage() -> Iterator[Stage]:
    """Governed data, a base and a tuned adapter, all made by the platform that still runs."""
    with servers.postgres_server() as postgres, servers.valkey_server() as valkey:
        url = servers.new_database(postgres.url, "end_to_end")
        migrate(url)
        with open_stage(url, valkey.url) as made:
            yield made
