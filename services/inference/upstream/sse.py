"""Server-sent events from the bytes of an answer (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.inference.upstream.refusals import malformed

MAX_LINE = 8 * 1024 * 1024


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of each event; comments and other fields are passed over. Raises HeliuError for what is no text, or
    a line without an end."""
    data: list[str] = []
    async for line in _lines(pieces):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            try:
                data.append(line[5:].decode().removeprefix(" "))
            except UnicodeDecodeError as exc:
                raise malformed("an event that is not UTF-8") from exc
    # An event that nothing ends is none; but some servers end their last one with the connection.
    if data == ["[DONE]"]:
        yield data[0]


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines without their ends (LF, CR LF or CR); the last one where the stream ends too."""
    held = b""
    async for piece in pieces:
        held += piece
        # A CR at the end may be the first half of an end.
        whole = held[:-1] if held.endswith(b"\r") else held
        *lines, rest = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        held = rest + held[len(whole) :]
        for line in lines:
            yield line
        if len(held) > MAX_LINE:
            raise malformed(f"a line of more than {MAX_LINE} bytes")
    if held:
        yield held.rstrip(b"\r")
