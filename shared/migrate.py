"""Applies the numbered migrations, once each, under a lock. `python -m shared.migrate` runs it."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.resources import files

import psycopg
from psycopg import sql

from shared.errors import ConfigurationError, HeliuError
from shared.settings import read_settings

LOCK = 0x68656C6975  # "heliu"

# From Postgres 16 on, who makes a role is its member without the right to become it, and has to grant that to itself.
ROLES = """
DO $$
DECLARE
    r text;
    needed text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH r IN ARRAY ARRAY['heliu_owner', 'heliu_app', 'heliu_core'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', r);
        END IF;
        IF NOT pg_has_role(current_user, r, needed) THEN
            EXECUTE format('GRANT %I TO %I', r, current_user);
        END IF;
    END LOOP;
    EXECUTE format('GRANT CREATE ON DATABASE %I TO heliu_owner', current_database());
END $$
"""

LEDGER = """
CREATE SCHEMA IF NOT EXISTS heliu_migrations;
CREATE TABLE IF NOT EXISTS heliu_migrations.applied (
    name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
"""


def migrations() -> list[tuple[str, str]]:
    """(name, SQL) of every migration, in order."""
    folder = files("shared.sql") / "migrations"
    return sorted(
        (entry.name, entry.read_text()) for entry in folder.iterdir() if entry.name.endswith(".sql")
    )


def pending(url: str) -> list[str]:
    """Names of migrations that `url` has not had yet."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT to_regclass('heliu_migrations.applied')").fetchone()
        if found is None or found[0] is None:
            return [name for name, _ in migrations()]
        done = {row[0] for row in connection.execute("SELECT name FROM heliu_migrations.applied")}
    return [name for name, _ in migrations() if name not in done]


def migrate(url: str) -> list[str]:
    """Apply what is missing, each migration in its own transaction; returns the names applied.

    Raises ConfigurationError when an applied migration's text has changed since.
    """
    applied: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '5s'; SET statement_timeout = '60s'")
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        connection.execute(ROLES)
        connection.execute(LEDGER)
        rows = connection.execute("SELECT name, sha256 FROM heliu_migrations.applied").fetchall()
        done: dict[str, str] = dict(rows)
        for name, text in migrations():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if name in done:
                if done[name] != digest:
                    raise ConfigurationError(f"migration {name} was changed after it was applied here")
                continue
            with connection.transaction():
                connection.execute("SET LOCAL ROLE heliu_owner")
                connection.execute(sql.SQL(text))
                connection.execute("RESET ROLE")
                connection.execute(
                    "INSERT INTO heliu_migrations.applied (name, sha256) VALUES (%s, %s)", (name, digest)
                )
            applied.append(name)
    return applied


def main() -> int:
    try:
        settings = read_settings(os.environ)
        settings.require("database_url")
        for name in migrate(settings.database_url):
            sys.stderr.write(f"applied {name}\n")
    except (HeliuError, psycopg.Error) as exc:
        sys.stderr.write(f"migration failed: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
