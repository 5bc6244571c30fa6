"""The process that forwards, through its frames, against a real server that does as it is told."""

from __future__ import annotations

import base64
import queue
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from services.inference.choices import Choices, calls
from services.inference.engine_process import Call, EngineProcess
from services.inference.vectors import Vectors
from services.inference.vectors import calls as vector_calls
from shared.contracts.chat import parse_chat
from shared.contracts.completions import parse_completion
from shared.contracts.embeddings import parse_embedding
from shared.frames import Frame
from tests.harness import wait_for
from tests.local_upstream import MODEL, LocalUpstream, local_upstream

KEY = "sk-a-key-that-nobody-may-see"
SLOTS = 4


@pytest.fixture(scope="module")
def upstream() -> Iterator[LocalUpstream]:
    with local_upstream(key=KEY) as running:
        yield running


@contextmanager
def forwarding(port: int, silence_s: float = 60.0) -> Iterator[EngineProcess]:
    config = {"hosts": [["127.0.0.1", port]], "slots": SLOTS, "silence_s": silence_s}
    engine = EngineProcess(config, module="services.inference.upstream.child")
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def process(upstream: LocalUpstream) -> Iterator[EngineProcess]:
    with forwarding(upstream.port) as engine:
        yield engine


class Asker:
    """Asks the process as a worker does, each time under a new name."""

    def __init__(self, process: EngineProcess, upstream: LocalUpstream) -> None:
        self.process, self.upstream = process, upstream
        self._count = 0

    def common(self, **more: Any) -> dict[str, Any]:
        known = {"name": "far", "url": self.upstream.url, "model": MODEL, "api_key": KEY, "context": 4096}
        return {"tenant": "t", "priority": "live", "start_s": 20.0, "upstream": known, **more}

    def name(self) -> str:
        self._count += 1
        return f"r{self._count}"

    def chat(self, order: str, *, common: dict[str, Any] | None = None, **body: Any) -> Answered:
        wanted = parse_chat({"model": "far", "messages": [{"role": "user", "content": order}], **body})
        frames = calls(self.name(), wanted, common or self.common())
        return Answered(self.process.submit(frames), Choices(wanted))

    def text(self, prompt: Any, **body: Any) -> Answered:
        wanted = parse_completion({"model": "far", "prompt": prompt, **body})
        return Answered(self.process.submit(calls(self.name(), wanted, self.common())), Choices(wanted))

    def embed(self, given: Any, **body: Any) -> Answered:
        wanted = parse_embedding({"model": "far", "input": given, **body})
        frames = vector_calls(self.name(), wanted, False, self.common())
        return Answered(self.process.submit(frames), Vectors(wanted))

    @property
    def last(self) -> dict[str, Any]:
        return self.upstream.asked[-1]


class Answered:
    """All that came of one request."""

    def __init__(self, call: Call, gathered: Any) -> None:
        self.call, self._gathered = call, gathered
        self._frames: list[Frame] | None = None

    @property
    def frames(self) -> list[Frame]:
        if self._frames is None:
            self._frames = [frame for frame in self.call.frames() if frame is not None]
        return self._frames

    @property
    def tokens(self) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == "token"]

    @property
    def errors(self) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == "error"]

    @property
    def result(self) -> dict[str, Any]:
        for frame in self.frames:
            assert frame["type"] != "error", frame
            if frame["type"] == "done":
                self._gathered.take(frame)
        return dict(self._gathered.result())


@pytest.fixture
def asker(process: EngineProcess, upstream: LocalUpstream) -> Asker:
    return Asker(process, upstream)


def test_an_answer_comes_in_tokens_and_as_a_whole_with_its_usage(asker: Asker) -> None:
    answered = asker.chat("one two three")
    assert [frame["text"] for frame in answered.tokens] == ["one ", "two ", "three"]
    (choice,) = answered.result["choices"]
    assert choice == {"text": "one two three", "finish_reason": "stop"}
    usage = answered.result["usage"]
    assert usage == {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 0}
    assert all(seconds >= 0 for seconds in answered.result["timings"].values())


def test_the_request_is_as_the_client_made_it_under_the_upstreams_name_and_key(asker: Asker) -> None:
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    options = {
        "max_tokens": 9, "temperature": 0.25, "top_p": 0.5, "seed": 3, "stop": ["END"], "frequency_penalty": 1.0,
        "presence_penalty": -1.0, "logit_bias": {"5": -100}, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.5,
        "response_format": {"type": "json_object"},
    }  # fmt: skip
    answered = asker.chat("plain", common=asker.common(traceparent=trace), **options)
    assert answered.result["choices"][0]["text"] == "plain"
    asked = asker.last
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["headers"]["authorization"], asked["headers"]["traceparent"]) == (f"Bearer {KEY}", trace)
    assert asked["headers"]["host"] == f"127.0.0.1:{asker.upstream.port}"
    messages = [{"role": "user", "content": "plain"}]
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert asked["body"] == {"model": MODEL, "messages": messages, **streamed, **options}


def test_several_choices_and_prompts_are_one_request(asker: Asker) -> None:
    before = len(asker.upstream.asked)
    answered = asker.text(["a b", "c"], n=2, logprobs=1)
    assert [choice["text"] for choice in answered.result["choices"]] == ["a b"] * 4
    assert answered.result["usage"] == {"prompt_tokens": 14, "completion_tokens": 8, "cached_tokens": 0}
    assert answered.result["choices"][0]["logprobs"][0]["top"] == [
        {"token": "a ", "logprob": -0.5, "bytes": [97, 32]}
    ]
    assert len(asker.upstream.asked) == before + 1
    assert asker.last["body"]["prompt"] == ["a b", "c"]
    assert asker.text([1, 2, 3]).result["usage"]["prompt_tokens"] == 7
    assert asker.last["body"]["prompt"] == [1, 2, 3]


def test_logprobs_are_told_as_the_engine_tells_them(asker: Asker) -> None:
    answered = asker.chat("x y", logprobs=True, top_logprobs=1)
    one = {"token": "x ", "logprob": -0.5, "bytes": [120, 32]}
    assert answered.tokens[0]["logprobs"] == [{**one, "top": [one]}]
    assert len(answered.result["choices"][0]["logprobs"]) == 2


def test_calls_of_tools_come_whole(asker: Asker) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}
        for name in ("first", "second")
    ]
    answered = asker.chat("call", tools=tools, tool_choice="required", parallel_tool_calls=False)
    (choice,) = answered.result["choices"]
    assert choice["finish_reason"] == "tool_calls"
    called = [
        {"id": f"call-{n}", "name": name, "arguments": f'{{"x": {n}}}'}
        for n, name in enumerate(("first", "second"))
    ]
    assert choice["tool_calls"] == called
    assert [call for frame in answered.tokens for call in frame.get("tool_calls", ())] == called
    body = asker.last["body"]
    assert (body["tools"], body["tool_choice"], body["parallel_tool_calls"]) == (tools, "required", False)


def test_vectors_come_in_the_order_of_their_texts(asker: Asker) -> None:
    answered = asker.embed([f"{'x' * n}" for n in range(1, 71)], dimensions=3)
    vectors = [struct.unpack("<3f", base64.b64decode(vector)) for vector in answered.result["vectors"]]
    assert vectors == [(float(n), 0.5, -1.25) for n in range(1, 71)]
    assert answered.result["usage"]["prompt_tokens"] == 3 * 70
    assert (asker.last["body"]["dimensions"], len(asker.last["body"]["input"])) == (3, 6)


@pytest.mark.parametrize("order", ["429 2", "503 2", "500 1", "cut-early x"])
def test_what_passes_before_the_first_token_is_tried_again(asker: Asker, order: str) -> None:
    answered = asker.chat(order)
    assert answered.result["choices"][0]["text"] == order
    (done,) = [frame for frame in answered.frames if frame["type"] == "done"]
    assert done["remote"]["resends"] == asker.upstream.tries[order] - 1 > 0


@pytest.mark.parametrize(
    ("order", "code", "retryable"),
    [
        ("500", "upstream_failed", True),
        ("garbage", "upstream_failed", True),
        ("lies", "upstream_failed", True),
        ("404", "upstream_misconfigured", False),
    ],
)
def test_what_does_not_pass_is_a_typed_error(asker: Asker, order: str, code: str, retryable: bool) -> None:
    answered = asker.chat(order)
    (error,) = answered.errors
    assert (error["code"], error["retryable"]) == (code, retryable)
    assert asker.upstream.tries[order] == (2 if retryable else 1)


def test_silence_is_a_typed_error_and_not_asked_again(upstream: LocalUpstream) -> None:
    with forwarding(upstream.port, silence_s=0.3) as hasty:
        for order in ("silence", "mute"):
            (error,) = Asker(hasty, upstream).chat(order).errors
            assert (error["code"], error["retryable"]) == ("upstream_silent", True)
            assert upstream.tries[order] == 1
            assert upstream.gone.acquire(timeout=20)


def test_a_live_request_does_not_wait_beyond_its_deadline(asker: Asker) -> None:
    (error,) = asker.chat("later").errors
    assert (error["code"], error["retryable"]) == ("upstream_busy", True)
    assert "come back" in error["message"]
    assert asker.upstream.tries["later"] == 1


def test_a_refused_request_names_its_parameter_and_is_not_repeated(asker: Asker) -> None:
    (error,) = asker.chat("400 top_k", top_k=5).errors
    assert (error["code"], error["param"], error["retryable"]) == ("upstream_refused", "top_k", False)
    assert "told to answer 400" in error["message"]
    assert asker.upstream.tries["400 top_k"] == 1


@pytest.mark.parametrize("order", ["cut off now", "error here now"])
def test_what_breaks_in_the_middle_is_an_error_after_its_tokens(asker: Asker, order: str) -> None:
    answered = asker.chat(order)
    assert [frame["text"].strip() for frame in answered.tokens] == order.split()[:2]
    assert [error["code"] for error in answered.errors] == ["upstream_failed"]
    assert asker.upstream.tries[order] == 1


def test_a_row_of_a_batch_gets_no_tokens_and_is_tried_again_from_the_middle(asker: Asker) -> None:
    answered = asker.chat("cut row", common=asker.common(priority="batch", start_s=None))
    assert answered.tokens == []
    assert len(answered.errors) == 1
    assert asker.upstream.tries["cut row"] == 2


def test_an_answer_in_one_piece_is_taken_for_what_it_is(asker: Asker) -> None:
    assert asker.chat("json in one").result["choices"][0]["text"] == "json in one"


def test_usage_that_is_not_told_is_estimated(asker: Asker) -> None:
    answered = asker.chat("nousage one two")
    assert answered.result["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "cached_tokens": 0}
    assert answered.frames[-1]["remote"]["usage_estimated"] is True


def test_log_probabilities_that_do_not_come_are_refused(asker: Asker) -> None:
    (error,) = asker.chat("nologprobs", logprobs=True).errors
    assert (error["code"], error["param"]) == ("unsupported_parameter", "logprobs")


def test_the_key_is_in_no_error(asker: Asker) -> None:
    (error,) = asker.chat("leak").errors
    assert "[redacted]" in error["message"]
    wrong = asker.common()
    wrong["upstream"] |= {"api_key": "sk-another-key-of-somebody"}
    (refused,) = asker.chat("x", common=wrong).errors
    assert refused["code"] == "upstream_misconfigured"
    assert "sk-" not in error["message"] + refused["message"]


def test_more_tokens_than_the_model_takes_are_refused_without_asking(asker: Asker) -> None:
    before = len(asker.upstream.asked)
    (error,) = asker.chat("x", max_tokens=4096).errors
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")
    assert len(asker.upstream.asked) == before


def test_a_cancelled_request_closes_its_connection_and_tells_what_was_made(asker: Asker) -> None:
    answered = asker.chat("endless")
    frames = answered.call.frames()
    first = next(frame for frame in frames if frame is not None)
    assert first["text"] == "more "
    answered.call.cancel()
    *_, last = [frame for frame in frames if frame is not None]
    assert (last["type"], last["finish_reason"]) == ("done", "cancelled")
    assert last["usage"]["completion_tokens"] >= 1
    assert asker.upstream.gone.acquire(timeout=20)


def test_an_address_that_the_operator_did_not_list_is_not_asked(asker: Asker) -> None:
    with local_upstream() as other:
        common = asker.common()
        common["upstream"] |= {"url": other.url}
        (error,) = asker.chat("x", common=common).errors
        assert error["code"] == "upstream_misconfigured"
        assert "does not talk to" in error["message"]
        common["upstream"] |= {"url": f"https://127.0.0.1:{other.port}/v1"}
        (error,) = asker.chat("x", common=common).errors
        assert error["code"] == "upstream_misconfigured"
        assert other.asked == []


def test_a_server_that_is_not_there_is_unavailable(asker: Asker) -> None:
    common = asker.common()
    with local_upstream() as gone:
        pass
    common["upstream"] |= {"url": gone.url}
    with forwarding(0) as process:
        (error,) = Asker(process, asker.upstream).chat("x", common=common).errors
    assert (error["code"], error["retryable"]) == ("upstream_unavailable", True)


def test_live_requests_find_a_place_that_rows_do_not_take(asker: Asker) -> None:
    heard: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    upstream, rows = asker.upstream, asker.common(priority="batch", start_s=None)
    upstream.most_at_once = 0
    upstream.hold.clear()
    try:
        wanted = parse_chat({"model": "far", "messages": [{"role": "user", "content": "row"}]})
        before = len(upstream.asked)
        for number in range(8):
            asker.process.submit(calls(f"row{number}", wanted, rows), heard)
        live = asker.chat("live")
        late = asker.chat("late", common=asker.common(start_s=0.2))
        assert [error["code"] for error in late.errors] == ["upstream_busy"]
        wait_for(lambda: len(upstream.asked) - before == SLOTS, 30, "the places to be taken")
        orders = [asked["body"]["messages"][-1]["content"] for asked in upstream.asked[before:]]
        assert sorted(orders) == ["live", "row", "row", "row"]
    finally:
        upstream.hold.set()
    assert live.result["choices"][0]["text"] == "live"
    assert [heard.get(timeout=20)["type"] for _ in range(8)] == ["done"] * 8
    assert upstream.most_at_once == SLOTS


def test_a_frame_that_cannot_be_read_ends_each_of_its_choices_and_tells_no_key(asker: Asker) -> None:
    common = asker.common()
    common["upstream"] |= {"context": "long"}
    errors = asker.chat("x", common=common, n=2).errors
    assert [error["code"] for error in errors] == ["invalid_value"] * 2
    assert "context" in errors[0]["message"]
    assert KEY not in str(errors)


def test_the_process_needs_no_package_of_models() -> None:
    code = (
        "import sys, services.inference.upstream.child, services.inference.main; "
        "print([name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
