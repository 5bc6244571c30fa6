"""The guard of httpx: what is asked, at which address, and what is refused before any connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.outbound import Forbidden
from shared.outbound_async import GuardedTransport
from tests.local_hub import COMMIT, LocalHub, local_hub, make_certificate
from tests.local_upstream import LocalUpstream, local_upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[LocalUpstream]:
    with local_upstream() as running:
        yield running


class Resolver:
    """Answers with other addresses each time that it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self._answers.pop(0)


def get(url: str, transport: GuardedTransport) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
            return await http.get(url)

    return asyncio.run(ask())


def guard(
    resolve: Resolver, listed: list[tuple[str, int]], tls: ssl.SSLContext | None = None
) -> GuardedTransport:
    return GuardedTransport(listed, setting="HELIU_UPSTREAM_HOSTS", resolve=resolve, tls=tls)


def test_a_listed_host_is_asked_by_its_name_at_the_judged_address(upstream: LocalUpstream) -> None:
    resolve = Resolver(["127.0.0.1"])
    answer = get(f"http://gpu.cluster:{upstream.port}/v1/models", guard(resolve, [("gpu.cluster", 0)]))
    assert answer.status_code == 200
    assert upstream.asked[-1]["headers"]["host"] == f"gpu.cluster:{upstream.port}"
    assert resolve.asked == 1


@pytest.mark.parametrize(
    ("url", "listed", "addresses", "words"),
    [
        ("http://gpu.cluster/v1", [], ["127.0.0.1"], "only asked over https"),
        ("http://gpu.cluster/v1", [("gpu.cluster", 8000)], ["127.0.0.1"], "only asked over https"),
        ("http://8.8.8.8/v1", [("gpu.cluster", 0)], ["8.8.8.8"], "only asked over https"),
        ("https://gpu.cluster/v1", [("cluster", 0)], ["10.0.0.1"], "at 10.0.0.1"),
        ("https://gpu.cluster/v1", [], ["8.8.8.8", "192.168.0.1"], "at 192.168.0.1"),
        ("https://gpu.cluster/v1", [], ["::ffff:127.0.0.1"], "does not talk to"),
        ("http://gpu.cluster/v1", [("gpu.cluster", 0)], ["169.254.169.254"], "169.254.169.254"),
        ("ftp://gpu.cluster/v1", [("gpu.cluster", 0)], ["127.0.0.1"], "https:// or http://"),
    ],
)
def test_whatever_else_is_refused(
    url: str, listed: list[tuple[str, int]], addresses: list[str], words: str
) -> None:
    with pytest.raises((Forbidden, httpx.UnsupportedProtocol), match=words):
        get(url, guard(Resolver(addresses), listed))


def test_a_name_that_nobody_knows_is_a_failed_connection() -> None:
    class Nobody(Resolver):
        def __call__(self, host: str, port: int) -> list[str]:
            raise OSError("no such host")

    with pytest.raises(httpx.ConnectError, match="cannot be resolved"):
        get("https://nowhere.test/v1", guard(Nobody(), []))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalHub, Path]]:
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    with local_hub(certificate, {"a": b"content"}) as running:
        yield running, certificate


def test_a_certificate_is_held_against_the_name_and_not_the_address(hub: tuple[LocalHub, Path]) -> None:
    running, certificate = hub
    tls = ssl.create_default_context(cafile=str(certificate))
    path = f"/acme/tiny/resolve/{COMMIT}/a"
    good = guard(Resolver(["127.0.0.1"]), [("localhost", 0)], tls)
    assert get(running.url + path, good).content == b"content"
    other = guard(Resolver(["127.0.0.1"]), [("another.test", 0)], tls)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        get(running.url.replace("localhost", "another.test") + path, other)
