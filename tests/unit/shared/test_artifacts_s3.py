"""What only a bucket has: servers that fail, removals that race with writers, a cache with a bound."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.embedded import free_port
from shared.artifacts import S3ArtifactStore, open_artifacts
from shared.artifacts import s3 as s3_module
from shared.artifacts.bucket import Place
from shared.artifacts.cache import ObjectCache
from shared.errors import ConfigurationError, InvalidInput, NotFound, Unavailable
from shared.settings import read_settings
from tests.s3_server import BUCKET, S3Server, s3_server

LATER = 3600.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def s3(server: S3Server) -> Iterator[S3Server]:
    yield server
    server.before = lambda method, path: None


@pytest.fixture
def store(s3: S3Server, tmp_path: Path) -> S3ArtifactStore:
    return s3.store(tmp_path, prefix=f"{tmp_path.name}/", part_bytes=5 * 1024 * 1024)


def once(does: Callable[[], int | None], *, method: str, within: str) -> Callable[[str, str], int | None]:
    """`does` at the first request of this method whose path holds `within`, and nothing at any other."""
    waiting = [does]

    def before(told: str, path: str) -> int | None:
        if told == method and within in path and waiting:
            return waiting.pop()()
        return None

    return before


def id_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_a_server_that_falters_is_asked_again(s3: S3Server, store: S3ArtifactStore, method: str) -> None:
    s3.before = once(lambda: 503, method=method, within="/objects/")
    artifact, _ = store.put(io.BytesIO(method.encode()))
    assert store.begins(artifact, 4) == method.encode()[:4]


def test_a_server_that_stays_away_is_unavailable_and_nothing_is_half_there(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.artifacts.bucket.ATTEMPTS", 2)
    store = s3.store(tmp_path, prefix=f"{tmp_path.name}/", part_bytes=5 * 1024 * 1024)
    content = os.urandom(6 * 1024 * 1024)
    # The second part of two never comes through.
    s3.before = lambda method, path: 503 if method == "PUT" and s3.requests[-2][0] == "PUT" else None
    with pytest.raises(Unavailable) as caught:
        store.put(io.BytesIO(content))
    assert (caught.value.code, caught.value.retryable) == ("storage_unavailable", True)
    s3.before = lambda method, path: None
    with pytest.raises(NotFound):
        store.path(id_of(content))
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert not list((tmp_path / "cache" / "incoming").iterdir())
    assert store.put(io.BytesIO(content))[0] == id_of(content)


def test_uploads_that_nobody_ended_are_given_up_once_they_are_old(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    s3.client.create_multipart_upload(Bucket=BUCKET, Key=f"{tmp_path.name}/objects/ab/cd")
    # moto tells every upload to have begun in 2010.
    assert store.tidy(0.0) == 0
    assert store.tidy(time.time() + LATER) == 1
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_other_bytes_than_the_hash_says_are_never_handed_out(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    artifact, _ = store.put(io.BytesIO(b"right"))
    (key,) = s3.keys(f"{tmp_path.name}/objects/")
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=b"wrong")
    elsewhere = s3.store(tmp_path / "elsewhere", prefix=f"{tmp_path.name}/")
    with pytest.raises(Unavailable, match="sent sha256:"):
        elsewhere.path(artifact)
    assert not list((tmp_path / "elsewhere" / "cache").glob("objects/*/*"))


def test_an_object_is_fetched_once_a_machine(s3: S3Server, store: S3ArtifactStore, tmp_path: Path) -> None:
    artifact, _ = store.put(io.BytesIO(b"fetched once"))
    elsewhere = s3.store(tmp_path / "elsewhere", prefix=f"{tmp_path.name}/")
    before = len(s3.requests)
    for _ in range(3):
        assert elsewhere.path(artifact).read_bytes() == b"fetched once"
    assert [method for method, _ in s3.requests[before:]] == ["GET"]


def test_what_is_there_already_is_made_new_and_not_sent_again(s3: S3Server, store: S3ArtifactStore) -> None:
    content = os.urandom(6 * 1024 * 1024)
    store.put(io.BytesIO(content))
    before = len(s3.requests)
    store.put(io.BytesIO(content))
    # One PUT that copies it onto itself, and no upload in parts (which begins with a POST).
    assert [method for method, _ in s3.requests[before:]] == ["HEAD", "PUT", "GET", "HEAD"]


def test_bytes_that_come_while_they_are_removed_are_there_in_the_end(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    """The remover has looked at the old object and is about to delete it when the same bytes are put again."""
    artifact, _ = store.put(io.BytesIO(b"again"))
    other = s3.store(tmp_path / "other", prefix=f"{tmp_path.name}/")
    waits, looks = threading.Event(), list[str]()
    writer = threading.Thread(target=lambda: other.put(io.BytesIO(b"again")), daemon=True)

    def put_now() -> None:
        writer.start()
        # It has written, seen the mark of the removal, and looked at the object: from here on it waits.
        assert waits.wait(30)

    removing = once(put_now, method="DELETE", within="/objects/")

    def before(method: str, path: str) -> int | None:
        # The writer looks at the object, having looked for marks.
        if method == "HEAD" and writer.is_alive():
            looks.append(path)
            if len(looks) == 2:
                waits.set()
        return removing(method, path)

    s3.before = before
    assert store.remove(artifact, time.time() + LATER) is True
    writer.join(30)
    assert not writer.is_alive()
    fresh = s3.store(tmp_path / "fresh", prefix=f"{tmp_path.name}/")
    assert fresh.open(artifact).read() == b"again"
    assert s3.keys(f"{tmp_path.name}/doomed/") == []


def test_bytes_that_came_before_the_remover_looked_stay(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    artifact, _ = store.put(io.BytesIO(b"young"))
    assert store.remove(artifact, time.time() - LATER) is False
    assert s3.keys(f"{tmp_path.name}/doomed/") == []
    assert store.open(artifact).read() == b"young"


def test_a_removal_of_the_moment_between_write_and_look_is_noticed(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    """The whole removal falls between the writer's write and its look for a mark: the object's absence tells."""
    artifact = id_of(b"hit")
    remover = s3.store(tmp_path / "remover", prefix=f"{tmp_path.name}/")
    removed: list[bool] = []

    def remove() -> None:
        removed.append(remover.remove(artifact, time.time() + LATER))

    # The look for marks is a listing of the bucket.
    s3.before = once(remove, method="GET", within=BUCKET)
    store.put(io.BytesIO(b"hit"))
    assert removed == [True]
    fresh = s3.store(tmp_path / "fresh", prefix=f"{tmp_path.name}/")
    assert fresh.open(artifact).read() == b"hit"


@pytest.mark.long
def test_writers_and_collections_at_once_lose_nothing(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    """For twenty seconds; the server tells times in whole seconds, so what is three seconds old may go."""
    ended = time.monotonic() + 20
    lost: list[str] = []
    removed: list[bool] = []

    def write(number: int) -> None:
        own = s3.store(tmp_path / f"w{number}", prefix=f"{tmp_path.name}/")
        dice = random.Random(number)
        while time.monotonic() < ended:
            artifact, _ = own.put(io.BytesIO(f"object {dice.randrange(3)}".encode()))
            try:
                store.begins(artifact, 8)
            except NotFound:
                lost.append(artifact)
            # Long enough for some to grow old.
            time.sleep(dice.choice((0.0, 0.5, 4.0)))

    def collect(number: int) -> None:
        own = s3.store(tmp_path / f"c{number}", prefix=f"{tmp_path.name}/")
        while time.monotonic() < ended:
            removed.extend(own.remove(one.artifact, time.time() - 3) for one in own.stored())

    threads = [threading.Thread(target=work, args=(n,)) for work in (write, collect) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    assert any(removed)
    assert s3.keys(f"{tmp_path.name}/doomed/") == []


def test_a_remover_takes_no_mark_but_its_own_away(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path
) -> None:
    artifact, _ = store.put(io.BytesIO(b"one of two"))
    second = s3.store(tmp_path / "second", prefix=f"{tmp_path.name}/")
    marks: list[list[str]] = []

    def remove() -> None:
        second.remove(artifact, time.time() + LATER)
        marks.append(s3.keys(f"{tmp_path.name}/doomed/"))

    s3.before = once(remove, method="DELETE", within="/objects/")
    assert store.remove(artifact, time.time() + LATER) is True
    # While the second had come and gone, the mark of the first still stood.
    assert [len(found) for found in marks] == [1]
    assert s3.keys(f"{tmp_path.name}/") == []


def test_the_mark_of_a_killed_remover_keeps_nobody_for_ever(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = store.put(io.BytesIO(b"left"))
    mark = f"{tmp_path.name}/doomed/{artifact.removeprefix('sha256:')}/left"
    s3.client.put_object(Bucket=BUCKET, Key=mark, Body=b"")
    # As if it had been written so long before the object.
    monkeypatch.setattr(s3_module, "MARK_S", -LATER)
    store.put(io.BytesIO(b"left"))
    assert s3.keys(mark) == [mark]
    assert store.tidy(time.time() + LATER) == 1
    assert s3.keys(mark) == []


def test_a_remover_that_slept_too_long_deletes_nothing(
    s3: S3Server, store: S3ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = store.put(io.BytesIO(b"slept"))
    monkeypatch.setattr(s3_module, "REMOVAL_S", -1.0)
    assert store.remove(artifact, time.time() + LATER) is False
    assert store.begins(artifact, 5) == b"slept"
    # Its mark grows old by itself, and is tidied away.
    assert len(s3.keys(f"{tmp_path.name}/doomed/")) == 1


def opened(s3: S3Server, home: Path, **changes: str) -> S3ArtifactStore:
    environ = {**s3.settings, "HELIU_HOME": str(home), **changes}
    found = open_artifacts(read_settings(environ))
    assert isinstance(found, S3ArtifactStore)
    return found


def test_the_settings_open_it_and_its_id_is_the_same_for_all(s3: S3Server, tmp_path: Path) -> None:
    one, other = opened(s3, tmp_path / "a"), opened(s3, tmp_path / "b")
    another = opened(s3, tmp_path, HELIU_ARTIFACTS=f"s3://{BUCKET}/other")
    assert one.store_id() == other.store_id() != another.store_id()
    assert one.trouble() is None
    assert not one.shares_folder
    assert opened(s3, tmp_path, HELIU_SCRATCH=str(tmp_path / "nfs")).shares_folder


def test_a_bucket_that_is_not_there_is_named_at_start(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no bucket 'absent'"):
        opened(s3, tmp_path, HELIU_ARTIFACTS="s3://absent").store_id()


def test_a_key_that_is_refused_is_named_at_start(s3: S3Server, tmp_path: Path) -> None:
    s3.before = lambda method, path: 403
    with pytest.raises(ConfigurationError, match="HELIU_S3_ACCESS_KEY_ID"):
        opened(s3, tmp_path).store_id()


def test_an_address_where_nobody_answers_is_named_at_start(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.artifacts.bucket.ATTEMPTS", 1)
    wrong = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="HELIU_S3_ENDPOINT"):
        opened(s3, tmp_path, HELIU_S3_ENDPOINT=wrong).store_id()


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://b/x?y=1", "s3://b/x//y"])
def test_what_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://BUCKET/PREFIX"):
        Place.parse(url)


@pytest.mark.parametrize(
    "environ",
    [
        {"HELIU_ARTIFACTS": "gs://bucket"},
        {"HELIU_ARTIFACTS": "s3://b", "HELIU_S3_ACCESS_KEY_ID": "only half"},
        {"HELIU_ARTIFACTS": "s3://b", "HELIU_RAY_ADDRESS": "auto"},
    ],
)
def test_settings_that_do_not_go_together_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        read_settings(environ)


class Cached:
    """A cache of ten bytes; a test says since when its entries are unused."""

    def __init__(self, root: Path) -> None:
        self.cache = ObjectCache(root, 10)
        self.root = root

    def put(self, name: str, content: str) -> Path:
        def write(target: Path) -> None:
            target.write_text(content)

        return self.cache.get(name, write)

    def here(self) -> set[str]:
        return {path.parent.name + path.name for path in (self.root / "objects").glob("*/*")}


def unused(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_the_longest_unused_go_first_and_no_more_than_must(tmp_path: Path) -> None:
    held = Cached(tmp_path)
    entries = {name: held.put(name, "12345") for name in ("aa1", "bb2", "cc3")}
    for name, days in (("aa1", 3), ("bb2", 4), ("cc3", 2)):
        unused(entries[name], days)
    assert held.cache.shrink() == 1
    assert held.here() == {"aa1", "cc3"}
    assert held.cache.shrink() == 0


def test_what_is_in_use_stays_though_the_bound_is_passed(tmp_path: Path) -> None:
    held = Cached(tmp_path)
    first = held.put("aa1", "1234567890123")
    held.put("bb2", "1234567890123")
    unused(first, 3)
    assert held.put("aa1", "never written").read_text() == "1234567890123"
    assert held.cache.shrink() == 0
    assert held.here() == {"aa1", "bb2"}


def test_a_tree_and_its_objects_count_once_and_free_nothing_alone(tmp_path: Path) -> None:
    held = Cached(tmp_path)
    first, second = held.put("aa1", "12345678"), held.put("bb2", "12345678")
    tree = tmp_path / ("a" * 64)
    tree.mkdir()
    os.link(first, tree / "a")
    unused(first, 5)
    unused(tree, 3)
    unused(second, 1)
    assert held.cache.shrink() == 2
    # The older object freed nothing by itself, so its tree went too; the younger one is within the bound.
    assert (tree.exists(), held.here()) == (False, {"bb2"})


def test_fetching_more_than_a_share_of_the_bound_makes_room(tmp_path: Path) -> None:
    held = Cached(tmp_path)
    unused(held.put("aa1", "123456"), 3)
    held.put("bb2", "123456")
    assert held.here() == {"bb2"}


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    held = Cached(tmp_path)

    def fail(target: Path) -> None:
        target.write_text("half")
        raise InvalidInput("broken off")

    with pytest.raises(InvalidInput):
        held.cache.get("aa1", fail)
    assert held.here() == set()
    assert not list(held.cache.incoming.iterdir())
