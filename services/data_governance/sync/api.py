"""JSON APIs: records at a path, pages by link, cursor, offset or number, ETag, and what changed since a value."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from services.data_governance.sync.reach import Reach, SourceFailed
from services.data_governance.sync.reading import Mark, Record, Unmodified
from services.data_governance.sync.values import before, cursor_in, cursor_out
from services.data_governance.sync.watch import Watch
from services.data_governance.sync.web import Answer, Web
from shared.contracts.sources import Api, ColumnType, redacted
from shared.errors import InvalidInput

MAX_PAGES = 1_000_000
NEXT = re.compile(r'<([^<>]*)>\s*(?:;[^,]*?)?;\s*rel="?next"?', re.IGNORECASE)


@dataclass(frozen=True)
class ApiSource:
    spec: Api
    credentials: Mapping[str, Any]
    reach: Reach
    watch: Watch

    @contextmanager
    def open(self) -> Iterator[ApiReading]:
        web = Web(self.reach, self.watch)
        try:
            yield ApiReading(self.spec, self.credentials, web)
        finally:
            web.close()


@dataclass
class ApiReading:
    """A `RowReading`; the rows themselves tell their columns."""

    spec: Api
    credentials: Mapping[str, Any]
    web: Web
    columns: Mapping[str, ColumnType] | None = None
    lists_keys: bool = False
    mark: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        return self.spec.key

    @property
    def incremental(self) -> bool:
        return self.spec.since is not None and self.spec.cursor is not None

    def all_keys(self) -> Iterator[Sequence[Record]]:
        raise AssertionError("an API lists no keys")

    def rows(self, mark: Mark, whole: bool) -> Iterator[Sequence[Record]]:
        """Page by page. Raises Unmodified where the first page is as the mark knows it."""
        self.mark = dict(mark)
        url = self._first_url(mark, whole)
        etag = mark.get("etag") if mark.get("url") == url else None
        place = self.spec.paging.first if self.spec.paging.by == "page" else 0
        self.mark |= {"url": url, "etag": None}
        for number in range(MAX_PAGES):
            answer = self._ask(url, etag if number == 0 else None)
            if number == 0:
                self.mark["etag"] = answer.headers.get("etag")
            parsed = self._parsed(answer)
            records = self._records(parsed)
            self._advance(records)
            yield records
            place += len(records) if self.spec.paging.by == "offset" else 1
            following = self._next(url, answer, parsed, records, place)
            if following is None or following == url:
                return
            url = following
        raise InvalidInput(f"the API has more than {MAX_PAGES} pages", code="too_many_pages")

    def _first_url(self, mark: Mark, whole: bool) -> str:
        paging, query = self.spec.paging, {}
        if paging.size_param is not None:
            query[paging.size_param] = str(paging.size)
        if paging.by in ("offset", "page"):
            query[paging.param or paging.by] = str(paging.first if paging.by == "page" else 0)
        if self.incremental and not whole and "cursor" in mark:
            assert self.spec.since is not None
            query[self.spec.since] = str(before(cursor_in(mark["cursor"]), self.spec.overlap))
        return _with(self.spec.url, query)

    def _next(
        self, url: str, answer: Answer, parsed: Any, records: Sequence[Record], place: int
    ) -> str | None:
        paging = self.spec.paging
        if paging.by == "none" or (paging.by in ("offset", "page") and not records):
            return None
        if paging.by in ("offset", "page"):
            return _with(url, {paging.param or paging.by: str(place)})
        told = _at(parsed, paging.next) if paging.next else None
        if paging.by == "cursor":
            return _with(url, {paging.param or "cursor": str(told)}) if told else None
        if told is None and (match := NEXT.search(answer.headers.get("link", ""))):
            told = match[1]
        if not told:
            return None
        return self._same_host(urljoin(url, str(told)))

    def _same_host(self, url: str) -> str:
        """Credentials go to the host that they were given for, and to no other."""
        own, other = urlsplit(self.spec.url), urlsplit(url)
        if (own.scheme, own.netloc) != (other.scheme, other.netloc):
            raise SourceFailed(
                f"the next page is at {other.netloc[:100]}, and credentials are for {own.netloc}"
            )
        return url

    def _ask(self, url: str, etag: str | None) -> Answer:
        headers = self._headers() | ({"if-none-match": etag} if etag else {})
        answer = self.web.get(url, lambda: headers)
        if answer.status == 304 and etag:
            self.mark["etag"] = etag
            raise Unmodified
        if answer.status != 200:
            said = redacted(answer.body[:200].decode("utf-8", "replace").strip(), self.credentials)
            param = "credentials" if answer.status in (401, 403) else "connection.url"
            raise SourceFailed(f"{urlsplit(url).netloc} answered {answer.status}: {said}", param=param)
        return answer

    def _headers(self) -> dict[str, str]:
        held = self.credentials
        headers = {"accept": "application/json", **self.spec.headers, **held.get("headers", {})}
        if "bearer" in held:
            headers["authorization"] = f"Bearer {held['bearer']}"
        elif "username" in held:
            pair = f"{held['username']}:{held['password']}".encode()
            headers["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return headers

    def _parsed(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as exc:
            raise SourceFailed(
                "the API answered with something that is no JSON", param="connection.url"
            ) from exc

    def _records(self, parsed: Any) -> list[Record]:
        found = _at(parsed, self.spec.records)
        if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
            where = f"`{self.spec.records}` of the answer" if self.spec.records else "the answer"
            raise SourceFailed(f"{where} is no list of objects", param="connection.records")
        return found

    def _advance(self, records: Sequence[Record]) -> None:
        name = self.spec.cursor
        values = [record[name] for record in records if record.get(name) is not None] if name else []
        if "cursor" in self.mark:
            values.append(cursor_in(self.mark["cursor"]))
        try:
            if values:
                self.mark["cursor"] = cursor_out(max(values))
        except TypeError as exc:
            raise InvalidInput(
                f"the cursor `{name}` holds values that have no order; name another, or none",
                code="cursor_unusable",
                param="connection.cursor",
            ) from exc


def _at(parsed: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    for part in filter(None, path.split(".")):
        parsed = parsed.get(part) if isinstance(parsed, dict) else None
    return parsed


def _with(url: str, query: Mapping[str, str]) -> str:
    """The URL with these parameters, in the place of its own of the same name."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, True) if name not in query]
    return urlunsplit(parts._replace(query=urlencode([*kept, *query.items()])))
