"""The test of an upstream: what stands there, and how what is wrong with it is told."""

from __future__ import annotations

import asyncio
import json

import pytest

from services.gateway.models import probe
from services.gateway.models.probe import Probed, ProbeFailed
from shared.errors import HeliuError

KEY = "sk-the-key-that-is-told-to-nobody"


def ask(answer: bytes | None, key: str | None = KEY) -> Probed:
    """Probe a server that gives this whole HTTP answer, or none at all."""

    async def run() -> Probed:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await probe.probe(f"http://127.0.0.1:{port}/v1", "m", key, [("127.0.0.1", 0)])

    return asyncio.run(run())


def http(status: int, body: object, headers: str = "") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(raw)}\r\n{headers}\r\n".encode() + raw


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"id": "m", "max_model_len": 4096}, 4096),
        ({"id": "m", "info": {"context_length": 512}}, 512),
        ({"id": "m", "info": None}, None),
        ({"id": "m", "max_model_len": "long"}, None),
    ],
)
def test_the_length_is_what_the_server_says_of_the_model(row: dict[str, object], context: int | None) -> None:
    assert ask(http(200, {"data": [{"id": "other"}, row]})) == Probed(("other", "m"), context)


@pytest.mark.parametrize(
    ("answer", "param", "words"),
    [
        (http(401, {}), "api_key", "refuses the key"),
        (http(404, {"detail": "Not Found"}), "url", "mostly ends with /v1"),
        (http(302, b"", "location: http://127.0.0.1/\r\n"), "url", "a redirect"),
        (http(500, f"the key was {KEY}".encode()), "url", r"answered 500: the key was \[redacted\]"),
        (http(200, b"<html>hello</html>"), "url", "no list of models"),
        (http(200, {"data": ["m"]}), "url", "no list of models"),
        (http(200, {"data": [{"id": f"m{n}"} for n in range(20)]}), "model", "it lists m0, m1, .*, ..."),
        (http(200, {"data": []}), "model", "it lists none"),
        (http(200, b"x" * 100)[:-50], "url", "did not answer: peer closed"),
        (b"SSH-2.0-OpenSSH\r\n", "url", "did not answer"),
        (None, "url", "not answer within"),
    ],
)
def test_what_is_wrong_is_told_in_words(
    answer: bytes | None, param: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        monkeypatch.setattr(probe, "TIMEOUT_S", 0.2)
    with pytest.raises(ProbeFailed, match=words) as caught:
        ask(answer)
    assert caught.value.param == param
    assert KEY not in caught.value.message


def test_a_missing_key_is_asked_for() -> None:
    with pytest.raises(HeliuError, match="wants a key"):
        ask(http(403, {}), key=None)
