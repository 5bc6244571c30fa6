"""A labeller at work: what is given out next, and what a label, a skip or a decision does to its item.

Runs inside a transaction of the labeller's tenant. Knows no HTTP.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from services.gateway.labelling import work_repository as repository
from services.gateway.labelling.work_repository import Role
from shared.contracts.label_values import check_value, outcome
from shared.contracts.labelling import ProjectSpec
from shared.db import Connection, Row
from shared.errors import Conflict, HeliuError, NotFound

Queue = Literal["label", "adjudication"]
Value = dict[str, Any]
ROLES: dict[Queue, Role] = {"label": "label", "adjudication": "adjudicate"}


@dataclass(frozen=True)
class Labeller:
    """A person in one project, as the token says."""

    id: str
    name: str
    tenant: UUID
    adjudicates: bool
    project: str
    project_name: str
    spec: ProjectSpec


def next_items(connection: Connection, me: Labeller, queue: Queue, count: int) -> list[Row]:
    """What the labeller holds, topped up to `count` items; the same again while nothing of it was answered."""
    role = _role(me, queue)
    values = {
        "me": me.id,
        "project": me.project,
        "tenant": me.tenant,
        "role": role,
        "lease": me.spec.lease_seconds,
        "limit": count,
    }
    repository.renew(connection, values)
    missing = count - len(repository.held(connection, values))
    if role == "adjudicate":
        repository.claim(connection, "disputed", {**values, "count": max(0, missing)})
    else:
        _claim_labels(connection, me, values, missing)
    found = repository.held(connection, values)
    if role == "label":
        return found
    return [{**row, "labels": repository.values_of(connection, row["id"])} for row in found]


def _claim_labels(connection: Connection, me: Labeller, values: dict[str, Any], missing: int) -> None:
    """Gold ones among the others, where a project has them; all that is left of gold where nothing else is."""
    if missing <= 0:
        return
    gold = 0
    if me.spec.gold_share:
        seen, known = repository.seen(connection, me.id)
        for at in range(missing):
            gold += gold_due(me.spec.gold_share, seen + at, known + gold, secrets.randbelow(2**32) / 2**32)
        gold = repository.claim(connection, "gold", {**values, "count": gold}) if gold else 0
    repository.claim(connection, "open", {**values, "count": missing - gold})


def gold_due(share: float, seen: int, gold: int, draw: float) -> bool:
    """Whether the next item is a known one: by chance (`draw` from 0 to 1), but never two off from `share`."""
    ahead = gold - share * seen
    return ahead < 1 and (ahead < -1 or draw < share)


def answer(
    connection: Connection, me: Labeller, item_id: str, queue: Queue, given: Any, seconds: float | None
) -> Row:
    """Take a label (`given`) or a skip (None); returns `{"state", "value", "corrected"}` of the turn.

    Raises NotFound for no item of this project, InvalidInput for a value that does not fit, Conflict where the item
    is no longer to be had.
    """
    role = _role(me, queue)
    item = repository.lock_item(connection, me.project, item_id)
    if item is None:
        raise NotFound(f"this project has no item {item_id!r}", param="item_id")
    value = check_value(me.spec, item["data"], given) if given is not None else None
    turns = repository.turns(connection, item_id, me.id)
    before = turns.get(role)
    if before is not None and before["value"] == value and before["state"] != "leased":
        return {"state": before["state"], "value": value, "corrected": False}
    take = _decide if role == "adjudicate" else _label
    kind = take(item, turns, value)
    repository.put_turn(
        connection,
        me.tenant,
        {
            "item": item_id,
            "me": me.id,
            "project": me.project,
            "role": role,
            "state": "labelled" if value is not None else "skipped",
            "value": value,
            "kind": kind,
            "seconds": seconds,
        },
    )
    if role == "label":
        _settle(connection, me.spec, item)
    repository.set_item(connection, item)
    return {
        "state": "labelled" if value is not None else "skipped",
        "value": value,
        "corrected": kind == "correct",
    }


def _label(item: Row, turns: dict[str, Row], value: Value | None) -> str:
    """Change `item` for a blind label; returns the kind of event. Raises Conflict."""
    before = turns.get("label")
    if "adjudicate" in turns:
        raise Conflict(
            "you have seen what others said of this item, so it is not yours to label", param="item_id"
        )
    if before is not None and before["state"] == "labelled":
        if value is None:
            raise Conflict("you have labelled this item already; correct the label instead", param="item_id")
        if item["final_by"] == "adjudicator":
            raise Conflict(
                "this item is decided by an adjudicator; your label stays as it is", param="item_id"
            )
        return "correct"
    if before is None or before["state"] == "skipped":
        _check_room(item)
        if value is not None and item["state"] != "gold":
            item["taken"] += 1
    elif value is None and item["state"] != "gold":
        item["taken"] = max(0, item["taken"] - 1)
    return "label" if value is not None else "skip"


def _check_room(item: Row) -> None:
    """A lease that ran out costs nothing while nobody else took the place."""
    if item["state"] != "gold" and (item["state"] != "open" or item["taken"] >= item["needed"]):
        raise Conflict(
            "your time for this item ran out and others have labelled it since; go on with the next",
            param="item_id",
        )


def _decide(item: Row, turns: dict[str, Row], value: Value | None) -> str:
    """Change `item` for an adjudicator's decision; returns the kind of event. Raises Conflict."""
    own, before = turns.get("label"), turns.get("adjudicate")
    if own is not None and own["state"] == "labelled":
        raise Conflict("you have labelled this item, so somebody else must decide it", param="item_id")
    corrects = before is not None and before["state"] == "labelled"
    if corrects and value is None:
        raise Conflict("you have decided this item already; correct the decision instead", param="item_id")
    if not corrects:
        leased = before is not None and before["state"] == "leased"
        if item["state"] != "adjudication" or (item["adjudicating"] and not leased):
            raise Conflict("this item waits for no decision of yours; go on with the next", param="item_id")
    if value is None:
        item["adjudicating"] = False
        return "skip"
    item |= {"state": "done", "final": value, "final_by": "adjudicator", "adjudicating": False}
    return "correct" if corrects else "adjudicate"


def _settle(connection: Connection, spec: ProjectSpec, item: Row) -> None:
    """Where all blind labels are in: the consensus, or a case for an adjudicator."""
    if item["state"] == "gold":
        return
    settled = outcome(repository.values_of(connection, item["id"]), item["needed"], spec.agreement)
    item |= settled or {}


def _role(me: Labeller, queue: Queue) -> Role:
    if queue == "adjudication" and not me.adjudicates:
        raise HeliuError(
            f"{me.name!r} labels in this project and does not adjudicate; its owner decides who does",
            code="permission_denied",
        )
    return ROLES[queue]
