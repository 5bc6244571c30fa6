"""Webhooks from a job's end to a receiver on loopback, on a real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from openai import OpenAI

from services.dispatcher.deliver import MAX_ATTEMPTS, PER_TENANT, Deliverer
from shared import job_store
from shared.bootstrap import create_tenant
from shared.db import Database, Row
from shared.jobs import NewJob, Status, new_id
from shared.outbound import OutboundClient
from shared.webhooks import new_secret

PATIENCE = 60


class Hook:
    """A webhook receiver: takes note of what comes and answers by path (`/500` with 500, `/hold` when released)."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes, dict[str, str]]] = []
        self.released = threading.Event()
        self.arrived = threading.Condition()
        self.open = 0
        self.most_open: dict[str, int] = {}
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with hook.arrived:
                    hook.open += 1
                    hook.most_open[self.path] = max(hook.open, hook.most_open.get(self.path, 0))
                    headers = {key.lower(): value for key, value in self.headers.items()}
                    hook.got.append((self.path, body, headers))
                    hook.arrived.notify_all()
                if self.path.startswith("/hold"):
                    hook.released.wait(PATIENCE)
                with hook.arrived:
                    hook.open -= 1
                self.send_response(int(self.path[1:]) if self.path[1:].isdigit() else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait_for(self, count: int, path: str = "") -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.at(path)) >= count, PATIENCE), self.got

    def at(self, path: str = "") -> list[tuple[str, bytes, dict[str, str]]]:
        return [one for one in self.got if one[0].startswith(path)]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class World:
    """A database, a receiver, and a deliverer that may talk to loopback."""

    def __init__(self, url: str, hook: Hook, **client: Any) -> None:
        self.db = Database(url, application="test", max_size=10)
        self.hook = hook
        self.outbound = OutboundClient(**{"timeout_s": 2.0 * PATIENCE, "allow_private": True, **client})
        self.deliverer = Deliverer(self.db, self.outbound)
        self.secret = new_secret()

    def close(self) -> None:
        self.hook.released.set()
        self.deliverer.close()
        self.db.close()

    def tenant(self, name: str) -> UUID:
        with self.db.core() as connection:
            return create_tenant(connection, name)

    def endpoint(self, tenant: UUID, path: str = "/ok", url: str = "") -> str:
        endpoint = new_id("we_")
        with self.db.transaction(tenant) as connection:
            connection.execute(
                "INSERT INTO core.webhook_endpoint (id, tenant_id, url, secret, events) VALUES (%s, %s, %s, %s, %s)",
                (
                    endpoint,
                    tenant,
                    url or self.hook.url + path,
                    self.secret,
                    ["job.succeeded", "alert.raised"],
                ),
            )
        return endpoint

    def event(self, tenant: UUID, count: int = 1) -> None:
        with self.db.core() as connection:
            for n in range(count):
                job_store.enqueue_webhooks(connection, tenant, "alert.raised", {"id": f"alert_{n}"})

    def deliver(self) -> int:
        """Deliver what is due and wait for it."""
        started = self.deliverer.deliver_due()
        assert self.deliverer.wait(PATIENCE)
        return started

    def rows(self) -> list[Row]:
        with self.db.core() as connection:
            return connection.execute(
                "SELECT *, next_at > now() AS later FROM core.webhook_delivery ORDER BY created_at, id"
            ).fetchall()

    def make_due(self) -> None:
        with self.db.core() as connection:
            connection.execute("UPDATE core.webhook_delivery SET next_at = now() WHERE delivered_at IS NULL")


@pytest.fixture
def hook() -> Iterator[Hook]:
    one = Hook()
    yield one
    one.close()


@pytest.fixture
def world(database_url: str, hook: Hook) -> Iterator[World]:
    one = World(database_url, hook)
    yield one
    one.close()


def test_the_end_of_a_job_reaches_its_receiver_signed(world: World) -> None:
    tenant = world.tenant("acme")
    world.endpoint(tenant)
    new = NewJob(id=new_id("job_"), tenant_id=tenant, kind="noop", queue="q", payload={})
    with world.db.transaction(tenant) as connection:
        job_store.submit(connection, new)
    with world.db.core() as connection:
        job = job_store.claim(connection, "q", "w", timedelta(seconds=60))
        assert job is not None
        job_store.leave(connection, job, Status.SUCCEEDED, message="done")
    assert world.deliver() == 1
    ((_, body, headers),) = world.hook.got
    event = OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=world.secret)
    assert (event.type, event.data.id) == ("job.succeeded", job.id)
    (row,) = world.rows()
    assert (row["id"], row["attempts"], row["last_error"]) == (headers["webhook-id"], 1, None)
    assert row["delivered_at"] is not None
    assert world.deliver() == 0


def test_a_failed_attempt_is_tried_again_later_with_the_same_id(world: World) -> None:
    tenant = world.tenant("acme")
    world.endpoint(tenant, "/500")
    world.event(tenant)
    assert world.deliver() == 1
    assert world.deliver() == 0
    (row,) = world.rows()
    assert (row["attempts"], row["later"], row["failed_at"]) == (1, True, None)
    assert row["last_error"] == "the receiver answered 500"
    world.make_due()
    assert world.deliver() == 1
    assert len({headers["webhook-id"] for _, _, headers in world.hook.got}) == 1
    assert len(world.hook.got) == 2


def test_after_the_last_attempt_it_is_given_up_for_good(world: World) -> None:
    tenant = world.tenant("acme")
    world.endpoint(tenant, "/500")
    world.event(tenant)
    for _ in range(MAX_ATTEMPTS):
        world.make_due()
        assert world.deliver() == 1
    (row,) = world.rows()
    assert row["failed_at"] is not None
    world.make_due()
    assert world.deliver() == 0
    assert len(world.hook.got) == MAX_ATTEMPTS


def test_a_slow_receiver_does_not_delay_other_tenants(world: World) -> None:
    slow, quick = world.tenant("slow"), world.tenant("quick")
    for n in range(4):
        world.endpoint(slow, f"/hold{n}")
    world.endpoint(quick)
    world.event(slow, 5)
    world.event(quick, 20)
    world.deliverer.deliver_due()
    world.hook.wait_for(20, "/ok")
    assert not world.hook.released.is_set()
    assert len(world.hook.at("/hold")) == PER_TENANT
    world.hook.released.set()
    assert world.deliverer.wait(PATIENCE)
    assert all(row["delivered_at"] is not None for row in world.rows())
    assert len(world.hook.at("/hold")) == 20


def test_one_endpoint_gets_one_delivery_at_a_time(world: World) -> None:
    tenant = world.tenant("acme")
    world.endpoint(tenant)
    world.event(tenant, 30)
    world.deliver()
    assert (len(world.hook.got), world.hook.most_open) == (30, {"/ok": 1})


def test_no_transaction_is_open_while_a_receiver_takes_its_time(world: World) -> None:
    tenant = world.tenant("acme")
    world.endpoint(tenant, "/hold")
    world.event(tenant)
    world.deliverer.deliver_due()
    world.hook.wait_for(1)
    with world.db.core() as connection:
        row = connection.execute(
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'idle in transaction'"
        ).fetchone()
    assert row == {"n": 0}
    assert world.rows()[0]["later"]  # claimed: nobody else sends it meanwhile


def test_two_dispatchers_deliver_each_webhook_once(world: World, database_url: str) -> None:
    tenant = world.tenant("acme")
    for n in range(4):
        world.endpoint(tenant, f"/ok{n}")
    world.event(tenant, 10)
    other = Deliverer(world.db, world.outbound)
    try:
        for deliverer in (world.deliverer, other):
            deliverer.deliver_due()
        assert world.deliverer.wait(PATIENCE)
        assert other.wait(PATIENCE)
    finally:
        other.close()
    ids = [headers["webhook-id"] for _, _, headers in world.hook.got]
    assert (len(ids), len(set(ids))) == (40, 40)


def test_a_dispatcher_that_died_in_the_middle_is_followed_by_another_try(world: World) -> None:
    tenant = world.tenant("acme")
    world.endpoint(tenant)
    world.event(tenant)
    with world.db.core() as connection:  # the claim of one that died
        connection.execute("UPDATE core.webhook_delivery SET attempts = 1, next_at = now() + interval '70 s'")
    assert world.deliver() == 0
    world.make_due()
    assert world.deliver() == 1
    assert world.rows()[0]["attempts"] == 2


def test_a_private_receiver_is_refused_unless_the_operator_allows_it(database_url: str, hook: Hook) -> None:
    guarded = World(database_url, hook, allow_private=False)
    try:
        tenant = guarded.tenant("acme")
        guarded.endpoint(tenant)
        guarded.event(tenant)
        guarded.deliver()
        assert hook.got == []
        assert "HELIU_WEBHOOK_ALLOW_PRIVATE" in guarded.rows()[0]["last_error"]
    finally:
        guarded.close()


def test_the_deliveries_of_a_deleted_endpoint_end(world: World) -> None:
    tenant = world.tenant("acme")
    endpoint = world.endpoint(tenant)
    world.event(tenant)
    with world.db.core() as connection:
        connection.execute("UPDATE core.webhook_endpoint SET deleted_at = now() WHERE id = %s", (endpoint,))
    world.deliver()
    assert world.hook.got == []
    assert world.rows()[0]["failed_at"] is not None
