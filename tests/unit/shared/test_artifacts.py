"""The artifact store in a folder and in a bucket: one object for the same bytes, trees, and paths that stay inside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.data_governance.warehouse import garbage
from shared.artifacts import Artifacts, ArtifactStore
from shared.errors import InvalidInput, NotFound
from tests.s3_server import S3Server, s3_server

HOUR = 3600.0
# Of what S3 takes; a longer object is sent in parts.
LEAST_PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


Opener = Callable[[str], Artifacts]


@pytest.fixture(params=["folder", "bucket"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same store as another machine would, by that machine's name."""
    if request.param == "folder":
        return lambda machine: ArtifactStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3")
    prefix = f"{secrets.token_hex(6)}/"
    return lambda machine: server.store(tmp_path / machine, prefix=prefix, part_bytes=LEAST_PART)


@pytest.fixture
def store(opener: Opener) -> Artifacts:
    return opener("here")


def folder(tmp_path: Path, **files: str) -> Path:
    made = tmp_path / "folder"
    for name, text in files.items():
        path = made / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def incoming(tmp_path: Path) -> list[Path]:
    """What is half written on this machine, whichever store it is."""
    return [path for path in tmp_path.glob("**/incoming/*") if path.is_file()]


def test_bytes_come_back_under_their_hash_on_every_machine(opener: Opener, tmp_path: Path) -> None:
    body = os.urandom(LEAST_PART + 1_000_000)
    artifact, size = opener("here").put(io.BytesIO(body))
    assert artifact == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert size == len(body)
    for machine in ("here", "there"):
        with opener(machine).open(artifact) as found:
            assert found.read() == body
        assert opener(machine).begins(artifact, 10) == body[:10]
    assert not incoming(tmp_path)


def test_an_object_of_no_bytes_is_one(opener: Opener) -> None:
    artifact, size = opener("here").put(io.BytesIO(b""))
    assert size == 0
    assert opener("there").path(artifact).read_bytes() == opener("there").begins(artifact, 8) == b""


def test_the_same_bytes_are_one_object_that_nobody_may_write_to(store: Artifacts) -> None:
    first, _ = store.put(io.BytesIO(b"x"))
    second, _ = store.put(io.BytesIO(b"x"))
    assert first == second
    assert [one.artifact for one in store.stored()] == [first]
    assert store.path(first).stat().st_mode & 0o222 == 0


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(store: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        store.put(io.BytesIO(b"12345"), max_bytes=4)
    assert caught.value.code == "file_too_large"
    assert not incoming(tmp_path)
    assert not list(store.stored())
    store.put(io.BytesIO(b"1234"), max_bytes=4)


def test_a_source_that_breaks_off_leaves_nothing(store: Artifacts, tmp_path: Path) -> None:
    class Broken:
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(Broken())
    assert not incoming(tmp_path)
    assert not list(store.stored())


def test_a_file_is_taken_over_only_under_its_own_hash(opener: Opener, tmp_path: Path) -> None:
    store, path = opener("here"), tmp_path / "sent"
    named = f"sha256:{hashlib.sha256(b'right').hexdigest()}"
    path.write_bytes(b"wrong")
    assert store.adopt(path, named) == f"sha256:{hashlib.sha256(b'wrong').hexdigest()}"
    path.write_bytes(b"right")
    assert store.adopt(path, named) == named
    assert not path.exists()
    assert [one.artifact for one in store.stored()] == [named]
    assert opener("there").open(named).read() == b"right"


def test_a_tree_comes_back_as_a_folder(opener: Opener, tmp_path: Path) -> None:
    tree = opener("here").put_tree(folder(tmp_path, a="1", sub__b="2"))
    store = opener("there")
    made = store.materialize(tree, tmp_path / "there" / "cache")
    found = {
        path.relative_to(made).as_posix(): path.read_text() for path in made.rglob("*") if path.is_file()
    }
    assert found == {"a": "1", "sub/b": "2"}
    assert store.materialize(tree, tmp_path / "there" / "cache") == made
    assert store.read_entry(tree, "sub/b") == b"2"
    with pytest.raises(NotFound):
        store.read_entry(tree, "c")


def test_a_tree_is_made_of_objects_that_are_there(opener: Opener, tmp_path: Path) -> None:
    store = opener("here")
    parts = {name: store.put(io.BytesIO(name.encode()))[0] for name in ("b", "a")}
    tree = store.put_listing([{"path": name, "object": part, "bytes": 1} for name, part in parts.items()])
    assert tree == store.put_tree(folder(tmp_path, a="a", b="b"))
    assert sorted(opener("there").parts_of(tree)) == sorted(parts.values())
    assert opener("there").parts_of(parts["a"]) == []


def test_the_same_files_are_the_same_tree(store: Artifacts, tmp_path: Path) -> None:
    one = store.put_tree(folder(tmp_path / "1", a="1", b="2"))
    assert one == store.put_tree(folder(tmp_path / "2", b="2", a="1"))
    assert one != store.put_tree(folder(tmp_path / "3", a="1", c="2"))


def test_only_the_files_that_are_wanted_join_a_tree(store: Artifacts, tmp_path: Path) -> None:
    tree = store.put_tree(folder(tmp_path, a="1", b="2"), lambda name: name == "a")
    assert len(store.parts_of(tree)) == 1


def test_a_tree_with_a_link_or_without_a_file_is_refused(store: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "empty").mkdir()
    for bad in ("links", "empty"):
        with pytest.raises(InvalidInput):
            store.put_tree(tmp_path / bad)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_tree_that_names_a_file_outside_itself_is_refused(
    store: Artifacts, tmp_path: Path, name: str
) -> None:
    content, _ = store.put(io.BytesIO(b"x"))
    listing = json.dumps({"tree": [{"path": name, "object": content, "bytes": 1}]}).encode()
    tree, _ = store.put(io.BytesIO(listing))
    with pytest.raises(InvalidInput, match="outside itself"):
        store.materialize(tree, tmp_path / "cache")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "artifact", ["", "x", "sha256:..", "sha256:" + "Z" * 64, "md5:" + "0" * 64, "sha256:" + "0" * 65]
)
def test_what_is_no_id_is_refused(store: Artifacts, artifact: str) -> None:
    with pytest.raises(InvalidInput):
        store.open(artifact)


def test_an_object_that_is_not_there_is_not_found(store: Artifacts) -> None:
    absent = "sha256:" + "0" * 64
    for look in (store.open, store.path, lambda artifact: store.begins(artifact, 1)):
        with pytest.raises(NotFound):
            look(absent)
    assert store.parts_of(absent) == []
    assert store.remove(absent, time.time()) is False


def test_racing_processes_agree_on_the_stores_id_and_on_a_tree(
    opener: Opener, store: Artifacts, tmp_path: Path
) -> None:
    tree = store.put_tree(folder(tmp_path, **{f"f{n}": str(n) for n in range(20)}))
    ids: list[str] = []
    folders: list[Path] = []

    def race() -> None:
        ids.append(opener("here").store_id())
        folders.append(store.materialize(tree, tmp_path / "trees"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(folders) == 8
    assert len(set(ids)) == len(set(folders)) == 1
    assert len(list(folders[0].iterdir())) == 20
    assert [path.name for path in (tmp_path / "trees").iterdir()] == [folders[0].name]


def test_what_a_run_keeps_stays_whatever_becomes_of_the_cache(opener: Opener, tmp_path: Path) -> None:
    tree = opener("here").put_tree(folder(tmp_path, a="1", sub__b="2"))
    store, cache = opener("there"), tmp_path / "there" / "cache"
    kept = store.keep(store.materialize(tree, cache), tmp_path / "run")
    assert (kept / "sub" / "b").read_text() == "2"
    assert store.keep(store.materialize(tree, cache), tmp_path / "run") == kept
    file = store.keep(store.path(store.parts_of(tree)[0]), tmp_path / "run")
    assert file.read_text() == "1"


def test_only_old_objects_that_nothing_names_are_swept(opener: Opener, tmp_path: Path) -> None:
    store = opener("here")
    tree = store.put_tree(folder(tmp_path, a="1", b="2"))
    stray, size = store.put(io.BytesIO(b"stray"))
    reached = garbage.reach(store, {tree}, lambda: None)
    assert len(reached) == 3

    def sweep(before: float, *, dry_run: bool = False) -> tuple[int, int, int, int]:
        told = garbage.sweep(store, reached, before, dry_run=dry_run, look=lambda: None)
        return told.objects, told.bytes, told.kept, told.too_young

    assert sweep(time.time() - HOUR) == (0, 0, 3, 1)
    # From an hour on everything is old; and a bucket tells times in whole seconds.
    assert sweep(time.time() + HOUR, dry_run=True) == (1, size, 3, 0)
    assert sweep(time.time() + HOUR) == (1, size, 3, 0)
    assert {one.artifact for one in store.stored()} == reached
    with pytest.raises(NotFound):
        opener("there").path(stray)
    # What comes again after its removal is there again.
    assert opener("there").put(io.BytesIO(b"stray"))[0] == stray
    assert opener("elsewhere").open(stray).read() == b"stray"


def test_what_a_killed_writer_left_is_tidied_away_once_it_is_old(store: Artifacts, tmp_path: Path) -> None:
    store.put(io.BytesIO(b"x"))
    (left,) = tmp_path.glob("**/incoming")
    (left / "half").write_bytes(b"abc")
    assert store.tidy(time.time() - HOUR) == 0
    assert store.tidy(time.time() + HOUR) == 1
    assert not incoming(tmp_path)
