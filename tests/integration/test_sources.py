"""Sources through the API: sealed credentials, syncs of a Postgres that changes, kills in mid-sync, schedules."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.dispatcher.schedules import fire_due
from services.gateway.sources import repository as sources_repository
from shared.artifacts import ArtifactStore
from shared.contracts.sources import secret_name
from shared.db import Database
from shared.errors import HeliuError
from shared.sealing import Sealer
from tests import servers
from tests.harness import Harness, platform, wait_for

CANARY = "canary-pw-5b1f77"
ROWS = 3000
ENDED = ("succeeded", "failed", "dead", "cancelled")

MAKE = """
CREATE TABLE orders (id integer PRIMARY KEY, 品名 text, amount integer, price numeric(10, 2), made timestamptz,
    tags text[], extra jsonb, updated_at timestamptz NOT NULL DEFAULT now());
INSERT INTO orders SELECT n, '品 ' || n, n %% 97, n / 7.0, '2026-01-01Z'::timestamptz + n * interval '1 minute',
    ARRAY['a', 'b' || n], jsonb_build_object('n', n), '2026-01-01Z' FROM generate_series(1, %(rows)s) n;
CREATE ROLE reader LOGIN PASSWORD 'canary-pw-5b1f77';
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
"""

CHANGE = """
INSERT INTO orders SELECT n, '新 ' || n, 5, 1.5, NULL, NULL, NULL, now() FROM generate_series(%(rows)s + 1, %(more)s) n;
UPDATE orders SET amount = amount + 1000, updated_at = now() WHERE id %% 10 = 3;
DELETE FROM orders WHERE id %% 50 = 7;
ALTER TABLE orders ADD COLUMN note text DEFAULT 'none';
ALTER TABLE orders ALTER COLUMN amount TYPE text;
UPDATE orders SET amount = amount || ' 元', updated_at = now() WHERE id %% 100 = 9;
"""


class Stage:
    """A platform, and another Postgres that a source stands on."""

    def __init__(self, harness: Harness, source_url: str, folder: Path) -> None:
        self.harness = harness
        self.source_url = source_url
        self.folder = folder
        self.url = harness.start_gateway()
        self.worker = harness.start("data_governance")
        harness.start("dispatcher")
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {harness.key()}"}, timeout=60
        )
        self.artifacts = ArtifactStore(harness.settings.artifact_folder)

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def sql(self, text: str, **values: Any) -> None:
        with psycopg.connect(self.source_url) as connection:
            for statement in filter(str.strip, text.split(";\n")):
                bound = {k: v for k, v in values.items() if f"%({k})s" in statement}
                client = psycopg.ClientCursor(connection)
                client.execute(statement, bound) if bound else client.execute(statement.replace("%%", "%"))

    def postgres(self, **given: Any) -> dict[str, Any]:
        about = psycopg.conninfo.conninfo_to_dict(self.source_url)
        spec = {"kind": "postgres", "host": "127.0.0.1", "port": int(about["port"]), "user": "reader"}
        return {**spec, "database": about["dbname"], "table": "orders", **given}

    def sync(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        sync = self.call("POST", f"/v1/sources/{name}/syncs", body or {})
        return self.ended(name, sync["id"])

    def ended(self, name: str, sync: str) -> dict[str, Any]:
        self.harness.wait_job(sync)
        return self.call("GET", f"/v1/sources/{name}/syncs/{sync}")

    def state(self, name: str) -> list[dict[str, Any]]:
        file = self.call("GET", f"/v1/sources/{name}")["file_id"]
        with self.harness.db.transaction(self.harness.tenant) as c:
            row = c.execute("SELECT artifact FROM gateway.file WHERE id = %s", (file,)).fetchone()
        assert row is not None
        return pq.read_table(self.artifacts.path(row["artifact"])).to_pylist()

    def table(self) -> dict[int, dict[str, Any]]:
        with psycopg.connect(self.source_url, row_factory=psycopg.rows.dict_row) as connection:
            return {row["id"]: row for row in connection.execute("SELECT * FROM orders")}


@pytest.fixture(scope="module")
def stage(
    postgres: servers.RunningServer,
    valkey: servers.RunningServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    database = servers.new_database(postgres.url, "test_sources", template="heliu_template")
    folder = tmp_path_factory.mktemp("sources").resolve()
    settings = {"HELIU_SOURCE_HOSTS": "127.0.0.1", "HELIU_SOURCE_FOLDERS": str(folder)}
    with servers.postgres_server(tcp=True) as theirs, platform(database, valkey.url, **settings) as harness:
        made = Stage(harness, theirs.url, folder)
        made.sql(MAKE, rows=int(os.environ.get("SYNC_ROWS", ROWS)))
        yield made
        made.http.close()
    servers.drop_database(postgres.url, "test_sources")


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table as a state holds it."""

    def one(value: Any) -> Any:
        if isinstance(value, Decimal):
            return str(value)
        if isinstance(value, (list, dict)):
            return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return value

    return {name: one(value) for name, value in row.items()}


def held(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["id"]: {k: v for k, v in row.items() if k != "_origin"} for row in rows}


def test_a_table_that_changes_is_synced_exactly_with_its_drift_told_and_bad_rows_in_quarantine(
    stage: Stage,
) -> None:
    made = stage.call(
        "POST",
        "/v1/sources",
        {
            "name": "orders",
            "connection": stage.postgres(cursor="updated_at"),
            "credentials": {"password": CANARY},
        },
    )
    assert CANARY not in json.dumps(made)
    first = stage.sync(
        "orders", {"build": {"dataset": "orders", "recipe": {"version": 1, "input": {"text": "品名"}}}}
    )
    assert first["status"] == "succeeded", first
    rows = stage.table()
    assert held(stage.state("orders")) == {key: shown(row) for key, row in rows.items()}
    assert first["report"]["rows"]["inserted"] == len(rows)
    assert stage.harness.wait_job(first["build"]["job_id"]).state == "succeeded"

    count = len(rows)
    stage.sql(CHANGE, rows=count, more=count + count // 20)
    second = stage.sync("orders")
    assert second["status"] == "succeeded", second
    after = stage.table()
    good = {
        key: shown(row) | {"amount": int(row["amount"])}
        for key, row in after.items()
        if "元" not in row["amount"]
    }
    assert held(stage.state("orders")) == good
    report, drift = second["report"], second["report"]["drift"]
    bad = {key for key, row in after.items() if "元" in row["amount"]}
    assert drift["added"] == [{"column": "note", "type": "text"}]
    assert drift["changed"] == [{"column": "amount", "was": "integer", "now": "text", "rows": len(bad)}]
    assert report["rows"]["deleted"] == len(rows.keys() - after.keys())
    assert report["rows"]["inserted"] == len((after.keys() - rows.keys()) - bad)
    assert report["rows"]["quarantined"] == len(bad)
    told = stage.call("GET", "/v1/sources/orders/quarantine?limit=500")
    assert told["total"] == len(bad)
    assert {int(row["key"]) for row in told["data"]} <= bad
    assert "amount" in told["data"][0]["reason"]
    assert "元" in told["data"][0]["row"]


def test_a_sync_that_is_killed_again_and_again_ends_in_the_exact_table(stage: Stage) -> None:
    body = {"name": "killed", "connection": stage.postgres(), "credentials": {"password": CANARY}}
    stage.call("POST", "/v1/sources", body)
    sync = stage.call("POST", "/v1/sources/killed/syncs", {})["id"]
    for _ in range(2):
        stage.harness.wait_job(sync, until=lambda job: job.state in (*ENDED, "leased"))
        stage.worker.kill()
        stage.worker = stage.harness.start("data_governance")
    ended = stage.ended("killed", sync)
    assert ended["status"] == "succeeded", ended
    assert held(stage.state("killed")) == {key: shown(row) for key, row in stage.table().items()}
    with stage.harness.db.transaction(stage.harness.tenant) as c:
        files = c.execute("SELECT filename FROM gateway.file WHERE job_id = %s", (sync,)).fetchall()
    assert len(files) == 1


def test_a_wrong_password_is_told_in_words_and_no_password_is(stage: Stage) -> None:
    wrong = "canary-wrong-41c9"
    body = {"name": "locked", "connection": stage.postgres(), "credentials": {"password": wrong}}
    error = stage.call("POST", "/v1/sources", body, 400)["error"]
    assert error["code"] == "source_test_failed"
    assert "password authentication failed" in error["message"]
    assert wrong not in json.dumps(error)
    stage.call("POST", "/v1/sources", body | {"test": False})
    failed = stage.sync("locked")
    assert failed["status"] == "failed"
    assert wrong not in json.dumps(failed)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"connection": {"kind": "oracle"}}, "connection.kind", "invalid_value"),
        (
            {"connection": {"kind": "sqlite", "path": "/etc/passwd", "table": "x"}},
            "connection.path",
            "source_test_failed",
        ),
        (
            {"connection": {"kind": "files", "path": "/etc", "pattern": "*"}},
            "connection.path",
            "source_test_failed",
        ),
        (
            {"connection": {"kind": "http", "url": "http://169.254.169.254/x", "key": ["id"]}},
            "connection.url",
            None,
        ),
        (
            {"connection": {"kind": "http", "url": "ftp://a/x", "key": ["id"]}},
            "connection.url",
            "address_forbidden",
        ),
        ({"credentials": {"pasword": CANARY}}, "credentials", "invalid_value"),
        ({"credentials": {"password": [CANARY]}}, "credentials.password", "invalid_value"),
        ({"schedule": {"cron": "every day"}}, "schedule.cron", "invalid_value"),
        ({"options": {"added": "evolv"}}, "options.added", "invalid_value"),
        ({"build": {"dataset": "a", "recipe": {"version": 1, "steps": [{"op": "nope"}]}}}, None, None),
        ({"name": "src-1"}, "name", "invalid_value"),
    ],
)
def test_a_source_that_cannot_be_is_refused_by_name_and_tells_no_credential(
    stage: Stage, body: dict[str, Any], param: str | None, code: str | None
) -> None:
    error = stage.call("POST", "/v1/sources", {"name": "bad", "connection": stage.postgres()} | body, 400)[
        "error"
    ]
    assert CANARY not in json.dumps(error)
    assert param is None or error["param"] == param, error
    assert code is None or error["code"] == code, error


def test_another_tenants_source_is_not_there(stage: Stage) -> None:
    with httpx.Client(base_url=stage.url, timeout=30) as http:
        operator = {"authorization": f"Bearer {stage.harness.key('operator')}"}
        http.post("/v1/tenants", json={"name": "rival"}, headers=operator).raise_for_status()
        made = http.post("/v1/keys", json={"tenant": "rival", "name": "k"}, headers=operator).json()
        rival = {"authorization": f"Bearer {made['key']}"}
        for method, path in (
            ("GET", "/v1/sources/orders"),
            ("DELETE", "/v1/sources/orders"),
            ("POST", "/v1/sources/orders/test"),
            ("POST", "/v1/sources/orders/syncs"),
            ("GET", "/v1/sources/orders/syncs"),
            ("GET", "/v1/sources/orders/quarantine"),
        ):
            answer = http.request(method, path, headers=rival, json={} if method == "POST" else None)
            assert answer.status_code == 404, (method, path, answer.text)
        assert http.get("/v1/sources", headers=rival).json()["data"] == []


def test_a_moment_of_a_schedule_is_fired_once_by_many_dispatchers(stage: Stage) -> None:
    (stage.folder / "notes.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    body = {
        "name": "notes",
        "connection": {"kind": "files", "path": str(stage.folder), "pattern": "*.jsonl"},
        "schedule": {"cron": "0 0 1 1 *", "timezone": "Asia/Shanghai"},
    }
    source = stage.call("POST", "/v1/sources", body)
    assert source["next_at"] > datetime.now(UTC).timestamp()
    with stage.harness.db.transaction(stage.harness.tenant) as c:
        c.execute(
            "UPDATE data_governance.source SET next_at = now() - interval '3 days' WHERE id = %s",
            (source["id"],),
        )
    others = [Database(stage.harness.settings.database_url, application="d", max_size=2) for _ in range(4)]
    threads = [threading.Thread(target=fire_due, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in others:
        one.close()
    path = "/v1/sources/notes/syncs"
    wait_for(lambda: stage.call("GET", path)["data"], 30, "the schedule to fire")
    syncs = stage.call("GET", path)["data"]
    assert [sync["scheduled"] for sync in syncs] == [True]
    assert stage.ended("notes", syncs[0]["id"])["report"]["rows"]["inserted"] == 2
    assert stage.call("GET", "/v1/sources/notes")["next_at"] == source["next_at"]


@pytest.fixture
def heliu(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`heliu ...` in this process; what it writes to standard output."""
    monkeypatch.setenv("HELIU_GATEWAY_URL", stage.url)
    monkeypatch.setenv("HELIU_API_KEY", stage.harness.key())

    def run(*words: str, operator: bool = False) -> str:
        if operator:
            monkeypatch.setenv("HELIU_API_KEY", stage.harness.key("operator"))
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, HeliuError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_command_line_adds_tests_syncs_builds_shows_and_removes(
    stage: Stage, heliu: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yml").write_text(json.dumps({"connection": stage.postgres(columns=["品名"])}))
    monkeypatch.setenv("THE_PASSWORD", CANARY)
    given = ("--credentials-env", "THE_PASSWORD", "--cron", "0 3 * * *", "--timezone", "Asia/Shanghai")
    assert CANARY not in heliu("sources", "add", "cli", "-f", str(tmp_path / "s.yml"), *given)
    assert json.loads(heliu("sources", "test", "cli", "--json"))["key"] == ["id"]
    (tmp_path / "r.yml").write_text(json.dumps({"version": 1, "input": {"text": "品名"}}))
    words = ("data", "sync", "cli", "--dataset", "cli-orders", "--recipe", str(tmp_path / "r.yml"))
    done = json.loads(heliu(*words, "--json"))
    assert done["build"]["version_id"].startswith("dsv-")
    assert done["report"]["rows"]["inserted"] == len(stage.table())
    assert "unchanged" in heliu("data", "sync", "cli")
    assert "Asia/Shanghai" in heliu("sources", "list")
    assert heliu("sources", "syncs", "cli").count("succeeded") >= 2
    heliu("sources", "change", "cli", "--no-schedule")
    assert json.loads(heliu("sources", "show", "cli", "--json"))["schedule"] is None
    heliu("sources", "remove", "cli")
    with pytest.raises(HeliuError, match="no source 'cli'"):
        heliu("sources", "show", "cli")


def test_a_check_finds_what_breaks_and_merges_a_file_with_the_state_of_a_source(
    stage: Stage, heliu: Callable[..., str], tmp_path: Path
) -> None:
    (stage.folder / "crm.csv").write_text("id,who,tel\n1,王小明,13800138000\n1,李雷,13900139000\n")
    body = {"name": "crm", "connection": {"kind": "files", "path": str(stage.folder / "crm.csv")}}
    stage.call("POST", "/v1/sources", body)
    stage.sync("crm")
    upload = stage.http.post(
        "/v1/files",
        data={"purpose": "user_data"},
        files={
            "file": (
                "shop.jsonl",
                '{"nr": 9, "customer": 2, "name": "王 小明先生", "phone": "+86 138 0013 8000"}\n',
            )
        },
    ).json()["id"]
    checks = {
        "inputs": [{"name": "crm", "source": "crm"}, {"name": "shop", "file_id": upload}],
        "checks": {
            "keys": [{"input": "crm", "columns": ["id"]}],
            "references": [{"input": "shop", "columns": ["customer"], "to": "crm", "to_columns": ["id"]}],
            "entities": {
                "match": [{"kind": "phone", "columns": {"crm": "tel", "shop": "phone"}}],
                "values": {"text": {"crm": "who", "shop": "name"}},
                "rule": "priority",
                "priority": ["crm", "shop"],
            },
        },
        "build": {"dataset": "people", "recipe": {"version": 1, "input": {"text": "text"}}},
    }
    (tmp_path / "checks.yml").write_text(json.dumps(checks))
    told = heliu("data", "check", str(tmp_path / "checks.yml"))
    assert "key crm(id): 1 values in 2 rows break it" in told
    assert "3 records are of 2 things" in told
    found = stage.call("GET", "/v1/checks")["data"][0]
    assert (found["ok"], found["report"]["references"][0]["rows"]) == (False, 1)
    build = stage.harness.wait_job(found["build"]["job_id"])
    assert build.result is not None
    assert build.result["rows"]["total"] == 2
    for name in ("file_id", "conflicts_file_id"):
        assert stage.call("GET", f"/v1/files/{found[name]}")["filename"].startswith("check.")
    wrong = checks | {"inputs": [{"name": "crm", "source": "crm"}]}
    assert stage.call("POST", "/v1/checks", wrong, 400)["error"]["param"] == "checks"
    wrong["inputs"] = [{"name": "crm", "source": "nobody"}, {"name": "shop", "file_id": upload}]
    assert stage.call("POST", "/v1/checks", wrong, 404)["error"]["param"] == "inputs[0].source"


def test_credentials_are_sealed_again_under_a_new_secret(stage: Stage, heliu: Callable[..., str]) -> None:
    assert json.loads(heliu("sources", "reseal", "--json", operator=True))["resealed"] == 0
    old = (stage.harness.settings.home / "keys" / "secrets").read_text().strip()
    both = Sealer(["a new secret of sixteen characters", old])
    with stage.harness.db.core() as c:
        before = sources_repository.all_sealed(c)
        assert before
        assert not any(both.is_current(row["sealed"]) for row in before)
        assert all("password" in both.open(row["sealed"], secret_name(row["id"])) for row in before)
    assert stage.call("POST", "/v1/secrets/reseal", {}, 403)["error"]["code"] == "permission_denied"


def test_credentials_stand_sealed_in_the_database_and_nowhere_in_clear(stage: Stage) -> None:
    with stage.harness.db.core() as c:
        rows = c.execute("SELECT sealed FROM data_governance.source WHERE sealed IS NOT NULL").fetchall()
        jobs = json.dumps(c.execute("SELECT payload, result, error, progress FROM core.job").fetchall())
        events = json.dumps(c.execute("SELECT message, data FROM core.job_event").fetchall())
        spans = json.dumps(
            c.execute("SELECT attributes, events, status_message FROM monitoring.span").fetchall()
        )
    assert rows
    assert all(row["sealed"].startswith("hs1.") for row in rows)
    logs = "".join(process.log.read_text() for process in stage.harness.processes)
    for text in (*(row["sealed"] for row in rows), jobs, events, spans, logs):
        assert "canary-" not in text
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        stage.harness.db.transaction(stage.harness.tenant) as c,
    ):
        c.execute("SELECT sealed FROM data_governance.source")


def test_a_source_that_is_deleted_forgets_its_credentials_and_leaves_its_files(stage: Stage) -> None:
    body = {"name": "passing", "connection": stage.postgres(), "credentials": {"password": CANARY}}
    source = stage.call("POST", "/v1/sources", body)
    file = stage.sync("passing")["file_id"]
    stage.call("DELETE", "/v1/sources/passing")
    stage.call("GET", "/v1/sources/passing", status=404)
    assert stage.call("GET", f"/v1/files/{file}")["filename"].startswith("passing@")
    with stage.harness.db.core() as c:
        row = c.execute("SELECT sealed FROM data_governance.source WHERE id = %s", (source["id"],)).fetchone()
    assert row is not None
    assert row["sealed"] is None
    assert os.environ.get("HELIU_SECRET_KEY") is None
