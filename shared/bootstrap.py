"""First things of an installation: the pepper, the default tenant, and its two keys. Safe to run again.

`python -m shared.bootstrap` writes `HELIU_HOME/keys/operator.json` and `keys/default.json`, each
`{"name", "tenant", "role", "key", "id"}` with permissions 0600, where they are not there or no longer valid.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from shared import keys
from shared.db import Connection, Database
from shared.errors import HeliuError
from shared.jobs import new_id
from shared.sealing import Sealer
from shared.settings import Settings, read_settings

TENANT = """
INSERT INTO core.tenant (name) VALUES (%s) ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name RETURNING id"""

KEY = "INSERT INTO core.api_key (id, tenant_id, name, prefix, digest, role) VALUES (%s, %s, %s, %s, %s, %s)"

VALID = "SELECT id FROM core.api_key WHERE digest = %s AND revoked_at IS NULL"


def pepper_of(settings: Settings) -> str:
    """The pepper that keys are hashed with: the setting, or a file in HELIU_HOME made at first use."""
    if settings.key_pepper:
        return settings.key_pepper
    path = settings.home / "keys" / "pepper"
    if not path.exists():
        _write_private(path, secrets.token_hex(32))
    return path.read_text().strip()


def sealer_of(settings: Settings) -> Sealer:
    """What seals credentials: under the setting's secrets, or under those of a file in HELIU_HOME made at first use.

    The file has one secret a line, the newest first.
    """
    if settings.secret_keys:
        return Sealer(settings.secret_keys)
    path = settings.home / "keys" / "secrets"
    if not path.exists():
        _write_private(path, secrets.token_hex(32) + "\n", keep=True)
    return Sealer(path.read_text().split())


def create_tenant(connection: Connection, name: str) -> UUID:
    """The tenant's id; made when it is not there."""
    row = connection.execute(TENANT, (name,)).fetchone()
    assert row is not None
    return UUID(str(row["id"]))


def create_key(connection: Connection, tenant: UUID, name: str, role: str, pepper: str) -> tuple[str, str]:
    """(id, key): the only time that the key itself is seen."""
    key, key_id = keys.new_key(), new_id("key_")
    connection.execute(KEY, (key_id, tenant, name, key[: keys.SHOWN], keys.digest(key, pepper), role))
    return key_id, key


def bootstrap(settings: Settings) -> list[Path]:
    """Make what is missing; returns the key files."""
    db = Database(settings.database_url, application="heliu-bootstrap", max_size=1)
    try:
        pepper = pepper_of(settings)
        sealer_of(settings)
        with db.core() as connection:
            tenant = create_tenant(connection, "default")
            return [
                _ensure_key(connection, settings.home / "keys" / f"{name}.json", tenant, name, role, pepper)
                for name, role in (("operator", "operator"), ("default", "tenant"))
            ]
    finally:
        db.close()


def _ensure_key(connection: Connection, path: Path, tenant: UUID, name: str, role: str, pepper: str) -> Path:
    if path.exists():
        held: dict[str, Any] = json.loads(path.read_text())
        if connection.execute(VALID, (keys.digest(held["key"], pepper),)).fetchone() is not None:
            return path
    key_id, key = create_key(connection, tenant, name, role, pepper)
    entry = {"id": key_id, "name": name, "tenant": "default", "role": role, "key": key}
    _write_private(path, json.dumps(entry, indent=2) + "\n")
    return path


def _write_private(path: Path, text: str, *, keep: bool = False) -> None:
    """`keep` leaves what another process has put there meanwhile."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as target:
        target.write(text)
    if not keep:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def main() -> int:
    try:
        settings = read_settings(os.environ)
        settings.require("database_url")
        for path in bootstrap(settings):
            sys.stderr.write(f"key in {path}\n")
    except HeliuError as exc:
        sys.stderr.write(f"bootstrap failed: {exc.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
