"""A server that speaks S3 (moto's, over HTTP on a free port), with a place to get in its way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from shared.artifacts import S3ArtifactStore, bucket
from shared.artifacts.bucket import PART_BYTES, Bucket, Place
from shared.artifacts.cache import ObjectCache

KEY, SECRET = "AKIAEXAMPLE", "a-secret-of-these-tests"
BUCKET = "heliu"


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Nothing: a test says what it looks at."""


class S3Server:
    """`before` hears of each request (method, path) and may answer it in the server's place with a status."""

    def __init__(self) -> None:
        self.before: Callable[[str, str], int | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self._one_step = threading.Lock()
        self._clients: dict[int, Bucket] = {}
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3", daemon=True)
        self._thread.start()
        self.client = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )
        self.client.create_bucket(Bucket=BUCKET)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        status = self.before(method, path)
        if status is None:
            # S3 looks and writes in one step where a write has a condition; moto in two.
            with self._one_step if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
                answered: Iterable[bytes] = self._app(environ, start)
            return answered
        # Read it first: a connection that is cut while a body comes is another fault.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(f"{status} Fault", [("Content-Type", "application/xml")])
        code = {403: "AccessDenied"}.get(status, "SlowDown")
        return [f"<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>".encode()]

    def keys(self, prefix: str = "") -> list[str]:
        told = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for one in told.get("Contents", ())]

    @property
    def settings(self) -> dict[str, str]:
        """What a process of the platform is given to use it."""
        return {
            "HELIU_ARTIFACTS": f"s3://{BUCKET}/artifacts",
            "HELIU_S3_ENDPOINT": self.endpoint,
            "HELIU_S3_ACCESS_KEY_ID": KEY,
            "HELIU_S3_SECRET_ACCESS_KEY": SECRET,
        }

    def store(
        self,
        home: Path,
        *,
        prefix: str = "artifacts/",
        part_bytes: int = PART_BYTES,
        cache_bytes: int = 1 << 30,
    ) -> S3ArtifactStore:
        """A store on it with a cache of its own under `home`."""
        cache = ObjectCache(home / "cache", cache_bytes)
        return S3ArtifactStore(self._bucket(prefix, part_bytes), cache, home / "shared", shares_folder=False)

    def _bucket(self, prefix: str, part_bytes: int) -> Bucket:
        """With the one client that all have here: botocore takes a tenth of a second to make one."""
        attempts = bucket.ATTEMPTS
        if attempts not in self._clients:
            self._clients[attempts] = Bucket(Place(BUCKET, "", self.endpoint, "us-east-1", KEY, SECRET))
        made = copy(self._clients[attempts])
        made.place = replace(made.place, prefix=prefix)
        made._part_bytes = part_bytes
        return made

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.close()
