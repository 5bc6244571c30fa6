"""Frames between a worker and its child: whole or not at all."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.frames import MAX_FRAME_BYTES, FrameError, FrameWriter, read_frames, write_frame

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES), max_size=5))
def test_what_is_written_is_read(frames: list[dict[str, object]]) -> None:
    stream = io.BytesIO()
    for frame in frames:
        write_frame(stream, frame)
    stream.seek(0)
    assert list(read_frames(stream)) == frames


@given(st.integers(min_value=0))
def test_a_stream_cut_anywhere_gives_the_whole_frames_before_the_cut(cut: int) -> None:
    stream = io.BytesIO()
    ends = []
    for number in range(3):
        write_frame(stream, {"n": number, "text": "合流"})
        ends.append(stream.tell())
    cut %= ends[-1] + 1
    found = list(read_frames(io.BytesIO(stream.getvalue()[:cut])))
    assert [frame["n"] for frame in found] == [n for n, end in enumerate(ends) if end <= cut]


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"3"])
def test_a_frame_that_is_no_object_is_an_error(body: bytes) -> None:
    with pytest.raises(FrameError, match="JSON object"):
        list(read_frames(io.BytesIO(struct.pack(">I", len(body)) + body)))


def test_a_body_that_is_no_json_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        list(read_frames(io.BytesIO(struct.pack(">I", 3) + b"{x}")))


def test_a_length_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        list(read_frames(io.BytesIO(struct.pack(">I", MAX_FRAME_BYTES + 1))))


def test_what_is_no_json_is_not_written_at_all() -> None:
    stream = io.BytesIO()
    with pytest.raises(ValueError):
        write_frame(stream, {"loss": float("nan")})
    assert stream.getvalue() == b""


def test_threads_that_share_a_writer_do_not_mix_their_frames() -> None:
    stream = io.BytesIO()
    writer = FrameWriter(stream)

    def many(mark: str) -> None:
        for _ in range(200):
            writer({"mark": mark * 50})

    threads = [threading.Thread(target=many, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.seek(0)
    frames = list(read_frames(stream))
    assert len(frames) == 800
    assert all(len(set(frame["mark"])) == 1 for frame in frames)


def test_a_print_of_a_library_cannot_tear_a_frame() -> None:
    code = (
        "from shared.frames import claim_stdout\n"
        "import os\n"
        "write = claim_stdout()\n"
        "print('loading...', flush=True)\n"
        "os.write(1, b'raw noise')\n"
        "write({'type': 'ready'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    stdout: BinaryIO = io.BytesIO(done.stdout)
    assert list(read_frames(stdout)) == [{"type": "ready"}]
    assert b"loading..." in done.stderr
    assert b"raw noise" in done.stderr
    assert json.loads(done.stdout[4:]) == {"type": "ready"}
