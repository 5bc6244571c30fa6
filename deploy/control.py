"""How a client talks to the supervisor: one JSON line each way over a private socket. Knows no processes."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from shared.errors import HeliuError, Unavailable

LIMIT = 1 << 20  # bytes of one line
PATIENCE = 5.0  # seconds


class Refused(HeliuError):
    """The supervisor refuses the request, with its reason."""

    code = "invalid_value"


def listen(path: Path) -> socket.socket:
    """A listening socket at `path` that this user alone may open."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(before)
    server.listen(16)
    server.setblocking(False)
    return server


def receive(connection: socket.socket) -> dict[str, Any]:
    """One JSON object; raises ValueError for anything else and OSError for a peer that is slow or gone."""
    connection.settimeout(PATIENCE)
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(65536)
        if not part or len(line) > LIMIT:
            raise ValueError("not one line of JSON")
        line += part
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def answer(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request. Raises Unavailable when nobody answers, Refused when the answer is no."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(path))
            answer(connection, request)
            reply = receive(connection)
    except (OSError, ValueError) as exc:
        raise Unavailable(f"the supervisor does not answer at {path}: {exc}") from exc
    if "error" in reply:
        raise Refused(str(reply["error"]), param=reply.get("param"))
    return reply
