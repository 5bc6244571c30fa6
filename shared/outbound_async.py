"""The guard of `shared.outbound` for httpx on an event loop: for servers that an operator names.

Public addresses over https pass. A host that the operator has listed may have a private address, or speak plain http;
link-local, multicast and metadata addresses never pass.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from functools import partial

import httpx

from shared.errors import Unavailable
from shared.outbound import Forbidden, Resolve, check_url, judged, resolve_host

CONNECT_S = 10.0

Hosts = Iterable[tuple[str, int]]


class GuardedTransport(httpx.AsyncBaseTransport):
    """Resolves a name once, judges every address that it has, and connects to one of these alone.

    `listed` are hosts and ports, port 0 for any; `setting` is where the operator lists them.
    """

    def __init__(
        self,
        listed: Hosts,
        *,
        setting: str,
        connections: int = 100,
        resolve: Resolve = resolve_host,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listed = frozenset(listed)
        self._setting = setting
        self._resolve = resolve
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls or ssl.create_default_context(),
            trust_env=False,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises Forbidden for an address that may not be, httpx.TransportError as httpx does."""
        url = request.url
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
        self.check(str(url))
        addresses = await self._judged(host, port)
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            # https checks the certificate against the name, whatever address is connected to.
            asked = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(asked)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if last == 0:
                    raise
        raise AssertionError("no address")

    def check(self, url: str) -> None:
        """Raise Forbidden for what the text of a URL shows to be wrong."""
        parts = check_url(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme != "https" and not self._is_listed(host, port):
            raise Forbidden(
                f"{host} is only asked over https, so that no key goes out in the clear; hosts of your own cluster "
                f"can be listed in {self._setting}"
            )

    async def _judged(self, host: str, port: int) -> list[str]:
        judge = partial(
            judged,
            host,
            port,
            listed=self._is_listed(host, port),
            setting=self._setting,
            resolve=self._resolve,
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                return await asyncio.to_thread(judge)
        except TimeoutError as exc:
            raise httpx.ConnectError(f"the name {host} cannot be resolved") from exc
        except Unavailable as exc:
            raise httpx.ConnectError(exc.message) from exc

    def _is_listed(self, host: str, port: int) -> bool:
        return (host, port) in self._listed or (host, 0) in self._listed

    async def aclose(self) -> None:
        await self._inner.aclose()
