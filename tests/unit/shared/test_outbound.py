"""The guarded outbound client against addresses in disguise and receivers on loopback that misbehave."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import Unavailable
from shared.outbound import MAX_RESPONSE, Forbidden, OutboundClient, check_url

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """A server that speaks raw bytes: `behave` gets each connection after its request was read."""

    def __init__(self, behave: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.released = threading.Event()
        self._behave = behave
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._tls.wrap_socket(sock, server_side=True) if self._tls else sock as open_:
                    self.requests.append(read_request(open_))
                    self._behave(open_)
            except OSError:
                continue

    def close(self) -> None:
        self.released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def read_request(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (more := sock.recv(65536)):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length and (more := sock.recv(65536)):
        data, body = data + more, body + more
    return data


@contextmanager
def peer(behave: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    one = Peer(behave, tls)
    try:
        yield one
    finally:
        one.close()


def answers(data: bytes) -> Callable[[socket.socket], None]:
    return lambda sock: sock.sendall(data)


def client(**values: object) -> OutboundClient:
    return OutboundClient(**{"timeout_s": 5.0, "allow_private": True, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "2852039166",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
    ],
)
def test_an_address_that_is_not_public_is_refused_in_every_notation(host: str) -> None:
    guarded = client(allow_private=False)
    with pytest.raises(Forbidden):
        guarded.post(f"http://{host}:9/", b"", {})


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.0", "224.0.0.1"])
def test_metadata_and_link_local_addresses_are_refused_even_where_private_ones_are_allowed(
    address: str,
) -> None:
    with pytest.raises(Forbidden):
        client(resolve=lambda host, port: [address]).post("http://name.example/", b"", {})


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    guarded = client(allow_private=False, resolve=lambda host, port: ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(Forbidden, match=r"10\.0\.0\.1"):
        guarded.post("http://name.example/", b"", {})


def test_a_name_is_resolved_once_and_the_judged_address_is_used() -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    with peer(answers(OK)) as server:
        response = client(resolve=rebinding).post(
            f"http://name.example:{server.port}/hook?a=1", b"{}", {"X-A": "b"}
        )
    assert (response.status, response.body) == (200, b"ok")
    assert asked == ["name.example"]
    head = server.requests[0].decode()
    assert head.startswith("POST /hook?a=1 HTTP/1.1\r\n")
    assert f"\r\nHost: name.example:{server.port}\r\n" in head
    assert "\r\nX-A: b\r\n" in head
    assert head.count("Host:") == 1


def test_the_next_address_is_tried_when_the_first_takes_no_connection() -> None:
    with peer(answers(OK)) as server:
        both = client(resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"])
        assert both.post(f"http://name.example:{server.port}/", b"", {}).status == 200


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    with peer(
        answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    ) as server:
        assert client().post(f"http://127.0.0.1:{server.port}/", b"", {}).status == 302
        assert len(server.requests) == 1


def test_an_environment_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with peer(answers(OK)) as server:
        assert client().post(f"http://127.0.0.1:{server.port}/", b"", {}).status == 200


def test_only_the_beginning_of_a_huge_answer_is_read() -> None:
    huge = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * (4 * MAX_RESPONSE)
    with peer(answers(huge)) as server:
        assert len(client().post(f"http://127.0.0.1:{server.port}/", b"", {}).body) == MAX_RESPONSE


def test_a_receiver_that_drips_is_cut_at_the_time_limit() -> None:
    def drip(sock: socket.socket) -> None:
        while not server.released.wait(0.02):
            sock.sendall(b"H")

    with peer(drip) as server, pytest.raises(Unavailable, match=r"not within 0\.3 s"):
        client(timeout_s=0.3).post(f"http://127.0.0.1:{server.port}/", b"", {})


def test_a_receiver_that_never_answers_is_cut_at_the_time_limit() -> None:
    with peer(lambda sock: server.released.wait(30) and None) as server, pytest.raises(Unavailable):
        client(timeout_s=0.3).post(f"http://127.0.0.1:{server.port}/", b"", {})


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n"])
def test_a_broken_answer_is_an_unavailable_receiver(answer: bytes) -> None:
    with peer(answers(answer)) as server, pytest.raises(Unavailable):
        client().post(f"http://127.0.0.1:{server.port}/", b"", {})


def test_a_closed_port_and_an_unknown_name_are_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable):
        client().post(f"http://127.0.0.1:{port}/", b"", {})

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(Unavailable, match="resolved"):
        client(resolve=unknown).post("http://no.example/", b"", {})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "file:///etc/passwd",
        "gopher://a.example/",
        "//a.example/",
        "http:///x",
        "http://user:pw@a.example/",
        "http://a.example:99999/",
        "http://a.example:0/",
        "http://a.example\\@b.example/",
        "http://a.example/\r\nX: y",
        "http://a.example/ x",
        "http://bücher.example/",
        "http://[::1",
        "http://a.example/" + "x" * 2048,
        "",
    ],
)
def test_a_url_that_is_not_plain_http_to_a_host_is_refused(url: str) -> None:
    with pytest.raises(Forbidden):
        check_url(url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for hook.example, key and all in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=hook.example", "-addext", "subjectAltName=DNS:hook.example",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return made


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def test_https_verifies_the_name_at_the_pinned_address(certificate: Path) -> None:
    here = lambda host, port: ["127.0.0.1"]  # noqa: E731
    with peer(answers(OK), server_tls(certificate)) as server:
        trusted = client(resolve=here, tls=trusting(certificate))
        assert trusted.post(f"https://hook.example:{server.port}/", b"{}", {}).status == 200
        with pytest.raises(Unavailable, match="certificate"):
            trusted.post(f"https://other.example:{server.port}/", b"{}", {})
        with pytest.raises(Unavailable, match="certificate"):
            client(resolve=here).post(f"https://hook.example:{server.port}/", b"{}", {})


def test_a_silent_receiver_behind_tls_is_cut_at_the_time_limit(certificate: Path) -> None:
    def drip(sock: socket.socket) -> None:
        while not server.released.wait(0.02):
            sock.sendall(b"H")

    slow = client(resolve=lambda h, p: ["127.0.0.1"], tls=trusting(certificate), timeout_s=0.5)
    with peer(drip, server_tls(certificate)) as server, pytest.raises(Unavailable, match="not within"):
        slow.post(f"https://hook.example:{server.port}/", b"{}", {})
