"""Fixtures that every kind of test shares: a migrated database and an empty Redis, on real servers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
import redis

from shared.migrate import migrate
from tests import servers

# Tests are of the CPU, also where there is a GPU (`python -m tests.bench.gpu` checks that one): Triton's kernels run
# in its interpreter, which must be told before anything imports Triton.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRITON_INTERPRET"] = "1"

TEMPLATE = "heliu_template"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file share what they started, and so do all end-to-end tests: each lot runs in one process."""
    for item in items:
        lot = "e2e" if "e2e" in item.path.parts else item.path.name
        item.add_marker(pytest.mark.xdist_group(lot))


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.RunningServer]:
    """One Postgres for the whole run, with a migrated template. Do not hurt it: others use it too."""
    with servers.postgres_server() as running:
        migrate(servers.new_database(running.url, TEMPLATE))
        yield running


@pytest.fixture(scope="session")
def valkey() -> Iterator[servers.RunningServer]:
    """One Valkey for the whole run. Do not hurt it: others use it too."""
    with servers.valkey_server() as running:
        yield running


@pytest.fixture
def database_url(postgres: servers.RunningServer) -> Iterator[str]:
    """A fresh, migrated, empty database."""
    name = f"test_{secrets.token_hex(6)}"
    url = servers.new_database(postgres.url, name, template=TEMPLATE)
    yield url
    servers.drop_database(postgres.url, name)


@pytest.fixture
def redis_url(valkey: servers.RunningServer) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url
