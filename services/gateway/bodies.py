"""From a request to its checked body, and to what the job core wants to know of who sent it.

Knows no route and no SQL. What it refuses is a HeliuError with `param` such as `method.supervised.n_epochs`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict

from services.gateway.auth import Caller
from services.gateway.complaints import parse
from services.gateway.reading import read_capped, refuse_encoding
from services.gateway.strict_json import strict_json
from shared.contracts.json_size import MAX_VALUES
from shared.errors import HeliuError, InvalidInput
from shared.settings import Settings
from shared.telemetry import Span

SMALL = 16 * 1024

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Body(BaseModel):
    """A request body: unknown fields refused, nothing converted, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


@dataclass(frozen=True)
class Incoming(Generic[M]):
    """A checked body and what the job core wants to know of the request that brought it."""

    body: M
    digest: bytes
    idempotency_key: str | None
    retried: bool
    caller: Caller
    traceparent: str


def incoming(model: type[M]) -> Callable[[Request], Awaitable[Incoming[M]]]:
    """A dependency that reads, checks and parses the body as `model`."""

    async def read(request: Request) -> Incoming[M]:
        raw, parsed = await read_json(request)
        return described(request, await _off_the_loop(raw, parse, model, raw, parsed), parsed)

    return read


def described(request: Request, body: M, parsed: Mapping[str, Any]) -> Incoming[M]:
    """A checked body, and `parsed` as it came, with what the request says of itself."""
    caller: Caller = request.state.caller
    span: Span = request.state.span
    canonical = json.dumps(parsed, sort_keys=True, ensure_ascii=False)
    return Incoming(
        body=body,
        digest=hashlib.sha256(f"{request.url.path}\n{canonical}".encode()).digest(),
        idempotency_key=_idempotency_key(request),
        retried=_retry_count(request) >= 1,
        caller=caller,
        traceparent=span.traceparent,
    )


async def read_json(request: Request, most_values: int = MAX_VALUES) -> tuple[bytes, dict[str, Any]]:
    """(bytes, object) of a JSON body. Raises HeliuError for its type, size, encoding, syntax or depth."""
    refuse_encoding(request)
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise HeliuError(
            f"Content-Type {media!r} is not accepted here; send application/json",
            code="unsupported_media_type",
            param="Content-Type",
        )
    settings: Settings = request.app.state.gateway.settings
    raw = await read_capped(request, settings.max_body_bytes, settings.body_silence_seconds)
    parsed = await _off_the_loop(raw, strict_json, raw, most_values)
    if not isinstance(parsed, dict):
        raise InvalidInput(f"the body must be a JSON object, got {_name(parsed)}", param="body")
    return raw, parsed


async def read_as(
    request: Request, check: Callable[[dict[str, Any]], T], *, most_values: int = MAX_VALUES
) -> T:
    """A JSON body as `check` makes it from the parsed object; raises what `check` and `read_json` raise."""
    raw, parsed = await read_json(request, most_values)
    return await _off_the_loop(raw, check, parsed)


async def _off_the_loop(raw: bytes, work: Callable[..., T], *arguments: Any) -> T:
    """The result of `work`; for a large body in a thread, or it would hold up every stream that this loop serves."""
    return work(*arguments) if len(raw) < SMALL else await to_thread.run_sync(work, *arguments)


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            "Idempotency-Key must be 1 to 255 printable ASCII characters", param="Idempotency-Key"
        )
    return key


def _retry_count(request: Request) -> int:
    text = request.headers.get("x-stainless-retry-count", "0")
    return int(text) if text.isdecimal() and len(text) < 6 else 0
