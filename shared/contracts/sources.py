"""Sources that data is synced from: how each kind is reached, what its credentials are, and the jobs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, LiveCall, Message
from shared.errors import InvalidInput

HOSTS_SETTING = "HELIU_SOURCE_HOSTS"
FOLDERS_SETTING = "HELIU_SOURCE_FOLDERS"
MAX_SECRET = 8192

ColumnType = Literal["boolean", "integer", "number", "decimal", "text", "timestamp", "date", "json", "binary"]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]
Tls = Literal["verify", "require", "prefer", "off"]


class _Table(Message):
    """A table or view. Without `key` its primary key counts; without `cursor` each sync reads all of it.

    `overlap` is how far behind the last cursor a sync looks again, for transactions that end late: seconds of a
    time, units of a number.
    """

    table: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
    columns: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=2000)
    key: tuple[Name, ...] = Field(default=(), max_length=16)
    cursor: Name | None = None
    overlap: int = Field(default=300, ge=0, le=10**9)


class Sqlite(_Table):
    """A database file in a folder that the operator allows."""

    kind: Literal["sqlite"]
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]+$")]


class _Server(_Table):
    host: Host
    database: Name
    user: Name
    tls: Tls = "prefer"


class Postgres(_Server):
    """`table` may have a schema: `sales.orders`."""

    kind: Literal["postgres"]
    port: Port = 5432


class MySql(_Server):
    kind: Literal["mysql"]
    port: Port = 3306


class Files(Message):
    """A file, or the files of a folder that a pattern names: CSV, JSONL, Parquet, Excel, text, PDF, DOCX."""

    kind: Literal["files"]
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]+$")]
    pattern: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")] = "**/*"
    key: tuple[Name, ...] = Field(default=(), max_length=16)


class S3(Message):
    """Objects of a bucket below `prefix` whose keys fit `pattern`, of the kinds that `files` reads."""

    kind: Literal["s3"]
    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    prefix: Text = ""
    pattern: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")] = "**/*"
    region: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9-]+$")] = "us-east-1"
    endpoint: Annotated[str, Field(max_length=1024)] | None = None
    key: tuple[Name, ...] = Field(default=(), max_length=16)


class Paging(Message):
    """How the next page is found.

    `link` takes it from the Link header, or from `next` in the answer; `cursor` sends what `next` holds as `param`;
    `offset` counts rows and `page` counts pages in `param`, up to a page without rows.
    """

    by: Literal["none", "link", "cursor", "offset", "page"] = "none"
    next: Text | None = None
    param: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    size_param: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    size: int = Field(default=100, ge=1, le=100_000)
    first: int = Field(default=1, ge=0, le=1)


class Api(Message):
    """JSON over HTTP. `records` is the dotted path to the list, empty where the answer is the list itself.

    With `since` and `cursor` a sync asks for what changed only: the highest value of `cursor` goes out as `since`.
    """

    kind: Literal["http"]
    url: Annotated[str, Field(min_length=1, max_length=2048)]
    records: Text = ""
    key: tuple[Name, ...] = Field(min_length=1, max_length=16)
    cursor: Name | None = None
    since: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    overlap: int = Field(default=300, ge=0, le=10**9)
    headers: dict[str, str] = Field(default={}, max_length=32)
    paging: Paging = Paging()


Connection = Annotated[Sqlite | Postgres | MySql | Files | S3 | Api, Field(discriminator="kind")]


class Options(Message):
    """What a sync does about change.

    `added`, `changed` and `removed` are about columns: a column with another type sends the rows that do not fit its
    old one to quarantine; a removed column keeps the values that are known. `deletes_every_s` is how often rows that
    are gone are looked for by their keys: 0 each time, null never. `types` fixes the types of columns.
    """

    added: Literal["evolve", "ignore", "fail"] = "evolve"
    changed: Literal["quarantine", "fail"] = "quarantine"
    removed: Literal["keep", "drop", "fail"] = "keep"
    deletes_every_s: Annotated[int, Field(ge=0, le=10**9)] | None = 0
    types: dict[Name, ColumnType] = Field(default={}, max_length=2000)


class BuildAfter(Message):
    """The dataset that a version of the new state is built for, with a recipe or the one inferred."""

    dataset: str = Field(
        min_length=1, max_length=128, pattern=r"^[^\s/\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^\s/\x00-\x1f\x7f])?$"
    )
    recipe: dict[str, Any] | None = None


class SyncSource(JobContract):
    """One pull of what changed; `full` reads everything. The result names the file that is the source's state."""

    kind: ClassVar[str] = "data.sync"
    queue: ClassVar[str] = "data.sync"
    id_prefix: ClassVar[str] = "sync-"
    max_attempts: ClassVar[int] = 5
    stall_limit_s: ClassVar[float | None] = 600.0

    source_id: str
    source: str
    full: bool = False
    scheduled: bool = False
    build: BuildAfter | None = None


class TestSource(LiveCall):
    """Connects and looks, and writes nothing. `sealed` are the credentials as they are stored."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "data.test_source"
    queue: ClassVar[str] = "data.live"

    source_id: str
    connection: Connection
    sealed: str | None = None


class ReadRows(LiveCall):
    """Some rows of a stored Parquet file: `{"rows": [...], "total": n}`."""

    name: ClassVar[str] = "data.read_rows"
    queue: ClassVar[str] = "data.live"

    artifact: str
    offset: int = Field(0, ge=0)
    limit: int = Field(20, ge=1, le=500)


def secret_name(source_id: str) -> str:
    """What the credentials of a source are sealed for."""
    return f"source {source_id}"


CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "sqlite": (),
    "files": (),
    "postgres": ("password",),
    "mysql": ("password",),
    "http": ("bearer", "username", "password", "headers"),
    "s3": ("access_key_id", "secret_access_key", "session_token"),
}


def check_credentials(kind: str, value: Any) -> str | None:
    """The credentials as canonical JSON; None for none. Raises InvalidInput, and tells names but never a value."""
    if value is None or value == {}:
        return None
    allowed = CREDENTIALS[kind]
    if not isinstance(value, dict):
        raise InvalidInput("credentials must be an object", param="credentials")
    for name, secret in value.items():
        where = f"credentials.{name[:40]}" if name in allowed else "credentials"
        if name not in allowed:
            what = f"; it takes {', '.join(allowed)}" if allowed else ""
            raise InvalidInput(
                f"a source of the kind {kind!r} has no credential {name[:40]!r}{what}", param=where
            )
        if name == "headers":
            _check_headers(secret)
        elif not _is_secret(secret):
            raise InvalidInput(
                f"{where} must be 1 to {MAX_SECRET} characters without line ends or control characters",
                param=where,
            )
    if kind == "s3" and not {"access_key_id", "secret_access_key"} <= value.keys():
        raise InvalidInput(
            "S3 takes access_key_id and secret_access_key, or no credentials at all for a public bucket",
            param="credentials",
        )
    if kind == "http" and ("username" in value) != ("password" in value):
        raise InvalidInput("username and password go together", param="credentials")
    return json.dumps(value, sort_keys=True)


def _check_headers(value: Any) -> None:
    where = "credentials.headers"
    if not isinstance(value, dict) or len(value) > 16:
        raise InvalidInput(f"{where} must be an object of at most 16 headers", param=where)
    for name, secret in value.items():
        if not check_header(name) or not _is_secret(secret) or not secret.isascii():
            raise InvalidInput(
                f"{where} takes names of HTTP headers with values of printable ASCII", param=where
            )


def check_header(name: str) -> bool:
    """A token of RFC 9110 that no framing depends on."""
    plain = name.replace("-", "").replace("_", "")
    framing = {"host", "content-length", "connection", "transfer-encoding", "te", "upgrade"}
    return plain.isascii() and plain.isalnum() and len(name) <= 64 and name.lower() not in framing


def _is_secret(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_SECRET and value.isprintable()


def redacted(text: str, credentials: Mapping[str, Any]) -> str:
    """A text, such as a driver's error, in which no credential stands."""
    values = [v for v in credentials.values() if isinstance(v, str)]
    values += list(credentials.get("headers", {}).values())
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "[redacted]")
    return text
