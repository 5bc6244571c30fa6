"""`heliu demo`: the main job, from an upload to a streamed answer and its trace, through the gateway alone."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy import local
from services.cli import demo_report
from services.cli.client import Client, connect
from services.cli.demo_report import Steps
from services.cli.lifecycle import Display, home
from services.cli.output import print_json
from shared import semconv
from shared.errors import HeliuError, InvalidInput
from shared.telemetry import Span, Tracing

app = typer.Typer()

SAMPLE = "service_dialogues.jsonl"
BATCH_ROWS = 200
EVALUATED = 200
# A Chinese character is about a token, and the demo's base has a context of 512.
QUESTION_CHARS = 300
# Both trainings together stay inside four minutes on two cores; a faster machine gets further in the same time.
PRETRAIN_SECONDS = 110
TUNE_SECONDS = 70
TRACE_PATIENCE_S = 20.0


@dataclass
class Result:
    """What `--json` prints. Scores are token F1, 0 to 1, on answers of held-out conversations; losses in nats."""

    rows_in: int = 0
    rows_kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    base_score: float = 0.0
    tuned_score: float = 0.0
    base_exact_match: float = 0.0
    tuned_exact_match: float = 0.0
    base_loss: float = 0.0
    tuned_loss: float = 0.0
    evaluated: int = 0
    batch: dict[str, float] = field(default_factory=dict)
    chat_question: str = ""
    chat_text: str = ""
    base_model: str = ""
    tuned_model: str = ""
    dataset_version: str = ""
    trace_id: str = ""
    spans: int = 0
    services: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)


@app.command()
def demo(
    input_file: Annotated[
        Path | None,
        typer.Option("--input", help="A CSV, JSONL or Parquet file of your own instead of the samples."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the platform running where the demo started it.")
    ] = False,
) -> None:
    """Run the main job: govern data, pretrain, fine-tune, evaluate, batch, chat, trace."""
    if input_file is not None and not input_file.is_file():
        raise InvalidInput(
            f"{input_file} is not a file; --input takes a CSV, JSONL or Parquet file", param="--input"
        )
    began = time.monotonic()
    steps = Steps()
    ours = _ensure_up(steps)
    try:
        result = _run_traced(steps, input_file)
    finally:
        if ours and not keep:
            with steps.step("stop", "taking the platform down again"):
                local.down(home())
    result.seconds = round(time.monotonic() - began, 1)
    result.stage_seconds = steps.seconds
    if as_json:
        print_json(asdict(result))
    else:
        demo_report.show(result, still_up=not ours or keep)


def _ensure_up(steps: Steps) -> bool:
    """Start the platform unless one is there to use; True when it is ours to stop."""
    if os.environ.get("HELIU_GATEWAY_URL") or local.is_running(home()):
        return False
    with steps.step("start", "starting the platform"), Display() as display:
        local.up(home(), on_progress=display.show)
    return True


def _run_traced(steps: Steps, input_file: Path | None) -> Result:
    """The whole run under one span, so that one trace goes from the upload to the streamed answer."""
    settings = local.environment(home()) if local.is_running(home()) else dict(os.environ)
    tracing = Tracing(
        "cli", endpoint=settings.get("HELIU_OTLP_ENDPOINT", ""), token=settings.get("HELIU_OTLP_TOKEN", "")
    )
    client = connect()
    try:
        with tracing.span("heliu demo") as span:
            client.traceparent = span.traceparent
            result = Run(client, steps, span).run(input_file)
        tracing.flush()
        client.traceparent = None
        with steps.step("trace", "collecting the trace"):
            _read_trace(client, result)
        return result
    finally:
        client.close()
        tracing.shutdown()


def _read_trace(client: Client, result: Result) -> None:
    """Wait until the trace stops growing: every process sends its spans in batches of its own."""
    deadline = time.monotonic() + TRACE_PATIENCE_S
    unchanged = 0
    while time.monotonic() < deadline and unchanged < 3:
        time.sleep(0.7)
        try:
            spans = client.get(f"/v1/traces/{result.trace_id}")["spans"]
        except HeliuError as exc:
            if exc.code != "not_found":
                raise
            continue
        unchanged = unchanged + 1 if len(spans) == result.spans else 0
        result.spans = len(spans)
        result.services = sorted({span["service"] for span in spans})


class Run:
    """The steps of the main job, in order, on one gateway."""

    def __init__(self, client: Client, steps: Steps, span: Span) -> None:
        self._client = client
        self._steps = steps
        self._span = span
        self._mark = secrets.token_hex(3)
        self._result = Result(trace_id=span.trace_id)

    def run(self, input_file: Path | None) -> Result:
        result = self._result
        if input_file is not None:
            file = self._upload(input_file)
        else:
            with as_file(files("deploy.samples") / SAMPLE) as sample:
                file = self._upload(sample)
        dataset = self._govern(file)
        self._pretrain()
        self._tune()
        base, tuned = self._evaluate(result.base_model), self._evaluate(result.tuned_model)
        result.base_score, result.tuned_score = base["token_f1"], tuned["token_f1"]
        result.base_exact_match, result.tuned_exact_match = base["exact_match"], tuned["exact_match"]
        result.base_loss, result.tuned_loss = base["loss"], tuned["loss"]
        result.evaluated = tuned["n"]
        questions = self._questions(dataset)
        self._batch(questions)
        self._chat(questions[0])
        return result

    def _upload(self, path: Path) -> str:
        with self._steps.step("upload", f"uploading {path.name}"):
            return str(self._client.upload(path, "user_data")["id"])

    def _govern(self, file: str) -> str:
        dataset = f"demo-{self._mark}"
        with self._steps.step("govern", "governing the data") as note:
            job = self._client.post("/v1/datasets", {"name": dataset, "file_id": file})
            done = self._finish(job["id"], lambda p: note(f"{p.get('rows_read', 0):,} rows read"))
            outcome = done["result"]
            self._result.rows_in = outcome["rows_in"]
            self._result.rows_kept = outcome["rows"]["total"]
            self._result.dropped = outcome["dropped"]
            self._result.dataset_version = outcome["version_id"]
            if not outcome["gate"]["passed"]:
                raise HeliuError(
                    f"the data fail their gate: {'; '.join(outcome['gate']['reasons'])}",
                    code="dataset_gate_failed",
                )
            note(f"{outcome['rows_in']:,} rows in, {outcome['rows']['total']:,} kept")
        return dataset

    def _pretrain(self) -> None:
        name = f"demo-base-{self._mark}"
        with self._steps.step("pretrain", "pretraining a base on the training conversations") as note:
            job = self._client.post(
                "/v1/training/jobs",
                {
                    "type": "pretrain",
                    "name": name,
                    "training_file": self._result.dataset_version,
                    "seed": 7,
                    "hyperparameters": {"max_seconds": PRETRAIN_SECONDS},
                },
            )
            self._finish(job["id"], lambda p: note(_training(p)))
            self._result.base_model = name

    def _tune(self) -> None:
        with self._steps.step("tune", "fine-tuning a LoRA adapter on the answers") as note:
            job = self._client.post(
                "/v1/fine_tuning/jobs",
                {
                    "model": self._result.base_model,
                    "training_file": self._result.dataset_version,
                    "suffix": "demo",
                    "seed": 7,
                    "method": {
                        "type": "supervised",
                        "supervised": {"hyperparameters": {"max_seconds": TUNE_SECONDS}},
                    },
                },
            )
            # The root span belongs to the tenant whose work it holds, so that its key may read it.
            self._span.set_all({semconv.TENANT: job["organization_id"]})
            done = self._finish(job["id"], lambda p: note(_training(p)))
            self._result.tuned_model = done["result"]["fine_tuned_model"]

    def _evaluate(self, model: str) -> dict[str, Any]:
        with self._steps.step(
            f"evaluate {'base' if model == self._result.base_model else 'tuned'}", f"scoring {model}"
        ) as note:
            job = self._client.post(
                "/v1/evaluations",
                {
                    "model": model,
                    "dataset_version": self._result.dataset_version,
                    "limit": EVALUATED,
                    "seed": 7,
                },
            )
            outcome: dict[str, Any] = self._finish(job["id"], lambda _: None)["result"]
            note(f"token F1 {outcome['token_f1']:.3f} on {outcome['n']} held-out answers")
            return outcome

    def _questions(self, dataset: str) -> list[list[dict[str, str]]]:
        """Held-out conversations up to their last question, as many as a batch has rows."""
        path = f"/v1/datasets/{dataset}/versions/{self._result.dataset_version}/rows"
        rows = self._client.get(path, split="validation", limit=BATCH_ROWS)["data"]
        questions = [_question(row["messages"]) for row in rows if row["messages"]]
        if not questions:
            raise HeliuError(
                "the held-out split has no conversation to ask about", code="dataset_gate_failed"
            )
        # A small file has fewer held-out rows than the batch: they take turns.
        return [questions[i % len(questions)] for i in range(BATCH_ROWS)]

    def _batch(self, questions: list[list[dict[str, str]]]) -> None:
        with self._steps.step("batch", f"answering {len(questions)} held-out questions as a batch") as note:
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as handle:
                for number, messages in enumerate(questions):
                    body = {
                        "model": self._result.tuned_model,
                        "messages": messages,
                        "max_tokens": 64,
                        "temperature": 0,
                    }
                    row = {
                        "custom_id": f"q{number}",
                        "method": "POST",
                        "url": "/v1/chat/completions",
                        "body": body,
                    }
                    handle.write(json.dumps(row, ensure_ascii=False) + "\n")
                handle.flush()
                file = self._client.upload(Path(handle.name), "batch", filename="questions.jsonl")
            began = time.monotonic()
            batch = self._client.post(
                "/v1/batches",
                {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
            )
            self._finish(batch["id"], lambda _: None)
            seconds = time.monotonic() - began
            counts = self._client.get(f"/v1/batches/{batch['id']}")["request_counts"]
            self._result.batch = {**counts, "rows_per_second": round(counts["total"] / seconds, 1)}
            note(
                f"{counts['completed']} of {counts['total']} answered, {self._result.batch['rows_per_second']} a second"
            )

    def _chat(self, messages: list[dict[str, str]]) -> None:
        self._result.chat_question = messages[-1]["content"]
        body = {
            "model": self._result.tuned_model,
            "messages": messages,
            "stream": True,
            "temperature": 0,
            "max_tokens": 96,
        }
        with self._steps.step("chat", "asking a held-out question, streamed") as note:
            for chunk in self._client.stream("/v1/chat/completions", body, on_headers=lambda _: None):
                if chunk["choices"]:
                    self._result.chat_text += chunk["choices"][0]["delta"].get("content") or ""
                    note(self._result.chat_text)

    def _finish(self, job_id: str, tell: Any) -> dict[str, Any]:
        """Wait for the job, showing its progress; Ctrl-C cancels it. Raises HeliuError when it did not succeed."""
        try:
            job = self._client.wait_job(job_id, lambda job: tell(job["progress"]))
        except KeyboardInterrupt:
            self._client.post(f"/v1/jobs/{job_id}/cancel")
            raise
        if job["status"] != "succeeded":
            error = job["error"] or {"code": job["status"], "message": job["status"]}
            raise HeliuError(
                f"job {job_id} ({job['kind']}) {job['status']}: {error['message']} (trace {job['trace_id']})",
                code=error["code"],
            )
        return job


def _question(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation up to its last question; old turns are left out until it fits a small model's context."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    asked = messages[:last]
    while len(asked) > 1 and (asked[0]["role"] == "assistant" or _chars(asked) > QUESTION_CHARS):
        asked = asked[1:]
    return asked


def _chars(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _training(progress: dict[str, Any]) -> str:
    if "step" not in progress:
        return str(progress.get("phase", "waiting"))
    return f"step {progress['step']} of {progress['total_steps']}"
