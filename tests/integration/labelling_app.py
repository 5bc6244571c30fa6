"""A labelling project with items put in by hand, and its labellers: what the tests of labelling start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx

from shared.db import Connection
from tests.integration.gateway_app import RunningGateway

BASE = "/v1/labelling/projects"


def make_project(
    gateway: RunningGateway, texts: Sequence[str], *, key: str = "acme", name: str = "intents", **values: Any
) -> str:
    """A project without a source, and one item a text; returns its id."""
    spec = {"name": name, "task": "classification", "labels": ["good", "bad"], **values}
    with gateway.http(key) as owner:
        answer = owner.post(BASE, json=spec)
    assert answer.status_code == 200, answer.text
    project: str = answer.json()["id"]
    add_items(gateway, project, [{"text": text} for text in texts], values.get("labels_per_item", 1), key)
    return project


def add_items(
    gateway: RunningGateway, project: str, data: Sequence[dict[str, Any]], needed: int = 1, key: str = "acme"
) -> None:
    """Items as the import leaves them, in order."""
    with gateway.as_tenant(key) as c:
        insert_items(c, gateway.tenants[key], project, data, needed)


def insert_items(
    connection: Connection, tenant: UUID, project: str, data: Sequence[dict[str, Any]], needed: int
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO data_governance.label_item (id, tenant_id, project_id, position, row_id, data, needed)"
            " VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s)",
            [
                (f"{project}-{n}", tenant, project, n, f"row-{n}", json.dumps(one), needed)
                for n, one in enumerate(data)
            ],
        )


class Person:
    """A labeller with the token, as the page speaks for one."""

    def __init__(
        self, gateway: RunningGateway, project: str, name: str, *, adjudicates: bool = False
    ) -> None:
        with gateway.http() as owner:
            body = {"name": name, "adjudicates": adjudicates}
            answer = owner.post(f"{BASE}/{project}/labellers", json=body)
        assert answer.status_code == 200, answer.text
        self.id, self.token = answer.json()["id"], answer.json()["token"]
        self.work = f"{BASE}/{project}/work"
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {self.token}"}, timeout=30
        )

    def next(self, count: int = 1, queue: str = "label") -> list[dict[str, Any]]:
        answer = self.http.post(f"{self.work}/next", json={"count": count, "queue": queue})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def send(self, item: str, **body: Any) -> httpx.Response:
        return self.http.post(f"{self.work}/items/{item}/labels", json=body)

    def label(self, item: str, label: str, **body: Any) -> dict[str, Any]:
        answer = self.send(item, value={"label": label}, **body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told
