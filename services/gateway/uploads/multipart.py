"""A multipart upload straight into the artifact store: never whole in memory, never twice on the disk."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.gateway.reading import chunks, drain, refuse_encoding
from shared.artifacts import Artifacts
from shared.errors import HeliuError, InvalidInput, Unavailable

MAX_FIELDS = 32
MAX_FIELD_BYTES = 64 * 1024
OVERHEAD = 1024 * 1024


class UploadSlots:
    """Threads that store uploads, `total` of them. A tenant gets `each` at most and its others wait, so that slow
    uploads keep neither other requests nor other tenants from theirs."""

    def __init__(self, total: int, each: int) -> None:
        self.all = CapacityLimiter(total)
        self._each = each
        self._tenants: dict[UUID, CapacityLimiter] = {}

    def of(self, tenant: UUID) -> CapacityLimiter:
        """The tenant's share."""
        return self._tenants.setdefault(tenant, CapacityLimiter(self._each))


@dataclass
class Upload:
    """What came in: the object in the store, the name that its owner gave it, and the other fields."""

    artifact: str
    size: int
    filename: str
    fields: dict[str, str]


@dataclass
class _Part:
    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)


class _Parser:
    """Feeds chunks to the multipart parser; gives the bytes of the part `file` as a readable source."""

    def __init__(self, boundary: bytes, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self.fields: dict[str, str] = {}
        self.file: _Part | None = None
        self.file_ended = False
        self.ended = False
        self._part: _Part | None = None
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""

    def read(self, _: int = -1, /) -> bytes:
        """The next bytes of the file; empty at its end."""
        assert self.file is not None
        while not self.file.data and not self.file_ended:
            self.feed()
        out = bytes(self.file.data)
        self.file.data.clear()
        return out

    def feed(self) -> None:
        """Take one chunk from the event loop. Raises InvalidInput where the body ends too early."""
        chunk = from_thread.run(self._next)
        if chunk is None:
            raise InvalidInput("the multipart body ends before its closing boundary", param="body")
        try:
            self._parser.write(chunk)
        except MultipartParseError as exc:
            raise InvalidInput(f"the body is not valid multipart: {exc}", param="body") from exc

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)

    def _begin(self) -> None:
        self._headers, self._field, self._value = {}, b"", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            # RFC 7578 took it out of forms; to store the encoded bytes as they are would spoil the file unseen.
            raise InvalidInput(
                "Content-Transfer-Encoding is not accepted; send the bytes of the file as they are",
                param="body",
            )
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = _text(options.get(b"name", b""), "the name of a part")
        if not name:
            raise InvalidInput("a part of the body has no name", param="body")
        filename = _text(options[b"filename"], "the file name") if b"filename" in options else None
        self._part = _Part(name, filename)
        if name == "file":
            if self.file is not None:
                raise InvalidInput(
                    "the body holds more than one `file`; upload them one by one", param="file"
                )
            if filename is None:
                raise InvalidInput("`file` must be a file, with a file name", param="file")
            self.file = self._part
        elif filename is not None:
            raise InvalidInput(f"unknown file field {name[:80]!r}; the file goes in `file`", param=name[:80])
        elif name in self.fields:
            raise InvalidInput(f"{name[:80]!r} is given twice", param=name[:80])
        elif len(self.fields) >= MAX_FIELDS:
            raise InvalidInput(f"the body has more than {MAX_FIELDS} fields", param="body")

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        self._part.data += data[start:end]
        if self._part is not self.file and len(self._part.data) > MAX_FIELD_BYTES:
            raise InvalidInput(
                f"{self._part.name[:80]!r} is longer than {MAX_FIELD_BYTES} bytes", param=self._part.name[:80]
            )

    def _end_part(self) -> None:
        assert self._part is not None
        if self._part is self.file:
            self.file_ended = True
        else:
            self.fields[self._part.name] = _text(bytes(self._part.data), self._part.name[:80])

    def _end(self) -> None:
        self.ended = True


async def receive(
    request: Request,
    store: Artifacts,
    *,
    max_bytes: int,
    silence_s: float,
    slots: UploadSlots,
    tenant: UUID,
) -> Upload:
    """Store the part `file`. Raises InvalidInput, `file_too_large`, `request_timeout` for an upload that stops
    coming, or Unavailable for a full disk."""
    refuse_encoding(request)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise HeliuError(
            "send multipart/form-data with the fields `file` and `purpose`",
            code="unsupported_media_type",
            param="Content-Type",
        )
    stream = chunks(request, silence_s)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > max_bytes + OVERHEAD:
        await drain(stream)
        raise _too_large(max_bytes)
    parser = _Parser(boundary, _capped(stream, max_bytes + OVERHEAD))
    try:
        async with slots.of(tenant):
            return await to_thread.run_sync(_store, parser, store, max_bytes, limiter=slots.all)
    except HeliuError as exc:
        if exc.code == "file_too_large":
            await drain(stream)
            exc.param = "file"
        raise


async def _capped(stream: AsyncIterator[bytes], cap: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > cap:
            raise _too_large(cap)
        if chunk:
            yield chunk


def _store(parser: _Parser, store: Artifacts, max_bytes: int) -> Upload:
    while parser.file is None and not parser.ended:
        parser.feed()
    if parser.file is None:
        raise InvalidInput(
            "missing required parameter 'file'", code="missing_required_parameter", param="file"
        )
    filename = _checked_name(parser.file.filename or "")
    try:
        artifact, size = store.put(parser, max_bytes=max_bytes)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("the disk of the artifact store is full", code="storage_full") from exc
        raise
    while not parser.ended:
        parser.feed()
    if size == 0:
        raise InvalidInput("the file is empty", param="file")
    return Upload(artifact, size, filename, parser.fields)


def _checked_name(name: str) -> str:
    """The owner's name for the file is only ever shown, so any will do that can be."""
    if not 1 <= len(name) <= 255 or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise InvalidInput(
            "the file name must have 1 to 255 characters and no control characters", param="file"
        )
    return name


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{what} is not UTF-8", code="invalid_encoding", param="body") from exc
    if "\x00" in text:
        raise InvalidInput(f"{what} holds a NUL character", param="body")
    return text


def _too_large(max_bytes: int) -> HeliuError:
    return HeliuError(
        f"the upload is over the limit of {max_bytes} bytes", code="file_too_large", param="file"
    )
