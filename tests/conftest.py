"""Fixtures that every kind of test shares: a migrated database and an empty Redis, on real servers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from shared.migrate import migrate
from tests import servers

# Tests are of the CPU, also where there is a GPU (`python -m tests.bench.gpu` checks that one): Triton's kernels run
# in its interpreter, which must be told before anything imports Triton.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRITON_INTERPRET"] = "1"

# A busy machine is no failure: no timing is asserted, by Hypothesis neither.
settings.register_profile("heliu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("heliu")

TEMPLATE = "heliu_template"


class Lots(LoadScopeScheduling):
    """Tests of one file share what they started, and so do all end-to-end tests: each lot runs in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "e2e" if file.startswith("tests/e2e/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lots:
    return Lots(config, log)


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
