"""The artifact store: one object for the same bytes, trees, and paths that stay inside."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from pathlib import Path

import pytest

from shared.artifacts import ArtifactStore
from shared.errors import InvalidInput, NotFound


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def folder(tmp_path: Path, **files: str) -> Path:
    made = tmp_path / "folder"
    for name, text in files.items():
        path = made / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def incoming(store: ArtifactStore) -> list[Path]:
    return list((store.root / "incoming").iterdir())


def test_bytes_come_back_under_their_hash(store: ArtifactStore) -> None:
    body = "合流".encode() * 100_000
    artifact, size = store.put(io.BytesIO(body))
    assert artifact == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert size == len(body)
    with store.open(artifact) as found:
        assert found.read() == body
    assert not incoming(store)


def test_the_same_bytes_are_one_object_that_nobody_may_write_to(store: ArtifactStore) -> None:
    first, _ = store.put(io.BytesIO(b"x"))
    second, _ = store.put(io.BytesIO(b"x"))
    assert first == second
    assert store.path(first).stat().st_mode & 0o222 == 0


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(store: ArtifactStore) -> None:
    with pytest.raises(InvalidInput) as caught:
        store.put(io.BytesIO(b"12345"), max_bytes=4)
    assert caught.value.code == "file_too_large"
    assert not incoming(store)
    store.put(io.BytesIO(b"1234"), max_bytes=4)


def test_a_source_that_breaks_off_leaves_nothing(store: ArtifactStore) -> None:
    class Broken:
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(Broken())
    assert not incoming(store)


def test_a_tree_comes_back_as_a_folder(store: ArtifactStore, tmp_path: Path) -> None:
    tree = store.put_tree(folder(tmp_path, a="1", sub__b="2"))
    made = store.materialize(tree, tmp_path / "cache")
    found = {
        path.relative_to(made).as_posix(): path.read_text() for path in made.rglob("*") if path.is_file()
    }
    assert found == {"a": "1", "sub/b": "2"}
    assert store.materialize(tree, tmp_path / "cache") == made
    assert store.read_entry(tree, "sub/b") == b"2"
    with pytest.raises(NotFound):
        store.read_entry(tree, "c")


def test_the_same_files_are_the_same_tree(store: ArtifactStore, tmp_path: Path) -> None:
    one = store.put_tree(folder(tmp_path / "1", a="1", b="2"))
    assert one == store.put_tree(folder(tmp_path / "2", b="2", a="1"))
    assert one != store.put_tree(folder(tmp_path / "3", a="1", c="2"))


def test_a_tree_with_a_link_or_without_a_file_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "empty").mkdir()
    for bad in ("links", "empty"):
        with pytest.raises(InvalidInput):
            store.put_tree(tmp_path / bad)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_tree_that_names_a_file_outside_itself_is_refused(
    store: ArtifactStore, tmp_path: Path, name: str
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
def test_what_is_no_id_is_refused(store: ArtifactStore, artifact: str) -> None:
    with pytest.raises(InvalidInput):
        store.open(artifact)


def test_an_object_that_is_not_there_is_not_found(store: ArtifactStore) -> None:
    for look in (store.open, store.path):
        with pytest.raises(NotFound):
            look("sha256:" + "0" * 64)


def test_racing_processes_agree_on_the_stores_id_and_on_a_tree(store: ArtifactStore, tmp_path: Path) -> None:
    tree = store.put_tree(folder(tmp_path, **{f"f{n}": str(n) for n in range(50)}))
    ids: list[str] = []
    folders: list[Path] = []

    def race() -> None:
        ids.append(ArtifactStore(store.root).store_id())
        folders.append(store.materialize(tree, tmp_path / "cache"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(folders) == 8
    assert len(set(ids)) == len(set(folders)) == 1
    assert len(list(folders[0].iterdir())) == 50
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folders[0].name]
