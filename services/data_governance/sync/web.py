"""HTTP for connectors: the one guarded transport, bounded answers, and patience with 429 and 5xx. Knows no shape."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from services.data_governance.sync.reach import Reach, SourceUnavailable
from services.data_governance.sync.watch import Watch
from shared.contracts.sources import HOSTS_SETTING
from shared.errors import InvalidInput
from shared.outbound import Forbidden
from shared.outbound_async import GuardedTransport

MAX_ANSWER = 64 * 1024 * 1024
SILENCE_S = 30.0
TRIES = 5
# A server that wants more patience than this is asked again by a later attempt of the job.
LONGEST_WAIT_S = 120.0

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and the body, empty where it went to a file."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Web:
    """One connection pool, used from one thread. `close` ends it. Redirects are answers."""

    def __init__(self, reach: Reach, watch: Watch) -> None:
        self._watch = watch
        self._runner = asyncio.Runner()
        transport = GuardedTransport(reach.hosts, setting=HOSTS_SETTING, connections=2, resolve=reach.resolve)
        self._client = httpx.AsyncClient(
            transport=transport, trust_env=False, timeout=SILENCE_S, headers={"user-agent": "heliu-sync/1"}
        )

    def close(self) -> None:
        try:
            self._runner.run(self._client.aclose())
        finally:
            self._runner.close()

    def get(self, url: str, headers: Callable[[], Mapping[str, str]]) -> Answer:
        """The answer, in memory. `headers` are made for each try, for a signature has its time.

        Raises Forbidden, InvalidInput for one of more than MAX_ANSWER bytes, SourceUnavailable when patience ends.
        """
        return self._patient(lambda: self._runner.run(self._get(url, headers())))

    def download(
        self, url: str, headers: Callable[[], Mapping[str, str]], target: Path
    ) -> tuple[Answer, str]:
        """The answer with its body in `target`, and the body's SHA-256."""
        digests: list[str] = []

        def once() -> Answer:
            answer, digest = self._runner.run(self._download(url, headers(), target))
            digests[:] = [digest]
            return answer

        return self._patient(once), digests[0]

    def _patient(self, ask: Callable[[], Answer]) -> Answer:
        waited = 0.0
        for attempt in range(1, TRIES + 1):
            self._watch.check()
            try:
                answer = ask()
            except httpx.TransportError as exc:
                what, pause = f"did not answer: {exc or type(exc).__name__}", random.uniform(0, 2.0**attempt)
            else:
                if answer.status != 429 and answer.status < 500:
                    return answer
                what = f"answered {answer.status}"
                pause = _retry_after(answer.headers) or random.uniform(0, 2.0**attempt)
            waited += pause
            if attempt == TRIES or waited > LONGEST_WAIT_S:
                raise SourceUnavailable(f"the server {what}, {attempt} times in a row")
            self._watch.pause(pause)
        raise AssertionError("unreachable")

    async def _get(self, url: str, headers: Mapping[str, str]) -> Answer:
        async with self._asked(url, headers) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ANSWER:
                    raise InvalidInput(
                        f"one answer has more than {MAX_ANSWER} bytes; ask for smaller pages",
                        code="answer_too_large",
                    )
            return Answer(response.status_code, response.headers, bytes(body))

    async def _download(self, url: str, headers: Mapping[str, str], target: Path) -> tuple[Answer, str]:
        digest = hashlib.sha256()
        async with self._asked(url, headers) as response:
            with target.open("wb") as out:
                # As it was stored: a content encoding is the object's own affair.
                async for part in response.aiter_raw():
                    digest.update(part)
                    out.write(part)
            return Answer(response.status_code, response.headers, b""), digest.hexdigest()

    @asynccontextmanager
    async def _asked(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        try:
            async with self._client.stream("GET", url, headers=headers) as response:
                yield response
        except Forbidden as exc:
            raise Forbidden(exc.message, param="connection.url") from exc
        except httpx.DecodingError as exc:
            raise InvalidInput("the answer's content encoding is damaged", code="damaged_file") from exc


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: RFC 9110 has a number of them or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
