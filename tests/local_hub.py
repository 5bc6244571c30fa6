"""A hub on loopback that speaks what an import needs: TLS, the description of a repository, redirects to its files."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "a" * 40


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for `localhost`, key and all in one file."""
    both = folder / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


class LocalHub:
    """`files` of the one repository `acme/tiny`; `asked` are the paths that were asked for, with their token.

    Files of `large` bytes or more are kept as LFS has them, and come from /cdn by a redirect.
    """

    def __init__(self, certificate: Path, files: dict[str, bytes], *, large: int = 10_000) -> None:
        self.files = files
        self.asked: list[tuple[str, str | None]] = []
        # What it says in the place of the truth, by path: a description's changes, a body, a redirect.
        self.lies: dict[str, dict[str, Any]] = {}
        self.bodies: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self._large = large
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append((self.path, self.headers["authorization"]))
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path in self.redirects:
            return 302, {"Location": self.redirects[path]}, b""
        if path.startswith("/api/models/acme/tiny/revision/"):
            told = {"id": "acme/tiny", "sha": COMMIT, "siblings": [self._describe(n) for n in self.files]}
            return 200, {}, json.dumps(told).encode()
        _, kind, *rest = path.split("/")
        name = "/".join(rest[3:]) if kind == "acme" else "/".join(rest)
        if name not in self.files or (kind == "acme" and rest[1:3] != ["resolve", COMMIT]):
            return 404, {}, b""
        if kind == "acme" and len(self.files[name]) >= self._large:
            return 302, {"Location": f"/cdn/{name}"}, b""
        return 200, {}, self.bodies.get(name, self.files[name])

    def _describe(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        told: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if len(content) >= self._large:
            sha256 = hashlib.sha256(content).hexdigest()
            told |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": len(content), "pointerSize": 130}}
        else:
            told["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return told | self.lies.get(name, {})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextmanager
def local_hub(certificate: Path, files: dict[str, bytes]) -> Iterator[LocalHub]:
    hub = LocalHub(certificate, files)
    try:
        yield hub
    finally:
        hub.close()
