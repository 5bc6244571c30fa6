"""A Hugging Face Hub, or a mirror of one, as far as a model needs it: what a repository holds, and its files.

https://huggingface.co/docs/hub/api. Every address that it leads to is judged by the guarded client anew; what comes
is checked against the size and hash that the repository tells. Knows no job and no SQL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urljoin, urlsplit

from shared.artifacts import Artifacts
from shared.contracts.models import MAX_FILES, is_model_file, is_pickle
from shared.errors import HeliuError, InvalidInput, NotFound, Unavailable
from shared.outbound import Download, Forbidden, OutboundClient

MAX_LISTING = 8 * 1024 * 1024
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class HubError(HeliuError):
    """The hub's answer cannot be used."""

    code = "hub_answer_invalid"


@dataclass(frozen=True)
class HubFile:
    """`sha256` for large files, `sha1` of git's blob for small ones: of one of the two the content must be."""

    path: str
    url: str
    bytes: int
    sha256: str | None
    sha1: str | None


@dataclass(frozen=True)
class Repository:
    """One commit: the files that a model is served from."""

    commit: str
    files: tuple[HubFile, ...]


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Hub:
    """`token` goes to the hub's own host only. `max_bytes` bounds all files of a model together."""

    def __init__(self, url: str, client: OutboundClient, *, token: str, max_bytes: int) -> None:
        self._url = url.rstrip("/")
        self._client = client
        self._token = token
        self._max_bytes = max_bytes

    def look(self, hub_id: str, revision: str) -> Repository:
        """Raises NotFound, InvalidInput for a repository that is no servable model, HubError or Unavailable."""
        where = f"{self._url}/api/models/{hub_id}/revision/{quote(revision, safe='')}?blobs=true"
        with self._get(where) as answer:
            raw = _whole(answer, MAX_LISTING)
            _check_status(answer.status, f"{hub_id} at {revision}")
        try:
            told = json.loads(raw)
            commit, siblings = str(told["sha"]), list(told["siblings"])
            files = [self._file(hub_id, commit, one) for one in siblings if is_model_file(one["rfilename"])]
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise HubError(f"the hub describes {hub_id} in a way that is not understood: {exc!r}") from exc
        self._check(hub_id, files, [str(one["rfilename"]) for one in siblings])
        return Repository(commit, tuple(files))

    def fetch(self, file: HubFile, store: Artifacts, *, tick: Callable[[int], object]) -> str:
        """The file as an object of the store; `tick` hears of its bytes as they come, and may raise to end it.

        Raises HubError when size or hash are not those that the hub told.
        """
        with self._get(file.url) as answer:
            _check_status(answer.status, file.path)
            source = _Hashing(answer, file, tick)
            try:
                artifact, size = store.put(source, max_bytes=file.bytes)
            except InvalidInput as exc:
                raise HubError(
                    f"{file.path} is longer than the {file.bytes} bytes that the hub told"
                ) from exc
        if size != file.bytes:
            raise Unavailable(
                f"{file.path} broke off after {size} of {file.bytes} bytes", code="hub_broke_off"
            )
        if not source.is_what_was_told(artifact):
            raise HubError(f"{file.path} does not have the hash that the hub told; it was not taken")
        return artifact

    def _file(self, hub_id: str, commit: str, told: dict[str, Any]) -> HubFile:
        large = told.get("lfs") or {}
        path = str(told["rfilename"])
        url = f"{self._url}/{hub_id}/resolve/{quote(commit, safe='')}/{quote(path)}"
        size = large.get("size", told.get("size"))
        if type(size) is not int or size < 0:
            raise ValueError(f"no size of {path}")
        sha256, sha1 = large.get("sha256"), told.get("blobId")
        if not (sha256 or (sha1 and not large)):
            raise ValueError(f"no hash of {path}")
        return HubFile(path, url, size, str(sha256) if sha256 else None, str(sha1) if not sha256 else None)

    def _check(self, hub_id: str, files: list[HubFile], names: list[str]) -> None:
        if not any(file.path.endswith(".safetensors") for file in files):
            pickled = [name for name in names if is_pickle(name)]
            why = f"only pickles such as {pickled[0]!r}, which can run code when read" if pickled else "none"
            raise InvalidInput(f"{hub_id} has no .safetensors weights ({why})", param="hub_id")
        if len(files) > MAX_FILES:
            raise InvalidInput(
                f"{hub_id} has {len(files)} files; at most {MAX_FILES} are taken", param="hub_id"
            )
        total = sum(file.bytes for file in files)
        if total > self._max_bytes:
            raise InvalidInput(
                f"{hub_id} has {total} bytes, over the limit of {self._max_bytes} (HELIU_MAX_MODEL_BYTES)",
                code="file_too_large",
                param="hub_id",
            )

    @contextmanager
    def _get(self, url: str) -> Iterator[Download]:
        """Follow the hub to where it keeps a file, by https alone, as far as every host on the way may be asked."""
        for _ in range(MAX_REDIRECTS + 1):
            home = urlsplit(url)[:2] == urlsplit(self._url)[:2]
            headers = {"Authorization": f"Bearer {self._token}"} if self._token and home else {}
            with self._client.get(
                url, {"User-Agent": "heliu", "Accept-Encoding": "identity", **headers}
            ) as got:
                if got.status not in REDIRECTS:
                    yield got
                    return
                target = got.header("Location")
            if not target:
                raise HubError("the hub redirects to nowhere")
            try:
                url = urljoin(url, target)
            except ValueError as exc:
                raise HubError(f"the hub redirects to what is no address: {exc}") from exc
        raise Forbidden(f"the hub redirects more than {MAX_REDIRECTS} times")


class _Hashing:
    """Passes bytes on and keeps git's hash of them: sha1 over "blob SIZE\\0" and the content."""

    def __init__(self, source: Reader, file: HubFile, tick: Callable[[int], object]) -> None:
        self._source = source
        self._file = file
        self._tick = tick
        self._sha1 = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._source.read(size)
        self._tick(len(chunk))
        if self._file.sha1:
            self._sha1.update(chunk)
        return chunk

    def is_what_was_told(self, artifact: str) -> bool:
        if self._file.sha256:
            return artifact == f"sha256:{self._file.sha256}"
        return self._sha1.hexdigest() == self._file.sha1


def _whole(answer: Download, most: int) -> bytes:
    parts, size = [], 0
    while chunk := answer.read(65536):
        size += len(chunk)
        if size > most:
            raise HubError(f"the hub's description is over {most} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _check_status(status: int, what: str) -> None:
    if status in (401, 403):
        raise HeliuError(
            f"the hub does not give {what}: it wants a token that may read it (HELIU_HUB_TOKEN), or there is no such "
            "thing",
            code="hub_denied",
            param="hub_id",
        )
    if status == 404:
        raise NotFound(f"the hub has no {what}", param="hub_id")
    if status == 429 or status >= 500:
        raise Unavailable(f"the hub answered {status} for {what}", code="hub_unavailable")
    if status != 200:
        raise HubError(f"the hub answered {status} for {what}")
