"""Syncs over HTTP: pages of every kind, ETag, 429 with Retry-After, what changed since; and S3 with a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from services.data_governance.sync.api import ApiSource
from services.data_governance.sync.connectors import item_source
from services.data_governance.sync.reach import Reach, SourceFailed, SourceUnavailable
from services.data_governance.sync.run import Plan, State, Synced, sync_items, sync_rows
from services.data_governance.sync.watch import Watch
from shared.contracts.sources import S3, Api, Options
from shared.outbound import Forbidden

NOW = datetime.fromisoformat("2026-01-01")
CANARY = "canary-token-8823"


class Server:
    """An API of `rows`: pages of three, an ETag of all it has, and what it shall answer instead for a while."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = [{"id": n, "at": n, "name": f"名 {n}"} for n in range(1, 11)]
        self.instead: list[tuple[int, dict[str, str]]] = []
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.statuses: list[int] = []
        self.next_host: str | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.tokens.add(self.headers["authorization"])
                status, body, headers = server.answer(self.path, self.headers["if-none-match"])
                server.statuses.append(status)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def answer(self, path: str, etag: str | None) -> tuple[int, bytes, dict[str, str]]:
        if self.instead:
            status, headers = self.instead.pop(0)
            return status, b"not now", headers
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        tag = f'"{hash(json.dumps(self.rows))}"'
        if etag == tag:
            return 304, b"", {"ETag": tag}
        rows = [row for row in self.rows if row["at"] >= int(query.get("since", 0))]
        start = {"/offset": int(query.get("start", 0)), "/page": 3 * (int(query.get("p", 1)) - 1)}.get(
            parts.path, int(query.get("c", 0))
        )
        more = start + 3 < len(rows)
        body: dict[str, Any] = {"data": {"items": rows[start : start + 3]}}
        headers = {"ETag": tag}
        if parts.path == "/cursor":
            body["next"] = str(start + 3) if more else None
        if parts.path == "/next" and more:
            body["next"] = f"{self.next_host or ''}/next?c={start + 3}"
        if parts.path == "/link" and more:
            headers["Link"] = f'</link?c={start + 3}>; rel="next", </link>; rel="first"'
        return 200, json.dumps(body).encode(), headers

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as made:
        yield made


class Sync:
    """Syncs of one API, one after another."""

    def __init__(self, server: Server, folder: Path, path: str, by: dict[str, Any], **given: Any) -> None:
        self.folder = folder
        self.spec = Api(
            kind="http", url=f"{server.url}{path}", records="data.items", key=("id",), paging=by, **given
        )
        self.state = State()
        self.pauses: list[float] = []
        self.credentials: dict[str, Any] = {"bearer": CANARY}
        self.hosts: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),)

    def run(self, *, deletes: bool = True, full: bool = False) -> Synced:
        scratch = self.folder / f"s{len(list(self.folder.iterdir()))}"
        scratch.mkdir()
        watch = Watch(lambda: None, self.pauses.append, lambda _: None)
        source = ApiSource(self.spec, self.credentials, Reach(hosts=self.hosts), watch)
        done = sync_rows(source, self.state, Plan("api", Options(), full, deletes, NOW), scratch, watch)
        self.state = State(
            done.columns, done.snapshot or self.state.snapshot, done.rows, done.quarantine, done.mark
        )
        return done

    def rows(self) -> list[dict[str, Any]]:
        assert self.state.snapshot is not None
        rows = pq.read_table(self.state.snapshot).to_pylist()
        return sorted(({k: v for k, v in r.items() if k != "_origin"} for r in rows), key=lambda r: r["id"])


@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("/offset", {"by": "offset", "param": "start"}),
        ("/page", {"by": "page", "param": "p"}),
        ("/cursor", {"by": "cursor", "param": "c", "next": "next"}),
        ("/next", {"by": "link", "next": "next"}),
        ("/link", {"by": "link"}),
    ],
)
def test_every_way_of_paging_gives_every_row_once(
    server: Server, tmp_path: Path, path: str, by: dict[str, Any]
) -> None:
    sync = Sync(server, tmp_path, path, by)
    report = sync.run().report
    assert sync.rows() == server.rows
    assert (report["rows"]["inserted"], report["rows"]["repeated"]) == (10, 0)
    assert server.tokens == {f"Bearer {CANARY}"}


def test_what_the_server_says_is_not_modified_is_not_read_again(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"})
    sync.run()
    before = len(server.asked)
    assert sync.run().report["mode"] == "not modified"
    assert (len(server.asked) - before, server.statuses[-1]) == (1, 304)
    server.rows.append({"id": 11, "at": 11, "name": "x"})
    del server.rows[0]
    told = sync.run().report["rows"]
    assert (told["inserted"], told["deleted"]) == (1, 1)
    assert sync.rows() == server.rows


def test_a_sync_asks_for_what_changed_since_the_last_one(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"}, cursor="at", since="since", overlap=1)
    sync.run()
    server.rows[2] = {"id": 3, "at": 20, "name": "new"}
    report = sync.run(deletes=False).report
    assert (report["mode"], report["rows"]["read"], report["rows"]["updated"]) == ("incremental", 3, 1)
    assert "since=9" in server.asked[-1]
    assert sync.rows() == server.rows


def test_a_server_that_asks_for_patience_gets_as_much_as_it_asks_for(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"})
    server.instead = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "3"})]
    sync.run()
    assert sync.pauses == [7.0, 3.0]
    assert sync.rows() == server.rows


def test_patience_has_an_end(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"})
    server.instead = [(429, {"Retry-After": "3600"})]
    with pytest.raises(SourceUnavailable, match="429"):
        sync.run()
    assert sync.pauses == []


def test_credentials_go_to_no_other_host(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/next", {"by": "link", "next": "next"})
    server.next_host = "http://localhost:1"
    with pytest.raises(SourceFailed, match="localhost:1"):
        sync.run()


def test_a_refusal_is_told_with_its_status_and_without_the_token(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"})
    server.instead = [(401, {})]
    with pytest.raises(SourceFailed, match="401") as caught:
        sync.run()
    assert CANARY not in caught.value.message
    assert caught.value.param == "credentials"


@pytest.mark.parametrize(
    ("records", "param"), [("data", "connection.records"), ("nope.at.all", "connection.records")]
)
def test_an_answer_of_another_shape_is_told_of(
    server: Server, tmp_path: Path, records: str, param: str
) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"})
    sync.spec = sync.spec.model_copy(update={"records": records})
    with pytest.raises(SourceFailed) as caught:
        sync.run()
    assert caught.value.param == param


def test_a_host_that_the_operator_did_not_list_is_not_asked(server: Server, tmp_path: Path) -> None:
    sync = Sync(server, tmp_path, "/link", {"by": "link"})
    sync.hosts = ()
    with pytest.raises(Forbidden, match="HELIU_SOURCE_HOSTS"):
        sync.run()
    assert server.asked == []


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """(endpoint, client) of a server that speaks S3, with the bucket `shop`."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    client = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key=CANARY,
    )
    client.create_bucket(Bucket="shop")
    yield f"http://{host}:{port}", client
    moto.stop()


def test_a_bucket_is_synced_by_what_its_etags_say(s3: tuple[str, Any], tmp_path: Path) -> None:
    endpoint, client = s3

    def put(key: str, text: str) -> None:
        client.put_object(Bucket="shop", Key=key, Body=text.encode())

    put("in/a.jsonl", '{"id": 1}\n{"id": 2}\n')
    put("in/深/b c+d.jsonl", '{"id": 3}\n')
    put("in/note.csv", "id\n7\n")
    put("out/x.jsonl", '{"id": 4}\n')
    spec = S3(kind="s3", bucket="shop", prefix="in/", pattern="**/*.jsonl", endpoint=endpoint, key=("id",))
    watch = Watch(lambda: None, lambda _: None, lambda _: None)
    state, known = State(), {}
    reports = []

    def sync() -> set[str]:
        nonlocal state
        scratch = tmp_path / str(len(reports))
        scratch.mkdir()
        credentials = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": CANARY}
        with closing(item_source(spec, credentials, Reach(hosts=(("127.0.0.1", 0),)), watch)) as source:
            done = sync_items(source, known, state, Plan("s3", Options(), False, True, NOW), scratch, watch)
        state = State(done.columns, done.snapshot or state.snapshot, done.rows)
        known.update({name: (fingerprint, digest) for name, fingerprint, digest in done.items})
        for name in done.items_gone:
            del known[name]
        reports.append(done.report)
        assert state.snapshot is not None
        return {origin["key"] for origin in pq.read_table(state.snapshot).column("_origin").to_pylist()}

    assert sync() == {"in/a.jsonl#1", "in/a.jsonl#2", "in/深/b c+d.jsonl#3"}
    put("in/a.jsonl", '{"id": 1}\n{"id": 5}\n')
    client.delete_object(Bucket="shop", Key="in/深/b c+d.jsonl")
    assert sync() == {"in/a.jsonl#1", "in/a.jsonl#5"}
    assert reports[1]["items"] == {"seen": 1, "read": 1, "gone": 1}
    spec = spec.model_copy(update={"bucket": "nobody"})
    with pytest.raises(SourceFailed, match="NoSuchBucket") as caught:
        sync()
    assert CANARY not in caught.value.message
