"""A bucket under a prefix: whole uploads, ranged downloads, listings. Errors of S3 become ours; knows no hash.

botocore tries again (5xx, throttling, time-outs; exponential backoff with jitter), `ATTEMPTS` times in all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from shared.errors import ConfigurationError, HeliuError, NotFound, Unavailable

ATTEMPTS = 6
CONNECT_S, READ_S = 5.0, 60.0
PART_BYTES = 16 * 1024 * 1024
# S3 takes 10,000 parts of one object, and copies no object over 5 GB in one request.
MOST_PARTS = 9_000
MOST_COPIED_BYTES = 5 * 10**9
CHUNK = 1024 * 1024
_ABSENT = ("404", "NoSuchKey", "NotFound")
_DENIED = (
    "403",
    "401",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "AllAccessDisabled",
)


@dataclass(frozen=True)
class Place:
    """Where a bucket is and who we are there; without keys AWS's own chain is asked (environment, profile, role)."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""

    @classmethod
    def parse(cls, url: str, **rest: str) -> Place:
        """Of `s3://BUCKET/PREFIX`. Raises ConfigurationError."""
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "//" in prefix:
            raise ConfigurationError(
                f"HELIU_ARTIFACTS must be a folder or s3://BUCKET/PREFIX, got {url!r}",
                param="HELIU_ARTIFACTS",
            )
        return cls(parts.netloc, f"{prefix}/" if prefix else "", **rest)

    @property
    def words(self) -> str:
        where = f" at {self.endpoint}" if self.endpoint else ""
        return f"s3://{self.bucket}/{self.prefix}{where}"


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells it; `written_at` is in unix seconds, by the server's clock, of whole seconds."""

    key: str
    bytes: int
    written_at: float


class Bucket:
    """Thread-safe. Keys are given and told without the prefix."""

    def __init__(self, place: Place, *, part_bytes: int = PART_BYTES) -> None:
        # A third of a second and tens of megabytes, which a store in a folder has no use for.
        import botocore.exceptions
        import botocore.session
        from botocore.config import Config

        self.place = place
        self._part_bytes = part_bytes
        self._refused = (botocore.exceptions.ClientError,)
        self._unsure = (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError)
        self._away = (botocore.exceptions.BotoCoreError, OSError)
        session = botocore.session.Session()
        self._s3 = session.create_client(
            "s3",
            endpoint_url=place.endpoint or None,
            region_name=place.region or session.get_config_variable("region") or "us-east-1",
            aws_access_key_id=place.access_key_id or None,
            aws_secret_access_key=place.secret_access_key or None,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                # A bucket in the path, and no checksums of AWS's own: what else speaks S3 knows both seldom.
                s3={"addressing_style": "path" if place.endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=32,
            ),
        )

    def check(self) -> None:
        """Raise ConfigurationError where the bucket is not there or not ours, Unavailable where nobody answers."""
        self._call("head_bucket")

    def head(self, key: str) -> Listed:
        """Raises NotFound."""
        told = self._call("head_object", key)
        return Listed(key, int(told["ContentLength"]), told["LastModified"].timestamp())

    def put_bytes(self, key: str, body: bytes, *, if_absent: bool = False) -> bool:
        """Store a small object; False where `if_absent` and one is there."""
        only = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            self._call("put_object", key, Body=body, ContentMD5=_md5(body), **only)
        except _Exists:
            return False
        return True

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file: in one request, or in parts that become an object when all are there."""
        size = path.stat().st_size
        with path.open("rb") as source:
            if size <= self._part_bytes:
                self.put_bytes(key, source.read())
            else:
                self._put_parts(key, source, max(self._part_bytes, -(-size // MOST_PARTS)))

    def _put_parts(self, key: str, source: BinaryIO, part_bytes: int) -> None:
        upload = self._call("create_multipart_upload", key)["UploadId"]
        try:
            parts: list[dict[str, object]] = []
            while body := source.read(part_bytes):
                number = len(parts) + 1
                told = self._call(
                    "upload_part", key, UploadId=upload, PartNumber=number, Body=body, ContentMD5=_md5(body)
                )
                parts.append({"PartNumber": number, "ETag": told["ETag"]})
            self._call("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self._abort(key, upload)
            raise

    def _abort(self, key: str, upload: str) -> None:
        """What cannot be given up now is swept later."""
        try:
            self._call("abort_multipart_upload", key, UploadId=upload)
        except HeliuError:
            return

    def renew(self, key: str) -> bool:
        """Make an object as new as if it had been written now; False where it is not there or too large for it."""
        try:
            if self.head(key).bytes > MOST_COPIED_BYTES:
                return False
            source = {"Bucket": self.place.bucket, "Key": self.place.prefix + key}
            self._call("copy_object", key, CopySource=source, MetadataDirective="REPLACE")
        except NotFound:
            return False
        return True

    def get(self, key: str, first: int | None = None) -> Iterator[bytes]:
        """The bytes of an object, or its `first` ones. Raises NotFound, and Unavailable when they break off."""
        only = {"Range": f"bytes=0-{first - 1}"} if first is not None else {}
        try:
            body = self._call("get_object", key, **only)["Body"]
        except _Empty:
            return
        try:
            while chunk := body.read(CHUNK):
                yield chunk
        except self._away as exc:
            raise self._unavailable(exc) from exc
        finally:
            body.close()

    def delete(self, key: str) -> None:
        self._call("delete_object", key)

    def list(self, under: str) -> Iterator[Listed]:
        for page in self._pages("list_objects_v2", "ContinuationToken", "NextContinuationToken", under):
            for one in page.get("Contents", ()):
                key = one["Key"].removeprefix(self.place.prefix)
                yield Listed(key, int(one["Size"]), one["LastModified"].timestamp())

    def abort_uploads(self, under: str, begun_before: float) -> int:
        """Give up uploads in parts that began before this moment; returns how many."""
        old = [
            (one["Key"].removeprefix(self.place.prefix), one["UploadId"])
            for page in self._pages("list_multipart_uploads", "UploadIdMarker", "NextUploadIdMarker", under)
            for one in page.get("Uploads", ())
            if one["Initiated"].timestamp() < begun_before
        ]
        for key, upload in old:
            self._abort(key, upload)
        return len(old)

    def _pages(self, what: str, marker: str, next_marker: str, under: str) -> Iterator[Mapping[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            page = self._call(what, Prefix=self.place.prefix + under, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {marker: page[next_marker]}
            if "NextKeyMarker" in page:
                more["KeyMarker"] = page["NextKeyMarker"]

    def _call(self, what: str, key: str | None = None, **arguments: Any) -> Any:
        if key is not None:
            arguments["Key"] = self.place.prefix + key
        try:
            return getattr(self._s3, what)(Bucket=self.place.bucket, **arguments)
        except self._refused as exc:
            raise self._said(exc, key) from exc
        except self._unsure as exc:
            raise ConfigurationError(
                f"no credentials for {self.place.words}: set HELIU_S3_ACCESS_KEY_ID and HELIU_S3_SECRET_ACCESS_KEY, "
                "or give the process a profile or role of AWS's",
                param="HELIU_S3_ACCESS_KEY_ID",
            ) from exc
        except self._away as exc:
            raise self._unavailable(exc) from exc

    def _said(self, exc: Any, key: str | None) -> HeliuError:
        code = str(exc.response.get("Error", {}).get("Code", ""))
        status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket" or (status == 404 and key is None):
            return ConfigurationError(
                f"there is no bucket {self.place.bucket!r} for {self.place.words}; make it, or mend HELIU_ARTIFACTS, "
                "HELIU_S3_ENDPOINT or HELIU_S3_REGION",
                code="storage_refused",
                param="HELIU_ARTIFACTS",
                retryable=True,
            )
        if code in _ABSENT:
            return NotFound(f"{key} is not in {self.place.words}", code="artifact_not_found")
        if code in ("PreconditionFailed", "412"):
            return _Exists(f"{key} is in {self.place.words} already")
        if code == "InvalidRange" or status == 416:
            return _Empty(f"{key} is empty")
        if code in _DENIED or status in (401, 403):
            return ConfigurationError(
                f"{self.place.words} refuses us ({code}): the key must be valid and may get, put, list and delete "
                "objects of the bucket; see HELIU_S3_ACCESS_KEY_ID and HELIU_S3_SECRET_ACCESS_KEY",
                code="storage_refused",
                param="HELIU_S3_ACCESS_KEY_ID",
                retryable=True,
            )
        if status in (301, 307, 400) and code in (
            "PermanentRedirect",
            "AuthorizationHeaderMalformed",
            "301",
            "400",
        ):
            return ConfigurationError(
                f"the bucket {self.place.bucket!r} is not of the region {self.place.region or 'us-east-1'!r}; "
                "set HELIU_S3_REGION to its own",
                param="HELIU_S3_REGION",
            )
        if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling", "503"):
            return self._unavailable(exc)
        return HeliuError(f"{self.place.words} answered {status} {code}: {exc}", code="storage_failed")

    def _unavailable(self, exc: BaseException) -> Unavailable:
        return Unavailable(
            f"the artifact store {self.place.words} does not answer, is its address (HELIU_S3_ENDPOINT) right? {exc}",
            code="storage_unavailable",
        )


class _Exists(HeliuError):
    """A write that asked for absence found an object."""


class _Empty(HeliuError):
    """A range of an object of no bytes."""


def _md5(body: bytes) -> str:
    """What S3 checks that what came is what was sent by."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
