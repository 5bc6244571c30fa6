"""An HTTP client of the gateway for the verbs: finds address and key, turns error bodies into HeliuError."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from deploy import local
from services.cli.lifecycle import home
from shared.errors import ConfigurationError, HeliuError, InvalidInput, Unavailable

# How often in a row a stream that broke is taken up again, and the pause before it, longer each time.
TRIES, PAUSE_S = 6, 0.5

ENDED = frozenset({"succeeded", "failed", "dead", "cancelled", "expired"})


class Client:
    """One connection pool on a gateway. `traceparent`, when set, goes with every request but the polls."""

    def __init__(self, base_url: str, key: str, *, timeout: float = 120.0) -> None:
        self.base_url = base_url.rstrip("/")
        self.traceparent: str | None = None
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError("HELIU_API_KEY holds characters that no key has", param="HELIU_API_KEY")
        try:
            self._http = httpx.Client(
                base_url=self.base_url,
                headers={"authorization": f"Bearer {key}"},
                timeout=httpx.Timeout(timeout, connect=5.0),
                trust_env=False,
            )
        except httpx.InvalidURL as exc:
            raise ConfigurationError(
                f"HELIU_GATEWAY_URL {base_url!r} is no address: {exc}", param="HELIU_GATEWAY_URL"
            ) from exc

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self.request("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.request("POST", path, json=body if body is not None else {})

    def delete(self, path: str) -> dict[str, Any]:
        return self.request("DELETE", path)

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The answer's JSON. Raises HeliuError with the gateway's code, Unavailable when nobody answers."""
        with self._send(method, path, **options) as response:
            response.read()
            answer = _object(response)
            if answer is None:
                raise self._stranger(response)
            return answer

    def upload(self, path: Path, purpose: str, *, filename: str | None = None) -> dict[str, Any]:
        """Send a file, streamed; returns the file object."""
        with path.open("rb") as source:
            files = {"file": (filename or path.name, source)}
            return self.request("POST", "/v1/files", data={"purpose": purpose}, files=files)

    def download(self, path: str) -> Iterator[bytes]:
        """The bytes of a file's content, as they come."""
        with self._send("GET", path) as response:
            yield from response.iter_bytes()

    def stream(
        self, path: str, body: dict[str, Any], *, on_headers: Callable[[httpx.Headers], None]
    ) -> Iterator[Any]:
        """The JSON objects of a server-sent stream, up to `[DONE]`. Raises HeliuError for an error object."""
        with self._send("POST", path, json=body) as response:
            on_headers(response.headers)
            try:
                for _, chunk in _chunks(response):
                    yield chunk
            except _Broken as exc:
                raise Unavailable("the stream broke off before its end") from exc

    def follow(self, path: str) -> Iterator[Any]:
        """The same of a stream that can be taken up again: a connection that breaks is made anew, behind what came.

        Raises Unavailable when it cannot be made TRIES times in a row.
        """
        last, failed = "", 0
        while True:
            headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
            try:
                with self._send("GET", path, headers=headers) as response:
                    for name, chunk in _chunks(response):
                        last, failed = name or last, 0
                        yield chunk
                    return
            except (_Broken, httpx.TransportError, HeliuError) as exc:
                told = isinstance(exc, HeliuError) and not isinstance(exc, Unavailable)
                if told and exc.code != "gateway_stopping":  # type: ignore[union-attr]
                    raise
                failed += 1
                if failed == TRIES:
                    raise Unavailable(f"the stream broke off, and {self.base_url} does not answer") from exc
                time.sleep(PAUSE_S * failed)

    def wait_job(
        self,
        job_id: str,
        on_update: Callable[[dict[str, Any]], None] = lambda _: None,
        *,
        poll_s: float = 0.4,
    ) -> dict[str, Any]:
        """The job once it has ended; `on_update` sees it on the way."""
        while True:
            job = self.request("GET", path_of("jobs", job_id), traced=False)
            on_update(job)
            if job["status"] in ENDED:
                return job
            time.sleep(poll_s)

    def close(self) -> None:
        self._http.close()

    def _stranger(self, response: httpx.Response) -> HeliuError:
        return Unavailable(
            f"{self.base_url} answered {response.status_code} with something else than the gateway's JSON; "
            "is HELIU_GATEWAY_URL the gateway's address?"
        )

    def _send(self, method: str, path: str, *, traced: bool = True, **options: Any) -> Any:
        return _Response(self._http, method, path, self.traceparent if traced else None, options)


class _Response:
    """A streamed response whose error statuses are raised as HeliuError."""

    def __init__(
        self, http: httpx.Client, method: str, path: str, traceparent: str | None, options: dict[str, Any]
    ) -> None:
        headers = {**options.pop("headers", {}), **({"traceparent": traceparent} if traceparent else {})}
        self._base_url = http.base_url
        self._context = http.stream(method, path, headers=headers, **options)

    def __enter__(self) -> httpx.Response:
        try:
            response = self._context.__enter__()
        except httpx.TransportError as exc:
            raise Unavailable(
                f"the gateway at {self._base_url} does not answer ({exc}); `heliu status` shows what runs"
            ) from exc
        if response.status_code >= 400:
            response.read()
            self._context.__exit__(None, None, None)
            raise _error(_object(response) or {}, response)
        return response

    def __exit__(self, *problem: Any) -> None:
        self._context.__exit__(*problem)


class _Broken(Exception):
    """A stream that ended without its last mark."""


def _chunks(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """(id, JSON object) of a server-sent stream, up to `[DONE]`. Raises HeliuError for an error object."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("id:"):
            name = line.removeprefix("id:").strip()
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise _error(chunk, response)
        yield name, chunk
    raise _Broken


def path_of(*parts: str) -> str:
    """`/v1/jobs/ID` of its parts: an id is one part of the path whatever it holds. Raises InvalidInput."""
    if not all(parts):
        raise InvalidInput("an empty text is no id")
    # The library would walk up on these two; as an escape they are an id like any other.
    quoted = (
        quote(part, safe="").replace(".", "%2E") if part in (".", "..") else quote(part, safe="")
        for part in parts
    )
    return "/v1/" + "/".join(quoted)


def _object(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON object of an answer that has been read; None for anything else."""
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _error(body: dict[str, Any], response: httpx.Response) -> HeliuError:
    """The gateway's own error, or its like for an answer in another shape: a proxy's, a stranger's."""
    error = body.get("error")
    if not isinstance(error, dict) or "message" not in error:
        error = {"message": f"HTTP {response.status_code} from {response.request.url.host}"}
    trace = response.headers.get("x-trace-id")
    message = f"{error['message']} (trace {trace})" if trace else str(error["message"])
    return HeliuError(message, code=error.get("code") or "internal_error", param=error.get("param"))


def connect(*, operator: bool = False) -> Client:
    """A client of the gateway that HELIU_GATEWAY_URL names, or else of the one that runs on this machine.

    The key is HELIU_API_KEY, or else the one in HELIU_HOME/keys.
    """
    url = os.environ.get("HELIU_GATEWAY_URL") or _local_address()
    key = os.environ.get("HELIU_API_KEY") or _local_key("operator" if operator else "default")
    return Client(url, key)


def _local_address() -> str:
    status = local.status(home())
    if not status.gateway:
        raise HeliuError("nothing runs here; start it with `heliu up`", code="not_running")
    return status.gateway


def _local_key(name: str) -> str:
    path = home() / "keys" / f"{name}.json"
    try:
        return str(json.loads(path.read_text())["key"])
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"no API key: {path} is not there; set HELIU_API_KEY, or start the platform here with `heliu up`"
        ) from exc
