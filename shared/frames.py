"""Length-prefixed JSON frames between a worker and its child process. Standard library only.

A frame is four bytes of big-endian length and that many bytes of UTF-8 JSON (one object). The child calls
`claim_stdout` first, so that a library's stray print lands on stderr and can never tear a frame.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

MAX_FRAME_BYTES = 64 * 1024 * 1024

Frame = dict[str, Any]


class FrameError(Exception):
    """The byte stream is not a sequence of frames."""


def write_frame(stream: BinaryIO, frame: Frame) -> None:
    """Write one frame and flush. Raises BrokenPipeError when the peer is gone."""
    body = json.dumps(frame, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def read_frames(stream: BinaryIO) -> Iterator[Frame]:
    """Yield frames until the peer closes; a stream cut inside a frame ends quietly (the peer was killed)."""
    while True:
        header = stream.read(4)
        if len(header) < 4:
            return
        (length,) = struct.unpack(">I", header)
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"a frame announces {length} bytes, over the limit of {MAX_FRAME_BYTES}")
        body = stream.read(length)
        if len(body) < length:
            return
        frame = json.loads(body)
        if not isinstance(frame, dict):
            raise FrameError(f"a frame must be a JSON object, got {type(frame).__name__}")
        yield frame


class FrameWriter:
    """Writes frames from several threads of one process."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, frame: Frame) -> None:
        with self._lock:
            write_frame(self._stream, frame)


def claim_stdout() -> FrameWriter:
    """Take file descriptor 1 for frames and point stdout at stderr from here on."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return FrameWriter(os.fdopen(descriptor, "wb"))


def end_with_worker() -> None:
    """Have this process end when its stdin closes, whatever it is at: its worker has gone. For a child that was asked
    all it is asked."""

    def watch() -> None:
        while os.read(0, 4096):
            continue
        os._exit(0)

    threading.Thread(target=watch, name="stdin", daemon=True).start()
