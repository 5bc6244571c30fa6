"""The client of a hub against a real one on loopback: what it takes, what it checks, where it does not go."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.inference.hub import Hub, HubError
from shared.artifacts import ArtifactStore
from shared.errors import HeliuError, InvalidInput, NotFound, Unavailable
from shared.outbound import Forbidden, OutboundClient
from tests.local_hub import COMMIT, LocalHub, local_hub, make_certificate

FILES = {
    "config.json": b'{"architectures": []}',
    "model.safetensors": b"w" * 50_000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"\x80\x02",
    "modeling_evil.py": b"raise SystemExit",
    "README.md": b"# tiny",
    "onnx/model.safetensors": b"o" * 20_000,
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: Path) -> Iterator[LocalHub]:
    with local_hub(certificate, dict(FILES)) as hub:
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def client(certificate: Path, *, allow_private: bool = True) -> OutboundClient:
    return OutboundClient(
        timeout_s=10,
        allow_private=allow_private,
        tls=ssl.create_default_context(cafile=str(certificate)),
        resolve=lambda host, port: ["127.0.0.1"],
        setting="HELIU_HUB_ALLOW_PRIVATE",
    )


def hub_of(server: LocalHub, certificate: Path, *, max_bytes: int = 10**9, token: str = "secret") -> Hub:
    return Hub(server.url, client(certificate), token=token, max_bytes=max_bytes)


def nothing(_: int) -> None:
    return


def test_only_what_a_model_is_served_from_is_taken(
    server: LocalHub, certificate: Path, store: ArtifactStore
) -> None:
    hub = hub_of(server, certificate)
    repository = hub.look("acme/tiny", "refs/pr/1")
    assert (repository.commit, [file.path for file in repository.files]) == (
        COMMIT,
        ["config.json", "model.safetensors", "tokenizer.json"],
    )
    got = {file.path: hub.fetch(file, store, tick=nothing) for file in repository.files}
    assert {name: store.path(artifact).read_bytes() for name, artifact in got.items()} == {
        name: FILES[name] for name in got
    }
    asked = [path for path, _ in server.asked]
    assert asked[0] == "/api/models/acme/tiny/revision/refs%2Fpr%2F1?blobs=true"
    assert "/cdn/model.safetensors" in asked
    assert not any("evil" in path or "bin" in path for path in asked)
    assert {token for _, token in server.asked} == {"Bearer secret"}


def test_the_token_goes_to_no_other_host(server: LocalHub, certificate: Path, store: ArtifactStore) -> None:
    hub = hub_of(server, certificate)
    (config, *_) = hub.look("acme/tiny", "main").files
    with local_hub(certificate, {}) as elsewhere:
        elsewhere.files["config.json"] = FILES["config.json"]
        server.redirects[f"/acme/tiny/resolve/{COMMIT}/config.json"] = f"{elsewhere.url}/cdn/config.json"
        hub.fetch(config, store, tick=nothing)
        assert elsewhere.asked == [("/cdn/config.json", None)]


@pytest.mark.parametrize(
    "target", ["http://localhost/x", "ftp://localhost/x", "https://u:p@localhost/", "//[::1"]
)
def test_a_redirect_off_https_is_not_followed(
    server: LocalHub, certificate: Path, store: ArtifactStore, target: str
) -> None:
    hub = hub_of(server, certificate)
    (config, *_) = hub.look("acme/tiny", "main").files
    server.redirects[f"/acme/tiny/resolve/{COMMIT}/config.json"] = target
    with pytest.raises(HeliuError) as caught:
        hub.fetch(config, store, tick=nothing)
    assert caught.value.code in ("address_forbidden", "hub_answer_invalid")


def test_a_redirect_to_itself_ends(server: LocalHub, certificate: Path, store: ArtifactStore) -> None:
    hub = hub_of(server, certificate)
    (config, *_) = hub.look("acme/tiny", "main").files
    place = f"/acme/tiny/resolve/{COMMIT}/config.json"
    server.redirects[place] = place
    with pytest.raises(Forbidden, match="redirects more than 5 times"):
        hub.fetch(config, store, tick=nothing)


def test_a_private_address_is_refused_with_the_setting_that_allows_it(
    server: LocalHub, certificate: Path
) -> None:
    hub = Hub(server.url, client(certificate, allow_private=False), token="", max_bytes=10**9)
    with pytest.raises(Forbidden, match="HELIU_HUB_ALLOW_PRIVATE"):
        hub.look("acme/tiny", "main")
    assert server.asked == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_content_that_is_not_what_was_told_is_not_taken(
    server: LocalHub, certificate: Path, store: ArtifactStore, name: str
) -> None:
    hub = hub_of(server, certificate)
    file = next(file for file in hub.look("acme/tiny", "main").files if file.path == name)
    server.bodies[name] = FILES[name][:-1] + b"!"
    with pytest.raises(HubError, match="does not have the hash"):
        hub.fetch(file, store, tick=nothing)
    server.bodies[name] = FILES[name] + b"more"
    with pytest.raises(HubError, match="longer than"):
        hub.fetch(file, store, tick=nothing)
    server.bodies[name] = FILES[name][:10]
    with pytest.raises(Unavailable, match="broke off after 10"):
        hub.fetch(file, store, tick=nothing)


def test_a_repository_that_is_no_servable_model_is_refused(server: LocalHub, certificate: Path) -> None:
    hub = hub_of(server, certificate)
    with pytest.raises(NotFound, match="acme/none at main"):
        hub.look("acme/none", "main")
    with pytest.raises(InvalidInput, match="over the limit of 1000"):
        hub_of(server, certificate, max_bytes=1000).look("acme/tiny", "main")
    for name, lie in (("config.json", {"size": -1}), ("model.safetensors", {"lfs": {}, "blobId": None})):
        server.lies = {name: lie}
        with pytest.raises(HubError, match="not understood"):
            hub.look("acme/tiny", "main")
    server.lies = {}
    del server.files["model.safetensors"]
    with pytest.raises(InvalidInput, match=r"only pickles such as 'pytorch_model\.bin'"):
        hub.look("acme/tiny", "main")


def test_a_cancelled_import_ends_in_the_middle_of_a_file(
    server: LocalHub, certificate: Path, store: ArtifactStore
) -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: int) -> None:
        raise Cancelled

    hub = hub_of(server, certificate)
    (file, *_) = hub.look("acme/tiny", "main").files
    with pytest.raises(Cancelled):
        hub.fetch(file, store, tick=cancel)
    assert list((store.root / "incoming").iterdir()) == []
