"""Migrations on a server of one's own, whose owner is no superuser."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from shared.db import Database
from shared.migrate import migrate, pending
from tests import servers


@pytest.mark.parametrize("self_grant", ["", "set, inherit"])
def test_a_role_that_may_create_roles_is_enough(self_grant: str) -> None:
    with servers.postgres_server() as running:
        with psycopg.connect(running.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE plain LOGIN CREATEROLE PASSWORD 'pw'")
            connection.execute("CREATE DATABASE own OWNER plain")
            connection.execute(f"ALTER ROLE plain SET createrole_self_grant = '{self_grant}'")
        url = make_conninfo(running.url, user="plain", password="pw", dbname="own")
        assert migrate(url)
        assert migrate(url) == pending(url) == []
        db = Database(url, application="test", max_size=1)
        try:
            with db.core() as connection:
                row = connection.execute("SELECT current_user AS me, session_user AS who").fetchone()
        finally:
            db.close()
        assert row == {"me": "heliu_core", "who": "plain"}
