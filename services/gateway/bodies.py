"""From bytes to a checked request body: caps before parsing, strict JSON, and errors that name the place.

Knows no route and no SQL. What it refuses is a HeliuError with `param` such as `method.supervised.n_epochs`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from anyio import fail_after, move_on_after, to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from services.gateway.auth import Caller
from shared.contracts.json_size import MAX_VALUES, too_many_values
from shared.errors import HeliuError, InvalidInput
from shared.settings import Settings
from shared.telemetry import Span

MAX_DEPTH = 64
DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_S = 5.0
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


def refuse_encoding(request: Request) -> None:
    """Raise HeliuError for a body that is compressed: a few bytes of it may stand for gigabytes."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise HeliuError(
            f"Content-Encoding {short(encoding)} is not accepted; send the body as it is",
            code="unsupported_media_type",
            param="Content-Encoding",
        )


async def chunks(request: Request, silence_s: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises HeliuError `request_timeout` after `silence_s` without a byte of it."""
    stream = request.stream()
    while True:
        try:
            with fail_after(silence_s):
                chunk = await anext(stream, None)
        except TimeoutError as exc:
            raise HeliuError(
                f"nothing more of the body came for {silence_s:g} s; send it again",
                code="request_timeout",
                param="body",
            ) from exc
        if chunk is None:
            return
        yield chunk


async def read_capped(request: Request, cap: int, silence_s: float) -> bytes:
    """The body; raises HeliuError `body_too_large` past `cap` bytes, without holding more than that."""
    parts, size = [], 0
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and len(declared) < 20 and int(declared) > cap
    stream = chunks(request, silence_s)
    if not too_large:
        async for chunk in stream:
            size += len(chunk)
            if size > cap:
                too_large = True
                break
            parts.append(chunk)
    if too_large:
        await drain(stream)
        raise HeliuError(f"the body is over the limit of {cap} bytes", code="body_too_large", param="body")
    return b"".join(parts)


async def drain(stream: AsyncIterator[bytes]) -> None:
    """Read on for a while and forget it: a client that is still sending would never see the answer."""
    read = 0
    with move_on_after(DRAIN_S):
        async for chunk in stream:
            read += len(chunk)
            if read > DRAIN_BYTES:
                return


def strict_json(raw: bytes, most_values: int = MAX_VALUES) -> Any:
    """Parse UTF-8 JSON without NaN, infinities, repeated keys, NUL characters, deep nesting or too many values."""
    if too_many_values(raw, most_values):
        raise InvalidInput(f"the body holds more than {most_values} values", param="body")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidInput(
            f"the body is not UTF-8: byte {exc.start} is 0x{raw[exc.start]:02x}",
            code="invalid_encoding",
            param="body",
        ) from exc
    if not text.strip():
        raise InvalidInput("the body is empty; send a JSON object", param="body")
    try:
        parsed = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError as exc:
        raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels", param="body") from exc
    except json.JSONDecodeError as exc:
        raise InvalidInput(
            f"the body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}",
            code="invalid_json",
            param="body",
        ) from exc
    except ValueError as exc:
        # A whole number of more digits than Python converts.
        raise InvalidInput(f"the body holds a number that is too long: {exc}", param="body") from exc
    _check_values(parsed)
    return parsed


def _refuse_constant(name: str) -> Any:
    raise InvalidInput(f"{name} is not a JSON value", code="invalid_json", param="body")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidInput(f"the number {text[:40]} is too large", code="invalid_json", param="body")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidInput(
                f"the key {key[:80]!r} stands twice in one object", code="invalid_json", param=key[:80]
            )
        found[key] = value
    return found


def _check_values(parsed: Any) -> None:
    """Refuse what Postgres cannot hold (NUL, lone surrogates), and nesting beyond MAX_DEPTH."""
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(parsed, ())]
    while stack:
        value, place = stack.pop()
        if len(place) > MAX_DEPTH:
            raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels", param=dotted(place[:4]))
        if isinstance(value, str):
            _check_text(value, place)
        elif isinstance(value, dict):
            for key, inner in value.items():
                _check_text(key, place)
                stack.append((inner, (*place, key)))
        elif isinstance(value, list):
            stack.extend((inner, (*place, index)) for index, inner in enumerate(value))


def _check_text(text: str, place: tuple[str | int, ...]) -> None:
    if "\x00" in text:
        raise InvalidInput("a string holds a NUL character", param=dotted(place) or "body")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidInput("a string holds half of a surrogate pair", param=dotted(place) or "body") from exc


def parse(model: type[M], raw: bytes, parsed: Mapping[str, Any]) -> M:
    """The body as `model`; raises InvalidInput naming the first place at fault."""
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as exc:
        raise translate(exc, parsed, model) from exc


def translate(exc: ValidationError, parsed: Any, model: type[BaseModel]) -> InvalidInput:
    """pydantic's first complaint in one sentence, with the place as the caller wrote it."""
    errors = exc.errors(include_url=False)
    # In a union the branch that went deepest is the one that was meant.
    first = max(errors, key=lambda e: (len(_place(e, parsed)), e["type"] != "literal_error"))
    param = dotted(_place(first, parsed))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), _names(model), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return InvalidInput(f"unknown parameter {param!r}{hint}", code="unknown_parameter", param=param)
    if first["type"].startswith("union_tag"):
        tag = first["ctx"]["discriminator"].strip("'")
        param = ".".join(filter(None, (param, tag)))
        kinds = first["ctx"].get("expected_tags") or ", ".join(repr(one) for one in _tags(model))
        if tag not in (first["input"] if isinstance(first["input"], dict) else {}):
            return InvalidInput(
                f"missing required parameter {param!r}; it is one of {kinds}",
                code="missing_required_parameter",
                param=param,
            )
        return InvalidInput(f"{param} is {short(first['input'][tag])}; it is one of {kinds}", param=param)
    if first["type"] == "missing":
        return InvalidInput(
            f"missing required parameter {param!r}", code="missing_required_parameter", param=param
        )
    message = first["msg"].removeprefix("Value error, ")
    return InvalidInput(f"{param or 'body'}: {message}, got {short(first['input'])}", param=param or "body")


def _place(error: ErrorDetails, parsed: Any) -> tuple[str | int, ...]:
    """The parts of pydantic's location that stand in the body: it names the branches of unions too.

    A branch may be named like a field beside it, so the longest way through the body is taken.
    """
    parts, missing = error["loc"], error["type"] == "missing"
    ways: dict[tuple[int, int], tuple[str | int, ...]] = {}

    def way(index: int, value: Any) -> tuple[str | int, ...]:
        if index == len(parts):
            return ()
        key = (index, id(value))
        if key not in ways:
            without, part = way(index + 1, value), parts[index]
            if isinstance(value, dict) and isinstance(part, str):
                stands = part in value or (missing and index == len(parts) - 1)
                inner = value.get(part)
            else:
                stands = isinstance(value, list) and isinstance(part, int) and part < len(value)
                inner = value[part] if stands else None
            within = (part, *way(index + 1, inner)) if stands else ()
            ways[key] = within if stands and len(within) >= len(without) else without
        return ways[key]

    return way(0, parsed)


def dotted(place: tuple[str | int, ...]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if text else part[:80]
    return text


def _tags(model: type[BaseModel]) -> list[str]:
    """What the union that a body of this model is goes by."""
    return list(model.model_json_schema().get("discriminator", {}).get("mapping", {}))


@cache
def _names(model: type[BaseModel]) -> list[str]:
    """Every field name that a body of this model may hold at any depth."""
    schema = model.model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for one in objects for name in one.get("properties", {})})


def short(value: Any) -> str:
    """A value for an error message, of 80 characters at most."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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
