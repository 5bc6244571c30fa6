"""Everything that the platform promises to the `openai` client, done with whichever major is first on the path.

Run as a program: JSON of what to use on stdin, JSON of what was seen on stdout. Imports nothing of the platform,
and judges nothing: the test that started it does.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict

PATIENCE_S = 240.0
QUESTION = [{"role": "user", "content": "How long does delivery to Juneau take?"}]
Seen = dict[str, Any]


def wait_until(ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not holds(found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {found}")
        time.sleep(0.1)
    return found


def files(client: openai.OpenAI, given: Seen) -> Seen:
    bodies = [f'{{"n": {n}, "客服": true}}\n'.encode() for n in range(3)]
    made = [
        client.files.create(file=(f"file {n}.jsonl", body), purpose="user_data")
        for n, body in enumerate(bodies)
    ]
    ids = [file.id for file in made]
    listed = [file.id for file in client.files.list(limit=1, purpose="user_data") if file.id in ids]
    waited = client.files.wait_for_processing(ids[0])
    deleted = [client.files.delete(id_) for id_ in ids]
    return {
        "ids": ids,
        "created": made[0].model_dump(),
        "listed": listed,
        "waited": waited.model_dump(),
        "deleted": [answer.deleted for answer in deleted],
        "gone": [
            client_error(lambda: client.files.retrieve(ids[0])),
            client_error(lambda: client.files.content(ids[0])),
        ],
    }


def file_content(client: openai.OpenAI, given: Seen) -> Seen:
    body = "第一行\nsecond line\n".encode()
    file = client.files.create(file=io.BytesIO(body), purpose="user_data")
    got = client.files.content(file.id).read()
    retrieved = client.files.retrieve(file.id)
    client.files.delete(file.id)
    return {"same": got == body, "bytes": retrieved.bytes, "length": len(body), "status": retrieved.status}


def models(client: openai.OpenAI, given: Seen) -> Seen:
    name = given["throw_away"]
    listed = [model.id for model in client.models.list()]
    retrieved = client.models.retrieve(given["tuned"])
    deleted = client.models.delete(name)
    return {
        "listed": listed,
        "retrieved": retrieved.model_dump(),
        "deleted": deleted.model_dump(),
        "left": [model.id for model in client.models.list()],
        "gone": client_error(lambda: client.models.retrieve(name)),
    }


def fine_tuning(client: openai.OpenAI, given: Seen) -> Seen:
    """The job that has run is read; one of our own is paused, resumed and cancelled."""
    jobs = client.fine_tuning.jobs
    done = jobs.retrieve(given["tuning"])
    mine = jobs.create(
        model=given["base"],
        training_file=given["version"],
        suffix="thrown",
        seed=11,
        metadata={"major": given["major"]},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    created = mine.model_dump()
    statuses = []
    if hasattr(jobs, "pause"):
        jobs.pause(mine.id)
        wait_until(lambda: jobs.retrieve(mine.id).status, lambda status: status == "paused")
        statuses.append("paused")
        statuses.append(jobs.resume(mine.id).status)
    jobs.cancel(mine.id)
    statuses.append(
        wait_until(lambda: jobs.retrieve(mine.id).status, lambda s: s in ("succeeded", "failed", "cancelled"))
    )
    return {
        "done": done.model_dump(),
        "created": created,
        "id": mine.id,
        "statuses": statuses,
        "listed": [job.id for job in jobs.list(limit=1) if job.id in (mine.id, done.id)],
        "events": [event.model_dump() for event in jobs.list_events(done.id, limit=20)],
        "checkpoints": [c.model_dump() for c in jobs.checkpoints.list(done.id, limit=2)],
        "result_file": client.files.retrieve(done.result_files[0]).model_dump(),
        "results": client.files.content(done.result_files[0]).text,
        "again": client_error(lambda: jobs.cancel(given["tuning"])),
    }


def batches(client: openai.OpenAI, given: Seen) -> Seen:
    def lines(n: int, **body: Any) -> bytes:
        body = {"model": given["tuned"], "messages": QUESTION, "max_tokens": 6, "temperature": 0, **body}
        rows = [
            {"custom_id": f"row {i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            for i in range(n)
        ]
        return "\n".join(json.dumps(row) for row in rows).encode()

    def create(content: bytes) -> Any:
        file = client.files.create(file=("batch.jsonl", content), purpose="batch")
        return client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"major": given["major"]},
        )

    def ended(batch: Any) -> Any:
        return wait_until(
            lambda: client.batches.retrieve(batch.id),
            lambda b: b.status in ("completed", "failed", "cancelled", "expired"),
        )

    cancelled = create(lines(400, max_tokens=64))
    client.batches.cancel(cancelled.id)
    with Hooks(client) as hooks:
        good = create(lines(5))
        completed = ended(good)
        event = hooks.unwrap("batch.completed", good.id)
    failed = ended(create(lines(2).replace(b"row 1", b"row 0") + b'\n{"custom_id": "x"}\n'))
    answered = client.files.content(completed.output_file_id).text
    return {
        "created": good.model_dump(),
        "completed": completed.model_dump(),
        "output": [json.loads(line) for line in answered.splitlines()],
        "output_file": client.files.retrieve(completed.output_file_id).model_dump(),
        "cancelled": ended(cancelled).model_dump(),
        "failed": failed.model_dump(),
        "listed": [b.id for b in client.batches.list(limit=1) if b.id in (good.id, failed.id, cancelled.id)],
        "order": [failed.id, good.id, cancelled.id],
        "event": event,
    }


class Hooks:
    """A webhook endpoint of our own, and the client's own check of what arrives at it."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client
        self._got: list[tuple[str, dict[str, str]]] = []
        hooks = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                hooks._got.append((body, {k.lower(): v for k, v in self.headers.items()}))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep stdout for the answer."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Hooks:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_port}/hook"
        body = {"url": url, "events": ["batch.completed"]}
        self._endpoint: Any = self._client.post("/webhooks", body=body, cast_to=object)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.delete(f"/webhooks/{self._endpoint['id']}", cast_to=object)
        self._server.shutdown()
        self._server.server_close()

    def unwrap(self, type_: str, id_: str) -> Seen | None:
        if not hasattr(self._client, "webhooks"):
            return None
        secret = self._endpoint["secret"]

        def mine() -> list[tuple[str, dict[str, str]]]:
            return [(body, headers) for body, headers in self._got if id_ in body]

        body, headers = wait_until(mine, bool)[0]
        event = self._client.webhooks.unwrap(body, headers, secret=secret)
        forged = client_error(lambda: self._client.webhooks.unwrap(body + " ", headers, secret=secret))
        return {"class": type(event).__name__, "type": event.type, "data": event.data.id, "forged": forged}


def chat(client: openai.OpenAI, given: Seen) -> Seen:
    def ask(**more: Any) -> Any:
        return client.chat.completions.create(
            **{"model": given["tuned"], "messages": QUESTION, "max_tokens": 16, "temperature": 0, **more}
        )

    plain = ask()
    text = plain.choices[0].message.content
    stream = ask(stream=True, stream_options={"include_usage": True})
    chunks = [chunk.model_dump() for chunk in stream]
    warm = [ask(temperature=1.2, seed=seed).choices[0].message.content for seed in (5, 5, 6, 7)]
    middle = text[len(text) // 2]
    stopped = ask(stop=[middle]).choices[0]
    raw = client.chat.completions.with_raw_response.create(
        model=given["tuned"], messages=QUESTION, max_tokens=2
    )
    return {
        "plain": plain.model_dump(),
        "chunks": chunks,
        "warm": warm,
        "stop": middle,
        "stopped": stopped.model_dump(),
        "headers": {name: raw.headers.get(name) for name in ("x-request-id", "x-trace-id")},
        "request_id": getattr(plain, "_request_id", None),
        "parsed": raw.parse().choices[0].finish_reason,
    }


def later(client: openai.OpenAI, given: Seen) -> Seen:
    """A chat in the background, fetched and streamed; a stream that is left and taken up again."""
    asked = {"model": given["tuned"], "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    job: Any = client.chat.completions.create(**asked, extra_body={"background": True, "priority": 1})
    kept = f"/chat/completions/{job.id}"

    def fetch() -> Any:
        return client.get(kept, cast_to=ChatCompletion)

    def follow(path: str, last: str = "") -> list[Any]:
        stream: Any = client.get(
            path,
            cast_to=ChatCompletionChunk,
            options={"headers": {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}},
            stream=True,
            stream_cls=openai.Stream[ChatCompletionChunk],
        )
        return [chunk.model_dump() for chunk in stream]

    answer = wait_until(fetch, lambda found: getattr(found, "choices", None))
    live = client.chat.completions.create(**asked, stream=True, extra_body={"resumable": True})
    begun = live.response
    path = begun.headers["content-location"].removeprefix("/v1")
    lines = begun.iter_lines()
    # Two chunks, each an id and its data; then the connection is closed.
    head = [line for line in (next(lines) for _ in range(6)) if line]
    begun.close()
    return {
        "job": {"id": job.id, "kind": job.kind, "priority": job.priority},
        "plain": client.chat.completions.create(**asked).model_dump(),
        "answer": answer.model_dump(),
        "chunks": follow(kept),
        "had": [json.loads(line.removeprefix("data: ")) for line in head if line.startswith("data: ")],
        "rest": follow(path, [line.removeprefix("id: ") for line in head if line.startswith("id: ")][-1]),
        "whole": follow(path),
    }


def vectors(client: openai.OpenAI, given: Seen) -> Seen:
    """Both formats, what is refused, a base's own vectors, tokens, and a batch."""
    texts = [
        "How long does delivery take?",
        "When will my parcel be delivered?",
        "The colour of the sofa is green.",
        "Please correct the sum on my invoice.",
    ]

    def embed(**more: Any) -> Any:
        return client.embeddings.create(**{"model": given["encoder"], "input": texts, **more})

    tokens: Any = [
        client.post("/tokenize", body={"model": given["encoder"], "prompt": text}, cast_to=object)
        for text in texts
    ]
    rows = [
        {"custom_id": f"row {i}", "method": "POST", "url": "/v1/embeddings", "body": body}
        for i, body in enumerate({"model": given["encoder"], "input": text} for text in texts[:2])
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(file=("vectors.jsonl", content), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    batch = wait_until(
        lambda: client.batches.retrieve(made.id),
        lambda b: b.status in ("completed", "failed", "cancelled", "expired"),
    )
    raw = client.embeddings.with_raw_response.create(model=given["encoder"], input=texts)
    output = client.files.content(batch.output_file_id).text if batch.output_file_id else ""
    return {
        "coded": embed(user="somebody").model_dump(),
        "plain": embed(encoding_format="float").model_dump(),
        "cut": embed(dimensions=64).model_dump(),
        "trace": raw.headers.get("x-trace-id"),
        "tokens": {"count": sum(told["count"] for told in tokens)},
        "causal": embed(model=given["tuned"], input="快递几天到？").model_dump(),
        "causal_asked": given["tuned"],
        "refused": {
            "long": client_error(lambda: embed(input=["x", "word " * 300])),
            "empty": client_error(lambda: embed(input="")),
            "many": client_error(lambda: embed(input=["x"] * 2049)),
            "dimensions": client_error(lambda: embed(dimensions=385)),
            "chat": client_error(
                lambda: client.chat.completions.create(model=given["encoder"], messages=QUESTION)
            ),
        },
        "batch": batch.model_dump(),
        "output": [json.loads(line) for line in output.splitlines()],
    }


class Verdict(BaseModel):
    """What the answer of `shaped` must be."""

    model_config = ConfigDict(extra="forbid")

    mood: Literal["好", "bad"]
    urgent: bool


def shaped(client: openai.OpenAI, given: Seen) -> Seen:
    """Forms of answers, several at once, their probabilities, and text that is gone on with."""

    def ask(**more: Any) -> Any:
        return client.chat.completions.create(
            **{"model": given["tuned"], "messages": QUESTION, "max_tokens": 12, "temperature": 1, **more}
        )

    chats = (
        client.chat.completions if hasattr(client.chat.completions, "parse") else client.beta.chat.completions
    )
    parsed = chats.parse(
        model=given["tuned"], messages=QUESTION, max_tokens=60, response_format=Verdict, seed=3
    )
    verdict = parsed.choices[0].message.parsed
    several = ask(n=3, seed=5, logprobs=True, top_logprobs=2)
    streamed = [chunk.model_dump() for chunk in ask(n=2, seed=5, stream=True)]
    chosen = ask(extra_body={"structured_outputs": {"choice": ["退款", "no refund"]}})
    text = client.completions.create(
        model=given["tuned"], prompt=["How long", "多久"], max_tokens=5, temperature=0, logprobs=1
    )
    pieces = client.completions.create(
        model=given["tuned"], prompt="How long", max_tokens=5, temperature=0, stream=True
    )
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objct"}}}
    return {
        "verdict": verdict.model_dump() if verdict else None,
        "several": several.model_dump(),
        "streamed": streamed,
        "chosen": chosen.choices[0].message.content,
        "text": text.model_dump(),
        "pieces": "".join(piece.choices[0].text for piece in pieces if piece.choices),
        "schema": client_error(lambda: ask(response_format=bad)),
        "many": client_error(lambda: ask(n=10**6)),
    }


class Refund(BaseModel):
    """What the answer of `tools` must call."""

    model_config = ConfigDict(extra="forbid")

    reason: Literal["broken", "迟到"]
    whole: bool


def tools(client: openai.OpenAI, given: Seen) -> Seen:
    """Calls of a tool by the client's own helpers, parsed at once and as they come, and the answer to its result."""
    chats = (
        client.chat.completions if hasattr(client.chat.completions, "parse") else client.beta.chat.completions
    )
    asked: Any = {
        "model": given["caller"],
        "messages": QUESTION,
        "tools": [openai.pydantic_function_tool(Refund, name="refund")],
        "tool_choice": {"type": "function", "function": {"name": "refund"}},
        "max_tokens": 120,
        "temperature": 1,
        "seed": 4,
    }
    choice = chats.parse(**asked).choices[0]
    (call,) = choice.message.tool_calls
    done: list[Any] = []
    with chats.stream(**asked) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.done":
                done.append((event.name, event.parsed_arguments.model_dump()))
        last = stream.get_final_completion().choices[0]
    dumped = call.model_dump(exclude={"function": {"parsed_arguments"}})
    spoken = {"role": "assistant", "content": None, "tool_calls": [dumped]}
    told = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    after = client.chat.completions.create(
        model=given["caller"], messages=[*QUESTION, spoken, told], max_tokens=4, temperature=0
    )
    without = client_error(lambda: client.chat.completions.create(**{**asked, "model": given["tuned"]}))
    return {
        "finish_reason": choice.finish_reason,
        "name": call.function.name,
        "arguments": call.function.parsed_arguments.model_dump(),
        "streamed": done,
        "last": (last.finish_reason, last.message.tool_calls[0].function.parsed_arguments.model_dump()),
        "after": after.choices[0].finish_reason,
        "without": without,
    }


def errors(client: openai.OpenAI, given: Seen) -> Seen:
    def chat_with(one: openai.OpenAI, **more: Any) -> Any:
        body: Any = {"model": given["tuned"], "messages": QUESTION, "max_tokens": 1, **more}
        return one.chat.completions.create(**body)

    limited = client.with_options(api_key=given["limited_key"], max_retries=0)
    stranger = client.with_options(api_key="sk-of-nobody")

    def too_often() -> None:
        for _ in range(20):
            limited.models.list()

    return {
        "model": client_error(lambda: chat_with(client, model="no-such-model")),
        "parameter": client_error(lambda: chat_with(client, temperature=9)),
        "unknown": client_error(lambda: chat_with(client, extra_body={"temprature": 1})),
        "stream": client_error(lambda: chat_with(client, model="no-such-model", stream=True)),
        "key": client_error(stranger.models.list),
        "often": client_error(too_often),
        "file": client_error(lambda: client.files.retrieve("file-none")),
        "role": client_error(lambda: client.get("/workers", cast_to=object)),
        "route": client_error(lambda: client.get("/no/such/route", cast_to=object)),
    }


def client_error(call: Callable[[], Any]) -> Seen | None:
    """What was raised, as a caller sees it; None when nothing was."""
    try:
        call()
    except openai.APIStatusError as exc:
        return {
            "class": type(exc).__name__,
            "status": exc.status_code,
            "type": exc.type,
            "code": exc.code,
            "param": exc.param,
            "message": exc.message,
            "request_id": exc.request_id,
            "trace_id": exc.response.headers.get("x-trace-id"),
        }
    except (openai.OpenAIError, ValueError) as exc:
        return {"class": type(exc).__name__, "message": str(exc)}
    return None


def main() -> None:
    given = json.load(sys.stdin)
    client = openai.OpenAI(base_url=given["base_url"], api_key=given["api_key"], timeout=120)
    seen: Seen = {"version": openai.__version__}
    for part in (
        files,
        file_content,
        models,
        chat,
        later,
        shaped,
        tools,
        vectors,
        errors,
        batches,
        fine_tuning,
    ):
        seen[part.__name__] = part(client, given)
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
