"""The artifact store in an S3 bucket: objects by hash, read through a cache of this machine's own.

A folder's store lets writers share a lock that a removal has alone; a bucket has no lock. In its place stands a mark,
and what S3 gives: a read that follows a write sees it (AWS since 2020, MinIO, Ceph), and an object is replaced whole.

- Who removes: (m) writes a mark of its own under `doomed/<hash>/`, (g) looks at the object's age, (d) deletes it unless
  it is young, (u) takes its mark away. Past `REMOVAL_S` from m on it deletes nothing, and leaves its mark to grow old.
- Who puts: (w) writes the object, or makes the one that is there new; then (h) looks for marks, and then (o) at the
  object. It returns when no mark counts at h and the object is there at o; else it begins anew at w.

A removal whose mark came after h looked at g > h > w, saw a young object and left it. One whose mark came before h was
seen there, unless it had ended; then its delete came before h < o, and would have been seen at o. So nothing that was
put is lost, whoever else puts or removes it at once. A mark counts for `MARK_S`, by the server's clock alone (the
object's own time is the other hand): longer than any removal may take, so that one of a killed process holds nobody up
for ever. A request to delete that stays in the network for all of that could still do harm; there, the age that an
object must have to go (an hour or more, and no row names it) is what is left of safety.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.artifacts.bucket import Bucket
from shared.artifacts.cache import ObjectCache
from shared.artifacts.folder import disk_trouble, id_of, spool
from shared.artifacts.store import Artifacts, Source, Stored, hex_of, link_or_copy
from shared.errors import NotFound, Unavailable

REMOVAL_S = 30.0
MARK_S = 600.0
LOOK_S = 0.2
# Objects of a tree that are fetched at once.
AT_ONCE = 8


class S3ArtifactStore(Artifacts):
    """Objects under `objects/ab/cdef...` of the bucket's prefix."""

    def __init__(
        self, bucket: Bucket, cache: ObjectCache, shared_folder: Path, *, shares_folder: bool
    ) -> None:
        super().__init__(bucket.place.words, shared_folder, shares_folder=shares_folder)
        self._bucket = bucket
        self._cache = cache

    def store_id(self) -> str:
        """Raises ConfigurationError where the bucket is not there, or not for us."""
        self._bucket.check()
        try:
            return self._read("store_id").decode()
        except NotFound:
            self._bucket.put_bytes("store_id", secrets.token_hex(16).encode(), if_absent=True)
        # Whoever made it first: a server that knows no conditions keeps the last, and from here on it stands.
        return self._read("store_id").decode()

    def trouble(self) -> str | None:
        self._bucket.check()
        return disk_trouble(self._cache.incoming)

    def put(self, source: Source, *, max_bytes: int | None = None) -> tuple[str, int]:
        temporary = self._cache.incoming / secrets.token_hex(16)
        try:
            artifact, size = spool(source, temporary, max_bytes=max_bytes)
            self._store(artifact, temporary)
            # Most of what is written is read next, by whoever checks or serves it.
            self._cache.take(temporary, hex_of(artifact))
        finally:
            temporary.unlink(missing_ok=True)
        return artifact, size

    def put_file(self, path: Path) -> str:
        artifact = id_of(path)
        self._store(artifact, path)
        return artifact

    def adopt(self, path: Path, artifact: str) -> str:
        found = id_of(path)
        if found == artifact:
            self._store(artifact, path)
        path.unlink()
        return found

    def _store(self, artifact: str, path: Path) -> None:
        """Put the object there for certain: see the module's words."""
        key, marks = _key(artifact), _marks(artifact)
        while True:
            if not self._bucket.renew(key):
                self._bucket.put_file(key, path)
            seen = list(self._bucket.list(marks))
            try:
                written_at = self._bucket.head(key).written_at
            except NotFound:
                continue
            if all(mark.written_at < written_at - MARK_S for mark in seen):
                return
            time.sleep(LOOK_S)

    def remove(self, artifact: str, written_before: float) -> bool:
        key, mark = _key(artifact), _marks(artifact) + secrets.token_hex(8)
        began = time.monotonic()
        self._bucket.put_bytes(mark, b"")
        try:
            if self._bucket.head(key).written_at >= written_before or time.monotonic() - began > REMOVAL_S:
                return False
            self._bucket.delete(key)
        except NotFound:
            return False
        finally:
            if time.monotonic() - began <= REMOVAL_S:
                self._bucket.delete(mark)
        self._cache.forget(hex_of(artifact))
        return True

    def path(self, artifact: str) -> Path:
        name = hex_of(artifact)
        return self._cache.get(name, lambda target: self._fetch(artifact, target))

    def keep(self, path: Path, under: Path) -> Path:
        """Links of its files: what the cache drops stays for as long as a link of it does."""
        target = under / path.name
        if not target.exists():
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            for file in files:
                kept = target / file.relative_to(path)
                kept.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(file, kept)
        return target

    def begins(self, artifact: str, size: int) -> bytes:
        return self._read(_key(artifact), size)

    def stored(self) -> Iterator[Stored]:
        for one in self._bucket.list("objects/"):
            name = one.key.removeprefix("objects/").replace("/", "")
            yield Stored(f"sha256:{name}", one.bytes, one.written_at)

    def tidy(self, begun_before: float) -> int:
        old = [mark.key for mark in self._bucket.list("doomed/") if mark.written_at < begun_before]
        for mark in old:
            self._bucket.delete(mark)
        uploads = self._bucket.abort_uploads("objects/", begun_before)
        return len(old) + uploads + self._cache.tidy(begun_before)

    def _fetch_ahead(self, artifacts: Sequence[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="artifacts") as pool:
            for _ in pool.map(self.path, dict.fromkeys(artifacts)):
                continue

    def _used(self, folder: Path) -> bool:
        return self._cache.used(folder)

    def _read(self, key: str, first: int | None = None) -> bytes:
        return b"".join(self._bucket.get(key, first))

    def _fetch(self, artifact: str, target: Path) -> None:
        """The object as a file of the right hash. Raises NotFound, and Unavailable for other bytes."""
        digest = hashlib.sha256()
        try:
            with target.open("xb") as handle:
                for chunk in self._bucket.get(_key(artifact)):
                    digest.update(chunk)
                    handle.write(chunk)
        except NotFound as exc:
            raise self._missing(artifact) from exc
        if digest.hexdigest() != hex_of(artifact):
            raise Unavailable(
                f"{self.place} sent sha256:{digest.hexdigest()} for {artifact}", code="storage_unavailable"
            )


def _key(artifact: str) -> str:
    name = hex_of(artifact)
    return f"objects/{name[:2]}/{name[2:]}"


def _marks(artifact: str) -> str:
    return f"doomed/{hex_of(artifact)}/"
