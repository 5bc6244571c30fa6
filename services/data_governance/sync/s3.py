"""Objects of an S3 bucket, or of what speaks S3: listed by ETag, fetched, signed as AWS asks (SigV4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from services.data_governance.sync.reach import SourceFailed
from services.data_governance.sync.reading import Item
from services.data_governance.sync.web import Answer, Web
from shared.contracts.sources import S3, redacted

PAGE = 1000


@dataclass(frozen=True)
class S3Source:
    spec: S3
    credentials: Mapping[str, Any]
    web: Web
    _etags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        return self.spec.key

    def close(self) -> None:
        self.web.close()

    def items(self) -> Iterator[Item]:
        """Raises SourceFailed with what the server says, SourceUnavailable when it does not answer."""
        token: str | None = None
        while True:
            query = {"list-type": "2", "max-keys": str(PAGE), "prefix": self.spec.prefix}
            query |= {"continuation-token": token} if token else {}
            listing = self._listing(f"{self._base()}?{urlencode(query, quote_via=quote)}")
            for entry in listing.iterfind("{*}Contents"):
                name = entry.findtext("{*}Key", "")
                if not name.endswith("/") and _fits(name.removeprefix(self.spec.prefix), self.spec.pattern):
                    size, etag = entry.findtext("{*}Size", "0"), entry.findtext("{*}ETag", "")
                    yield Item(name, etag.strip('"'), int(size))
            token = listing.findtext("{*}NextContinuationToken")
            if not token:
                return

    def fetch(self, item: Item, target: Path) -> str:
        """The digest is that of the content; one that was replaced since it was listed is told of as it is now."""
        url = f"{self._base()}/{quote(item.name)}"
        answer, digest = self.web.download(url, self._signed(url), target)
        if answer.status != 200:
            with target.open("rb") as told:
                self._refuse(answer, told.read(4096), item.name)
        return digest

    def _base(self) -> str:
        endpoint = self.spec.endpoint or f"https://s3.{self.spec.region}.amazonaws.com"
        return f"{endpoint.rstrip('/')}/{self.spec.bucket}"

    def _listing(self, url: str) -> ElementTree.Element:
        answer = self.web.get(url, self._signed(url))
        if answer.status != 200:
            self._refuse(answer, answer.body, self.spec.bucket)
        try:
            # Expat since 2.4 bounds what entities grow to, and fetches none.
            return ElementTree.fromstring(answer.body)
        except ElementTree.ParseError as exc:
            raise SourceFailed(
                "the listing is no XML; is the endpoint one of S3?", param="connection.endpoint"
            ) from exc

    def _signed(self, url: str) -> Callable[[], dict[str, str]]:
        held = self.credentials
        if not held:
            return dict
        credentials = Credentials(held["access_key_id"], held["secret_access_key"], held.get("session_token"))

        def headers() -> dict[str, str]:
            request = AWSRequest(method="GET", url=url)
            S3SigV4Auth(credentials, "s3", self.spec.region).add_auth(request)
            return {name: str(value) for name, value in request.headers.items()}

        return headers

    def _refuse(self, answer: Answer, body: bytes, what: str) -> None:
        try:
            told = ElementTree.fromstring(body)
            said = f"{told.findtext('Code', '')}: {told.findtext('Message', '')}"
        except ElementTree.ParseError:
            said = body[:200].decode("utf-8", "replace")
        param = "credentials" if answer.status in (401, 403) else "connection.bucket"
        said = redacted(said, self.credentials)[:300]
        raise SourceFailed(f"S3 answered {answer.status} for {what[:200]!r}: {said}", param=param)


def _fits(name: str, pattern: str) -> bool:
    """`**/` in a pattern stands for no folder too, as it does for files."""
    return fnmatchcase(name, pattern) or (pattern.startswith("**/") and fnmatchcase(name, pattern[3:]))
