"""A real HTTP server that speaks OpenAI's API and answers as it is told: well, or badly.

In a process of its own (`python -m tests.local_upstream`, one line of JSON with its port on stdout), or on threads of
the test (`local_upstream()`). The last user message, prompt or first text is an order of words: `429 2` answers 429
twice and then well, `later` (429, an hour's wait), `500`, `400 top_k`, `401`, `cut` (two chunks, then the connection
closes), `cut-early`, `silence` (headers and nothing more), `mute` (not even these), `garbage` (an event that is no
JSON), `json` (a stream's answer in one piece), `lies` (JSON of another shape), `error` (an error event after a token),
`endless` (tokens until the client goes), `nousage`, `nologprobs`, `call` (two calls of tools), `leak` (an error that
repeats the key). Anything else is echoed, word by word.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "remote-model"


class LocalUpstream:
    """`asked` are the requests that came: path, headers and body of each; `gone` counts clients that left midway,
    which `GET /counts` tells too."""

    def __init__(self, *, key: str | None = None, port: int = 0) -> None:
        self.key = key
        self.asked: list[dict[str, Any]] = []
        self.tries: Counter[str] = Counter()
        self.gone = threading.Semaphore(0)
        self.left = 0
        self.most_at_once = self._at_once = 0
        self.hold = threading.Event()
        self.hold.set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/counts":
                    upstream.send(self, 200, {"asked": len(upstream.asked), "gone": upstream.left})
                    return
                upstream.record(self, None)
                if upstream.refuses(self):
                    return
                models = [{"id": MODEL, "object": "model", "max_model_len": 4096}]
                upstream.send(self, 200, {"object": "list", "data": models})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                upstream.record(self, body)
                if upstream.refuses(self):
                    return
                with upstream.counted():
                    upstream.hold.wait(30)
                    try:
                        upstream.answer(self, body)
                    except (BrokenPipeError, ConnectionResetError):
                        upstream.left += 1
                        upstream.gone.release()
                        self.close_connection = True

            def log_message(self, *_: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def record(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self.asked.append({"path": handler.path, "headers": headers, "body": body})

    def refuses(self, handler: BaseHTTPRequestHandler) -> bool:
        good = self.key is None or handler.headers["authorization"] == f"Bearer {self.key}"
        if not good:
            self.send(handler, 401, {"error": {"message": f"wrong key {handler.headers['authorization']}"}})
        return not good

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def send(self, handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        order = _order(body)
        word, _, rest = order.partition(" ")
        with self._lock:
            self.tries[order] += 1
            tries = self.tries[order]
        if word.isdigit() and len(word) == 3:
            times = int(rest) if rest.isdigit() else 1_000_000
            if tries <= times:
                error: dict[str, Any] = {
                    "message": f"told to answer {word}",
                    "type": "error",
                    "code": int(word),
                }
                error |= {"param": rest} if rest and not rest.isdigit() else {}
                retry = {"retry_after": "0"} if word in ("429", "503") else {}
                self.send(handler, int(word), {"error": error}, **retry)
                return
        if word == "later":
            self.send(handler, 429, {"error": {"message": "come back"}}, retry_after="3600")
            return
        if word == "leak":
            error = {"message": f"the header was {handler.headers['authorization']}", "code": 500}
            self.send(handler, 500, {"error": error})
            return
        if word == "mute":
            self._wait_for_the_end(handler)
            return
        if word == "lies":
            self.send(handler, 200, {"choices": "none", "data": {}})
            return
        if handler.path.endswith("/embeddings"):
            self.send(handler, 200, _embeddings(body))
        elif body.get("stream") and word != "json":
            self._stream(handler, body, word, order, tries)
        else:
            self.send(handler, 200, _whole(handler.path, body, order))

    def _stream(
        self, handler: BaseHTTPRequestHandler, body: dict[str, Any], word: str, order: str, tries: int
    ) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        if word == "silence":
            self._wait_for_the_end(handler)
            return
        if word == "cut-early" and tries == 1:
            return
        if word == "garbage":
            handler.wfile.write(b"data: {not json}\n\n")
            return
        pieces = ["more "] * 1_000_000 if word == "endless" else _pieces(order)
        for number, piece in enumerate(pieces):
            for index in range(body.get("n", 1) * _prompts(body)):
                _event(handler, _chunk(handler.path, body, index, piece))
            if word in ("cut", "error") and number == 1:
                break
            if word == "endless":
                time.sleep(0.01)
        if word == "cut":
            return
        if word == "error":
            _event(
                handler, {"error": {"message": "the engine has died", "type": "server_error", "code": 500}}
            )
            return
        for index in range(body.get("n", 1) * _prompts(body)):
            for chunk in _calls(index) if word == "call" else ():
                _event(handler, chunk)
            reason = "tool_calls" if word == "call" else "stop"
            _event(handler, _chunk(handler.path, body, index, "", reason))
        if word != "nousage" and body.get("stream_options", {}).get("include_usage"):
            _event(handler, {"choices": [], "model": MODEL, "usage": _usage(body, order)})
        handler.wfile.write(b"data: [DONE]\n\n")

    def _wait_for_the_end(self, handler: BaseHTTPRequestHandler) -> None:
        """Say nothing until the client has gone."""
        handler.connection.settimeout(0.05)
        while not self._closing.is_set():
            try:
                if not handler.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionResetError
            except TimeoutError:
                continue


def _order(body: dict[str, Any]) -> str:
    given = body["messages"][-1]["content"] if "messages" in body else body.get("prompt", body.get("input"))
    while isinstance(given, list):
        given = given[0] if given else ""
    return str(given)


def _prompts(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _pieces(order: str) -> list[str]:
    words = order.split(" ")
    return [f"{word} " for word in words[:-1]] + [words[-1]]


def _usage(body: dict[str, Any], order: str) -> dict[str, Any]:
    choices = body.get("n", 1) * _prompts(body)
    answered, asked = len(_pieces(order)) * choices, 7 * _prompts(body)
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _logprobs(body: dict[str, Any], path: str, piece: str) -> Any:
    if not body.get("logprobs") or not piece or _order(body) == "nologprobs":
        return None
    if path.endswith("/chat/completions"):
        one = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
        return {"content": [{**one, "top_logprobs": [one] * body.get("top_logprobs", 0)}]}
    return {"tokens": [piece], "token_logprobs": [-0.5], "top_logprobs": [{piece: -0.5}], "text_offset": [0]}


def _chunk(
    path: str, body: dict[str, Any], index: int, piece: str, reason: str | None = None
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": reason}
    choice["logprobs"] = _logprobs(body, path, piece)
    chat = path.endswith("/chat/completions")
    choice |= {"delta": {"role": "assistant", "content": piece}} if chat else {"text": piece}
    return {"id": "x", "object": "chunk", "created": 1, "model": MODEL, "choices": [choice]}


def _calls(index: int) -> list[dict[str, Any]]:
    """Two calls, in parts, as vLLM sends them."""
    parts = []
    for number, name in enumerate(("first", "second")):
        begin = {"index": number, "id": f"call-{number}", "type": "function"}
        parts.append({**begin, "function": {"name": name, "arguments": ""}})
        parts += [{"index": number, "function": {"arguments": text}} for text in ('{"x": ', f"{number}}}")]
    return [{"choices": [{"index": index, "delta": {"tool_calls": [part]}}]} for part in parts]


def _whole(path: str, body: dict[str, Any], order: str) -> dict[str, Any]:
    chat = path.endswith("/chat/completions")
    choices = []
    for index in range(body.get("n", 1) * _prompts(body)):
        said = {"message": {"role": "assistant", "content": order}} if chat else {"text": order}
        logprobs = _logprobs(body, path, order)
        choices.append({"index": index, "finish_reason": "stop", "logprobs": logprobs, **said})
    return {"id": "x", "model": MODEL, "choices": choices, "usage": _usage(body, order)}


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    given = body["input"]
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.5, -1.25]}
        for index, text in enumerate(given)
    ]
    usage = {"prompt_tokens": 3 * len(given), "total_tokens": 3 * len(given)}
    # Not in order, as the API allows.
    return {"object": "list", "model": MODEL, "data": data[::-1], "usage": usage}


def _event(handler: BaseHTTPRequestHandler, data: Any) -> None:
    handler.wfile.write(f"data: {json.dumps(data)}\n\n".encode())


@contextmanager
def local_upstream(**options: Any) -> Iterator[LocalUpstream]:
    upstream = LocalUpstream(**options)
    try:
        yield upstream
    finally:
        upstream.close()


def main() -> int:
    """Serve until stdin closes."""
    with local_upstream(key=sys.argv[1] if len(sys.argv) > 1 else None) as upstream:
        print(json.dumps({"port": upstream.port}), flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
