"""A request's texts become calls of the engine, and their ends one answer in the texts' order."""

from __future__ import annotations

from typing import Any

from services.inference.vectors import PIECE, Vectors, calls, failure, pieces
from shared.contracts.inference import Embedding


def done(index: int, start: int = 0) -> dict[str, Any]:
    return {
        "id": f"r.1.{index}",
        "type": "done",
        "vector": f"v{index}",
        "usage": {"prompt_tokens": index + 1},
        "timings": {"queue_s": 0.5 + index, "compute_s": 0.25},
        "spans": [
            {"name": "engine.embed", "start_ns": start, "end_ns": start + 5, "attributes": {"tokens": 1}}
        ],
    }


def test_each_text_is_a_call_with_its_place() -> None:
    frames = calls("r.1", Embedding(inputs=("a", (1, 2)), dimensions=8), True, {"tenant": "t"})
    assert [frame["id"] for frame in frames] == ["r.1.0", "r.1.1"]
    assert (frames[0]["prompt"], frames[1]["prompt_ids"]) == ("a", [1, 2])
    assert all(frame["op"] == "embed" and frame["encoder"] and frame["dimensions"] == 8 for frame in frames)


def test_vectors_stand_in_the_order_of_the_texts_however_they_came() -> None:
    made = Vectors(Embedding(inputs=("a", "b", "c")))
    assert [made.take(done(i, start)) for i, start in ((2, 30), (0, 10), (1, 20))] == [False, False, True]
    result = made.result()
    assert result["vectors"] == ["v0", "v1", "v2"]
    assert result["usage"] == {"prompt_tokens": 6, "completion_tokens": 0}
    assert result["timings"] == {"queue_s": 0.5, "compute_s": 2.25}
    (span,) = made.spans()
    assert (span["start_ns"], span["end_ns"], span["attributes"]) == (10, 35, {"inputs": 3})


def test_an_error_about_a_text_names_its_place_in_the_request() -> None:
    error = {"id": "r.1.1", "code": "context_length_exceeded", "message": "too long", "retryable": False}
    several, alone = Embedding(inputs=("a", "b")), Embedding(inputs=("a",))
    told = failure(several, {**error, "param": "prompt"})
    assert (told.param, told.message, told.code) == (
        "input[1]",
        "input[1]: too long",
        "context_length_exceeded",
    )
    assert failure(alone, {**error, "id": "r.1.0", "param": "prompt_ids"}).param == "input"
    assert failure(several, {**error, "param": "dimensions"}).param == "dimensions"


def test_pieces_are_bounded_and_lose_nothing() -> None:
    vectors = [str(i) * (PIECE // 3) for i in range(10)] + ["x" * (2 * PIECE), "y"]
    cut = list(pieces(vectors))
    assert [vector for piece in cut for vector in piece] == vectors
    assert all(sum(map(len, piece)) <= PIECE or len(piece) == 1 for piece in cut)
