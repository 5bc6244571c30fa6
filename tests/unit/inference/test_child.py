"""The child process answers frames with frames, survives nonsense, and ends when it should."""

from __future__ import annotations

import base64
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from services.inference.child import Child, read_into
from services.inference.engine.engine import Engine
from services.inference.engine.events import TokenDelta
from services.inference.engine.request import EngineConfig, Priority
from services.inference.wire import OPERATION, Generate, parse, to_request
from shared.errors import InvalidInput
from shared.frames import Frame, read_frames, write_frame
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_models import save_model

ROOT = Path(__file__).resolve().parents[3]


class Process:
    """The real child, and its frames in the order they come."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "services.inference.child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.stdin = self.popen.stdin
        self.frames = read_frames(self.popen.stdout)

    def send(self, **frame: Any) -> None:
        write_frame(self.stdin, frame)

    def send_bytes(self, body: bytes) -> None:
        self.stdin.write(struct.pack(">I", len(body)) + body)
        self.stdin.flush()

    def until(self, kind: str, request_id: str | None = None) -> list[Frame]:
        seen = []
        for frame in self.frames:
            seen.append(frame)
            if frame["type"] == kind and (request_id is None or frame.get("id") == request_id):
                return seen
        raise AssertionError(f"the child ended before {kind}: {seen}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"id": "base", "path": str(save_model(tmp_path_factory.mktemp("child")))}


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    process = Process()
    process.send(op="configure", max_slots=0, kv_tokens=512)
    process.send(op="configure", max_slots=4, kv_tokens=512, threads=1, max_models=1)
    assert [frame.get("param") for frame in process.until("ready")] == ["max_slots", None]
    yield process
    process.popen.kill()
    process.popen.wait()


def generate(base: dict[str, str], name: str, **options: Any) -> Frame:
    options.setdefault("messages", [{"role": "user", "content": "您好"}])
    sampling = options.pop("sampling", {"max_tokens": 8, "temperature": 0.0})
    return {"op": "generate", "id": name, "tenant": "t", "base": base, "sampling": sampling, **options}


def test_a_live_chat_streams_and_ends_with_the_whole_text(process: Process, base: dict[str, str]) -> None:
    process.send(**generate(base, "chat"))
    seen = process.until("done", "chat")
    done = seen[-1]
    pieces = [frame for frame in seen if frame["type"] == "token"]
    assert "".join(piece["text"] for piece in pieces) == done["text"]
    assert done["usage"]["completion_tokens"] == 8
    assert done["finish_reason"] == "length"
    assert set(done["timings"]) == {"queue_s", "prefill_s", "decode_s", "first_token_s"}
    assert [span["name"] for span in done["spans"]] == ["engine.queue", "engine.prefill", "engine.decode"]
    assert [frame["base_id"] for frame in seen if frame["type"] == "loaded"] == ["base"]


def test_a_batch_row_gives_only_its_end(process: Process, base: dict[str, str]) -> None:
    process.send(**generate(base, "row", priority="batch"))
    assert [frame["type"] for frame in process.until("done", "row") if frame.get("id") == "row"] == ["done"]


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ({"op": "dance"}, "op"),
        ({"op": "generate", "id": "x"}, "base"),
        ({"op": "generate", "id": "x", "base": {"id": "b", "path": "/b"}, "colour": 1}, "colour"),
        ({"op": "generate", "id": "x", "base": {"id": "b", "path": "/b"}}, "messages"),
        ({"op": "unload"}, "base_id"),
        ({"op": "unload", "base_id": "unknown"}, "base_id"),
    ],
)
def test_a_wrong_frame_is_answered_with_the_field_at_fault(
    process: Process, frame: Frame, param: str
) -> None:
    process.send(**frame)
    answer = process.until("error")[-1]
    assert answer["param"] == param
    assert answer["id"] == frame.get("id")


@pytest.mark.parametrize(
    "body", [b"nonsense", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"op": "generate", "id": "\\ud800"}']
)
def test_bytes_that_are_no_message_are_answered(process: Process, base: dict[str, str], body: bytes) -> None:
    process.send_bytes(body)
    process.until("error")
    process.send(op="stats")
    assert process.until("stats")[-1]["requests"] == 0


def test_cancel_ends_a_request_with_what_it_has(process: Process, base: dict[str, str]) -> None:
    process.send(**generate(base, "long", sampling={"max_tokens": 200, "temperature": 0.0}))
    process.until("token", "long")
    process.send(op="cancel", id="long")
    assert process.until("done", "long")[-1]["finish_reason"] in {"cancelled", "stop", "length"}


def test_sigterm_is_the_workers_to_decide_and_drain_ends_the_process(base: dict[str, str]) -> None:
    process = Process()
    process.send(op="configure", max_slots=4, kv_tokens=512, threads=1)
    process.until("ready")
    process.popen.send_signal(signal.SIGTERM)
    process.send(**generate(base, "last"))
    process.send(op="drain")
    process.send(**generate(base, "late"))
    assert process.until("error", "late")[-1]["code"] == "draining"
    process.until("done", "last")
    assert process.popen.wait(30) == 0


def test_it_ends_at_once_when_stdin_closes(base: dict[str, str]) -> None:
    process = Process()
    process.send(op="configure", max_slots=4, kv_tokens=512, threads=1)
    process.until("ready")
    process.send(**generate(base, "long", sampling={"max_tokens": 200, "temperature": 0.0}))
    process.stdin.close()
    assert process.popen.wait(30) == 0


def test_text_is_merged_over_a_window_but_the_first_leaves_at_once() -> None:
    sent: list[Frame] = []
    engine = Engine(EngineConfig())
    now = [50.0]
    child = Child(engine, sent.append, lambda: now[0])
    for number, text in enumerate("abcd"):
        child._take(TokenDelta("r", text, 1, number))
        child.turn()
        now[0] += 0.008
    assert [(frame["text"], frame["tokens"], frame["index"]) for frame in sent] == [
        ("a", 1, 0),
        ("bcd", 3, 1),
    ]
    engine.close()


def test_text_that_another_attempt_must_tell_alike_is_never_merged() -> None:
    sent: list[Frame] = []
    engine = Engine(EngineConfig())
    child = Child(engine, sent.append, lambda: 50.0)
    child.handle(generate({"id": "b", "path": "/b"}, "r", token_by_token=True))
    for number, text in enumerate("abcd"):
        child._take(TokenDelta("r", text, 1, number))
    assert [(frame["text"], frame["index"]) for frame in sent] == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    engine.close()


def test_a_frame_becomes_a_request_with_its_defaults() -> None:
    frame = {
        "op": "generate",
        "id": "x",
        "base": {"id": "b", "path": "/b"},
        "prompt": "p",
        "priority": "batch",
    }
    message = parse(OPERATION, frame)
    assert isinstance(message, Generate)
    request = to_request(message)
    assert (request.priority, request.stream) == (Priority.BATCH, False)


def test_a_number_as_text_is_refused() -> None:
    frame = generate({"id": "b", "path": "/b"}, "x", sampling={"max_tokens": "5"})
    with pytest.raises(InvalidInput, match=r"sampling\.max_tokens"):
        parse(OPERATION, frame)


def test_frames_after_a_malformed_one_are_read() -> None:
    inbox: SimpleQueue[Any] = SimpleQueue()
    read_into(inbox, BytesIO(struct.pack(">I", 1) + b"{" + struct.pack(">I", 2) + b"{}"))
    first, second = inbox.get_nowait(), inbox.get_nowait()
    assert isinstance(first, InvalidInput)
    assert second == {}


def test_vectors_and_tokens_are_told_beside_an_answer(
    process: Process, base: dict[str, str], tmp_path: Path
) -> None:
    encoder = {"id": "encoder", "path": str(save_encoder(tmp_path))}
    process.send(**generate(base, "beside", sampling={"max_tokens": 40, "temperature": 0.0}))
    process.send(op="embed", id="e", tenant="t", base=encoder, encoder=True, prompt="您好", dimensions=8)
    process.send(op="tokenize", id="t", base=encoder, encoder=True, prompt="您好")
    process.send(op="detokenize", id="d", base=base, tokens=[1, 2])
    process.send(op="embed", id="causal", base=base, prompt_ids=[5, 6])
    seen: dict[str, Frame] = {}
    for frame in process.frames:
        if frame["type"] in ("done", "error"):
            seen[frame["id"]] = frame
        if len(seen) == 5:
            break
    assert seen["beside"]["usage"]["completion_tokens"] > 0
    assert len(base64.b64decode(seen["e"]["vector"])) == 4 * 8
    assert seen["e"]["usage"]["prompt_tokens"] == len(seen["t"]["tokens"]) == len(seen["t"]["texts"])
    assert [span["name"] for span in seen["e"]["spans"]] == ["engine.queue", "engine.embed"]
    assert len(base64.b64decode(seen["causal"]["vector"])) == 4 * 32
    assert seen["d"]["text"] == "<|im_start|><|im_end|>"
    assert seen["t"]["context"] == 66


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ({"op": "embed", "id": "x", "base": {"id": "b", "path": "/b"}}, "messages"),
        (
            {"op": "embed", "id": "x", "base": {"id": "b", "path": "/b"}, "prompt": "x", "dimensions": 0},
            "dimensions",
        ),
        (
            {"op": "embed", "id": "x", "encoder": True, "base": {"id": "b", "path": "/none"}, "prompt": "x"},
            "path",
        ),
        ({"op": "tokenize", "id": "x", "base": {"id": "b", "path": "/none"}, "prompt": "x"}, "path"),
        ({"op": "detokenize", "id": "x", "base": {"id": "b", "path": "/b"}}, "tokens"),
    ],
)
def test_a_vector_or_token_that_cannot_be_is_an_error_of_that_frame(
    process: Process, frame: Frame, param: str
) -> None:
    process.send(**frame)
    answer = process.until("error", "x")[-1]
    assert answer["param"] == param
    assert answer["code"]
