"""The worker's hold on its engine, and a shard run through it, with a real child that only echoes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from services.inference.answers import StoredRow
from services.inference.batch_input import BatchRow
from services.inference.engine_process import EngineCrashed, EngineProcess
from services.inference.shard import Pending, ShardRun
from shared.contracts.chat import parse_chat
from shared.contracts.embeddings import parse_embedding
from shared.contracts.inference import ModelRef
from shared.errors import Unavailable
from shared.stop import ChildCrashed, Stop, Stopped

MODEL = ModelRef(name="m", base_artifact="sha256:" + "0" * 64)


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    process = EngineProcess({}, module="tests.unit.inference.fake_child")
    yield process
    process.close()


def ask(text: str, request: str = "r") -> dict[str, Any]:
    return {"id": request, "messages": [{"role": "user", "content": text}]}


def last(engine: EngineProcess, text: str) -> dict[str, Any]:
    frames = [frame for frame in engine.submit([ask(text)]).frames() if frame is not None]
    return frames[-1]


class Asked:
    """A job's context as a shard sees it."""

    def __init__(self, reason: Stop | None = None) -> None:
        self.asked = threading.Event()
        self.reason = reason
        if reason is not None:
            self.asked.set()


def run_shard(
    engine: EngineProcess, texts: list[str], asked: Asked | None = None, **options: Any
) -> list[StoredRow]:
    stored: list[StoredRow] = []
    run = ShardRun(engine, "/v1/chat/completions", "batch_1", "tenant", 1, stored.extend)
    pending = []
    for number, text in enumerate(texts):
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **options}
        pending.append(Pending(number, BatchRow(f"c{number}", parse_chat(body)), MODEL))
    try:
        run.answer(pending, asked or Asked(), lambda _: {"base": {}, "adapter": None})
    except (ChildCrashed, Stopped) as exc:
        exc.add_note(str(sorted(row.row_no for row in stored)))
        raise
    return stored


def test_an_answer_comes_back_to_the_request_that_asked(engine: EngineProcess) -> None:
    calls = {text: engine.submit([ask(text, text)]) for text in ("一", "two", "three")}
    for text, call in calls.items():
        assert [f["text"] for f in call.frames() if f is not None] == [text, text]


def test_a_death_fails_what_was_inside_and_the_next_request_starts_anew(engine: EngineProcess) -> None:
    died = last(engine, "die")
    assert (died["type"], died["code"], died["retryable"]) == ("error", "engine_crashed", True)
    assert "SIGKILL" in died["message"]
    assert last(engine, "again")["text"] == "again"


def test_a_cancelled_request_ends(engine: EngineProcess) -> None:
    call = engine.submit([ask("hold")])
    call.cancel()
    assert [f["finish_reason"] for f in call.frames() if f is not None] == ["cancelled"]


def test_a_closed_engine_takes_nothing(engine: EngineProcess) -> None:
    engine.start()
    engine.close()
    with pytest.raises(Unavailable, match="stopping"):
        engine.submit([ask("x")])


def test_a_shard_stores_every_row_once_and_keeps_a_refused_row_apart(engine: EngineProcess) -> None:
    stored = sorted(run_shard(engine, ["a", "refuse", "b"]), key=lambda row: row.row_no)
    assert [(row.row_no, row.status_code) for row in stored] == [(0, 200), (1, 400), (2, 200)]
    assert stored[1].body["error"]["code"] == "context_length_exceeded"
    assert stored[2].body["choices"][0]["message"]["content"] == "b"
    assert stored[0].seconds == pytest.approx(0.3)


def test_rows_that_were_answered_before_the_engine_died_are_stored(engine: EngineProcess) -> None:
    with pytest.raises(ChildCrashed) as caught:
        run_shard(engine, ["a", "b", "die"])
    assert caught.value.__notes__ == ["[0, 1]"]


def test_a_shard_that_is_asked_to_stop_gives_its_rows_up(engine: EngineProcess) -> None:
    with pytest.raises(Stopped) as caught:
        run_shard(engine, ["hold"], Asked(Stop.CANCEL))
    assert caught.value.reason is Stop.CANCEL


def test_a_row_with_several_choices_is_stored_when_all_have_ended(engine: EngineProcess) -> None:
    (row,) = run_shard(engine, ["hi"], n=3)
    assert [c["index"] for c in row.body["choices"]] == [0, 1, 2]
    assert (row.prompt_tokens, row.completion_tokens) == (1, 3)


def test_a_row_of_which_one_choice_is_refused_is_refused_once(engine: EngineProcess) -> None:
    rows = sorted(run_shard(engine, ["refuse", "a"], n=2), key=lambda row: row.row_no)
    assert [(row.row_no, row.status_code) for row in rows] == [(0, 400), (1, 200)]


def test_a_row_of_vectors_has_all_of_them_or_an_error_with_the_place(engine: EngineProcess) -> None:
    stored: list[StoredRow] = []
    run = ShardRun(engine, "/v1/embeddings", "batch_1", "tenant", 1, stored.extend)
    bodies = [
        {"model": "m", "input": ["a", "b"]},
        {"model": "m", "input": ["a", "long", "b"]},
        {"model": "m", "input": "a", "encoding_format": "base64"},
    ]
    pending = [Pending(n, BatchRow(f"c{n}", parse_embedding(body)), MODEL) for n, body in enumerate(bodies)]
    run.answer(pending, Asked(), lambda _: {"base": {}, "adapter": None})
    rows = {row.row_no: row for row in stored}
    assert [[row["embedding"] for row in rows[n].body["data"]] for n in (0, 2)] == [
        [[1.0, -2.0], [1.0, -2.0]],
        ["AACAPwAAAMA="],
    ]
    assert (rows[0].prompt_tokens, rows[0].completion_tokens, rows[0].seconds) == (6, 0, 0.25)
    error = rows[1].body["error"]
    assert (rows[1].status_code, error["param"], error["code"]) == (
        400,
        "input[1]",
        "context_length_exceeded",
    )


def test_an_engine_that_refuses_its_configuration_is_not_waited_for() -> None:
    process = EngineProcess({"device": "cuda"}, module="tests.unit.inference.fake_child")
    try:
        with pytest.raises(EngineCrashed, match="the engine did not start: torch sees no GPU here"):
            process.submit([ask("hello")])
    finally:
        process.close()
