"""The one client that talks to addresses which a tenant names. Knows no SQL and nothing of webhooks and hubs.

A name is resolved once, every address that it has is judged, and the connection goes to the judged address, so that
a second answer of the resolver changes nothing. Redirects are answers, not orders; proxies are not asked.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from shared.errors import InvalidInput, Unavailable

MAX_URL = 2048
MAX_RESPONSE = 64 * 1024

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]

# Where clouds hand out credentials; refused even where private addresses are allowed.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(InvalidInput):
    """An address that the platform does not talk to."""

    code = "address_forbidden"


@dataclass(frozen=True)
class Response:
    """Status and the beginning of the body, at most MAX_RESPONSE bytes."""

    status: int
    body: bytes


class Download:
    """An answer whose body is read as it comes."""

    def __init__(self, answer: http.client.HTTPResponse, host: str) -> None:
        self.status = answer.status
        self._answer = answer
        self._host = host

    def header(self, name: str) -> str | None:
        return self._answer.getheader(name)

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, none at the end. Raises Unavailable when the peer falls silent or breaks off."""
        try:
            return self._answer.read(size)
        except (OSError, http.client.HTTPException) as exc:
            raise _silent(self._host, str(exc) or type(exc).__name__) from exc


class OutboundClient:
    """Thread-safe. `timeout_s` bounds a whole POST, from the connection to the last byte read, and of a GET each
    silence. `setting` is what an operator can allow private addresses with."""

    def __init__(
        self,
        *,
        timeout_s: float,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        setting: str = "HELIU_WEBHOOK_ALLOW_PRIVATE",
    ) -> None:
        self.timeout_s = timeout_s
        self._setting = setting
        self._allow_private = allow_private
        self._resolve = resolve or resolve_host
        self._tls = tls or ssl.create_default_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST `body`. Raises Forbidden for an address that may not be, Unavailable when it does not answer."""
        parts = check_url(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        addresses = self._judged(host, port)
        deadline = time.monotonic() + self.timeout_s
        sockets: list[socket.socket] = []
        # A socket's time-out starts anew with every byte; this one does not.
        watch = threading.Timer(self.timeout_s, _cut, (sockets,))
        watch.daemon = True
        watch.start()
        try:
            sockets.append(_connect(addresses, port, deadline))
            if parts.scheme == "https":
                sockets.append(
                    self._tls.wrap_socket(sockets[0], server_hostname=host, do_handshake_on_connect=False)
                )
            return _exchange(sockets[-1], parts, body, headers)
        except (OSError, http.client.HTTPException) as exc:
            late = time.monotonic() >= deadline
            reason = f"not within {self.timeout_s:g} s" if late else str(exc) or type(exc).__name__
            raise _silent(host, reason) from exc
        finally:
            watch.cancel()
            for one in sockets:
                one.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[Download]:
        """GET over https, the body as it comes. Raises Forbidden for an address that may not be or for plain http,
        Unavailable when it does not answer."""
        parts = check_url(url)
        if parts.scheme != "https":
            raise Forbidden(f"{parts.hostname} is only asked over https")
        host, port = parts.hostname or "", parts.port or 443
        addresses = self._judged(host, port)
        try:
            plain = _connect(addresses, port, time.monotonic() + self.timeout_s)
        except OSError as exc:
            raise _silent(host, str(exc) or type(exc).__name__) from exc
        with plain:
            plain.settimeout(self.timeout_s)
            try:
                secure = self._tls.wrap_socket(plain, server_hostname=host)
                connection = _request(secure, parts, "GET", None, headers)
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException) as exc:
                raise _silent(host, str(exc) or type(exc).__name__) from exc
            with secure, answer:
                yield Download(answer, host)

    def _judged(self, host: str, port: int) -> list[str]:
        try:
            found = [ipaddress.ip_address(text) for text in self._resolve(host, port)]
        except (OSError, UnicodeError) as exc:
            raise Unavailable(f"the name {host} cannot be resolved", code="receiver_unavailable") from exc
        if not found:
            raise Unavailable(f"the name {host} has no address", code="receiver_unavailable")
        for address in found:
            check_address(address, allow_private=self._allow_private, setting=self._setting)
        return [str(address) for address in found]


def judged(host: str, port: int, *, listed: bool, setting: str, resolve: Resolve | None = None) -> list[str]:
    """Every address of a host, all of which may be talked to. A host that the operator `listed` under `setting` may
    have private ones. Raises Forbidden, and Unavailable where the name has none."""
    try:
        found = [ipaddress.ip_address(text) for text in (resolve or resolve_host)(host, port)]
    except (OSError, ValueError) as exc:
        raise Unavailable(f"the name {host} cannot be resolved", code="receiver_unavailable") from exc
    if not found:
        raise Unavailable(f"the name {host} has no address", code="receiver_unavailable")
    for address in found:
        try:
            check_address(address, allow_private=listed)
        except Forbidden as exc:
            raise Forbidden(
                f"the platform does not talk to {host} at {address}; public addresses are allowed, and the "
                f"private ones of hosts that the operator lists in {setting}"
            ) from exc
    return [str(address) for address in found]


def connect(addresses: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    """A connection to the first of some judged addresses that takes one. Raises OSError."""
    return _connect(addresses, port, time.monotonic() + timeout_s)


def _connect(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first of the addresses that takes one."""
    for last, address in enumerate(addresses, start=1 - len(addresses)):
        try:
            return socket.create_connection((address, port), max(0.001, deadline - time.monotonic()))
        except OSError:
            if last == 0:
                raise
    raise AssertionError("no address")


def _exchange(sock: socket.socket, parts: SplitResult, body: bytes, headers: Mapping[str, str]) -> Response:
    """One request on an open socket. http.client frames it and never opens a connection of its own."""
    if isinstance(sock, ssl.SSLSocket):
        sock.do_handshake()
    with _request(sock, parts, "POST", body, headers).getresponse() as answer:
        return Response(answer.status, answer.read(MAX_RESPONSE))


def _request(
    sock: socket.socket, parts: SplitResult, method: str, body: bytes | None, headers: Mapping[str, str]
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(parts.hostname or "")
    connection.auto_open = 0
    connection.sock = sock
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    connection.request(method, path, body, {**headers, "Host": _host_header(parts), "Connection": "close"})
    return connection


def _silent(host: str, reason: str) -> Unavailable:
    return Unavailable(f"{host} did not answer: {reason}", code="receiver_unavailable")


def check_url(url: str) -> SplitResult:
    """The parts of a URL that may be talked to as far as its text shows. Raises Forbidden."""
    if len(url) > MAX_URL or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise Forbidden(
            "a URL is at most 2,048 printable ASCII characters (internationalised names in punycode)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise Forbidden(f"not a URL: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Forbidden("a URL starts with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise Forbidden("a URL must not carry a user or password")
    return parts


def check_address(
    address: Address, *, allow_private: bool, setting: str = "HELIU_WEBHOOK_ALLOW_PRIVATE"
) -> None:
    """Raise Forbidden unless the address, and whatever IPv4 address hides in it, is one of the public internet.

    `allow_private` lets private and loopback ones pass, never link-local, multicast or metadata addresses.
    """
    hidden = _embedded(address)
    for one in (address, *hidden):
        if one in METADATA or one.is_link_local or one.is_multicast or one.is_unspecified:
            raise Forbidden(f"the platform does not talk to the address {address}")
    for one in hidden or (address,):
        if not (allow_private or (one.is_global and not one.is_reserved)):
            raise Forbidden(
                f"the address {address} is not public; the operator can allow private ones with {setting}=on"
            )


def _embedded(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """IPv4 addresses that an IPv6 one stands for: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return (low,)
    return ()


def resolve_host(host: str, port: int) -> list[str]:
    """Every address of a host; numbers in any base are what the C library takes them for."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _host_header(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port else host


def _cut(sockets: Sequence[socket.socket]) -> None:
    for one in list(sockets):
        try:
            # Past TLS, straight at the connection: a reader that waits on it wakes with an error.
            socket.socket.shutdown(one, socket.SHUT_RDWR)
        except OSError:
            # Ended by itself, or handed over to the TLS socket beside it.
            continue
