"""What of the store is swept, and what is not: trees, young objects, and bytes that come again meanwhile."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

from services.data_governance.warehouse import garbage
from shared.artifacts import ArtifactStore

HOUR = 3600.0


def put(store: ArtifactStore, content: bytes, *, hours_old: float = 48) -> str:
    artifact, _ = store.put(io.BytesIO(content))
    written = time.time() - hours_old * HOUR
    os.utime(store.path(artifact), (written, written))
    return artifact


def there(store: ArtifactStore) -> set[str]:
    return {item.artifact for item in store.stored()}


def swept(store: ArtifactStore, named: set[str], *, dry_run: bool = False) -> garbage.Swept:
    reached = garbage.reach(store, named, lambda: None)
    before = time.time() - 24 * HOUR
    return garbage.sweep(store, reached, before, dry_run=dry_run, look=lambda: None)


def test_only_old_objects_that_nothing_names_go(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    named, young, old = put(store, b"named"), put(store, b"young", hours_old=1), put(store, b"old!")
    told = swept(store, {named})
    assert there(store) == {named, young}
    assert (told.objects, told.bytes, told.kept, told.too_young, told.shown) == (1, 4, 1, 1, [old])


def test_a_named_tree_keeps_its_files(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    for name in ("a", "b"):
        (tmp_path / "v" / "data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / "data" / name).write_text(name)
    tree = store.put_tree(tmp_path / "v")
    for item in store.stored():
        os.utime(store.path(item.artifact), (0, 0))
    assert swept(store, {tree}).objects == 0
    assert store.read_entry(tree, "data/b") == b"b"
    assert swept(store, set()).objects == 3


def test_an_upload_that_only_begins_like_a_tree_is_no_tree(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    artifact = put(store, b'{"tree": [1, 2')
    assert store.parts_of(artifact) == []
    assert store.parts_of(put(store, b'{"tree":[{"path":3}]}')) == []
    assert store.parts_of(put(store, b'{"tree":7}')) == []


def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    old = put(store, b"old")
    assert swept(store, set(), dry_run=True).objects == 1
    assert there(store) == {old}


def test_bytes_that_come_again_before_the_removal_stay(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    old = put(store, b"again")
    before = time.time() - 24 * HOUR
    store.put(io.BytesIO(b"again"))
    assert store.remove(old, before) is False
    assert store.open(old).read() == b"again"


def test_uploads_of_the_same_bytes_race_with_sweeps_and_never_lose(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    ended = threading.Event()
    lost: list[int] = []

    def upload() -> None:
        for number in range(120):
            artifact, _ = store.put(io.BytesIO(b"the same"))
            # From here on a row may name it, and until then it is young.
            try:
                store.path(artifact)
            except Exception:  # noqa: BLE001 - whatever it is, the bytes were not there
                lost.append(number)
            os.utime(store.path(artifact), (0, 0)) if number % 2 else None
        ended.set()

    worker = threading.Thread(target=upload)
    worker.start()
    removed = 0
    other = ArtifactStore(tmp_path)
    while not ended.is_set():
        removed += garbage.sweep(other, set(), time.time() - HOUR, dry_run=False, look=lambda: None).objects
    worker.join()
    assert lost == []
    assert removed > 0


def test_the_cache_of_trees_that_are_gone_is_cleared(tmp_path: Path) -> None:
    kept, gone = "a" * 64, "b" * 64
    for name in (kept, gone, "models"):
        (tmp_path / name).mkdir()
    assert garbage.clear_cache(tmp_path, {f"sha256:{kept}"}, time.time() + 1) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept, "models"]
