"""`/v1/labelling/projects`: what is to be labelled and by whom, and what has been said. The project's owner's side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field

from services.gateway import keys_repository
from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.datasets import repository as datasets_repository
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.submission import submit
from services.gateway.labelling import repository as labelling_repository
from services.gateway.labelling import shapes as label_shapes
from services.gateway.models import resolve
from services.gateway.pages import PageDep, listing, unknown_cursor
from shared import keys
from shared.contracts.labelling import ImportItems, ProjectSpec
from shared.db import Connection, Row
from shared.errors import Conflict, InvalidInput, NotFound
from shared.jobs import new_id

router = APIRouter(tags=["labelling"])

BASE = "/v1/labelling/projects"
NAME = r"^[^\s/\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^\s/\x00-\x1f\x7f])?$"


class CreateProject(ProjectSpec):
    """Items come from a file or a dataset version, or later by an import."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=128, pattern=NAME)
    file_id: str | None = Field(None, min_length=1, max_length=256)
    version_id: str | None = Field(None, min_length=1, max_length=256)


class ChangeProject(Body):
    """What is left out stays. Items that are in take the change in how many labels they need no more."""

    guidelines: str | None = Field(None, max_length=20_000)
    agreement: float | None = Field(None, gt=0, le=1)
    gold_share: float | None = Field(None, ge=0, le=0.5)
    lease_seconds: int | None = Field(None, ge=5, le=86_400)


class AddLabeller(Body):
    """`adjudicates` lets the person decide items that others disagree on."""

    name: str = Field(
        min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
    )
    adjudicates: bool = False


EXAMPLE = {
    "name": "intents",
    "file_id": "file-0123456789abcdef01234567",
    "task": "classification",
    "labels": ["refund", "delivery", "other"],
    "labels_per_item": 2,
}


@router.post(BASE, summary="Make a labelling project", **json_body(CreateProject, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateProject], Depends(incoming(CreateProject))]
) -> dict[str, Any]:
    """Answers with the project, and the job that brings its items in."""
    body, tenant = request.body, request.caller.tenant
    spec = ProjectSpec(**body.model_dump(exclude={"name", "file_id", "version_id"}))
    if body.file_id is not None and body.version_id is not None:
        raise InvalidInput("give file_id or version_id, not both", param="version_id")
    project_id = new_id("lab-")

    def insert(connection: Connection, source: dict[str, Any]) -> None:
        made = labelling_repository.insert_project(
            connection, project_id, tenant, body.name, spec.model_dump(mode="json"), source
        )
        if made is None:
            raise Conflict(
                f"there is a labelling project {body.name!r} already", code="already_exists", param="name"
            )

    def make(connection: Connection) -> ImportItems:
        contract = _source(connection, request.caller, body, project_id)
        insert(connection, {"kind": contract.source, "id": contract.source_id, "filename": contract.filename})
        return contract

    if body.file_id is None and body.version_id is None:
        with gateway.db.transaction(tenant) as connection:
            insert(connection, {})
        return {**_shown(gateway, request.caller, project_id), "job": None}
    job = submit(gateway, request, ImportItems, make)
    return {**_shown(gateway, request.caller, job.payload["project_id"]), "job": job_shapes.job(job)}


def _source(connection: Connection, caller: Caller, body: CreateProject, project_id: str) -> ImportItems:
    if body.file_id is not None:
        return import_of(connection, project_id, body.file_id, "file")
    assert body.version_id is not None
    found = datasets_repository.versions(connection, caller.tenant, version_id=body.version_id, limit=1)
    if not found:
        raise NotFound(f"no dataset version {body.version_id!r}", param="version_id")
    return ImportItems(
        project_id=project_id,
        artifact=found[0]["artifact"],
        filename=found[0]["dataset"],
        source="version",
        source_id=body.version_id,
    )


def import_of(
    connection: Connection, project_id: str, file_id: str, source: Literal["file", "label_studio"]
) -> ImportItems:
    """The job that takes a file of the tenant into a project. Raises NotFound."""
    file = resolve.file_row(connection, file_id, param="file_id")
    return ImportItems(
        project_id=project_id,
        artifact=file["artifact"],
        filename=file["filename"],
        source=source,
        source_id=file["id"],
    )


@router.get(BASE, summary="List labelling projects")
def list_projects(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and not labelling_repository.project_existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = labelling_repository.list_projects(connection, caller.tenant, page.after, page.limit + 1)
    return listing([label_shapes.project(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get(BASE + "/{project}", summary="One labelling project with its progress")
def retrieve(project: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """By name or id."""
    return _shown(gateway, caller, project)


@router.post(
    BASE + "/{project}",
    summary="Change a labelling project",
    **json_body(ChangeProject, {"guidelines": "..."}),
)
def change(
    project: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[ChangeProject], Depends(incoming(ChangeProject))],
) -> dict[str, Any]:
    """Labellers see it with their next sign-in."""
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        spec = {**row["spec"], **request.body.model_dump(exclude_none=True)}
        labelling_repository.set_spec(connection, row["id"], spec)
    return _shown(gateway, caller, row["id"])


@router.delete(BASE + "/{project}", summary="Remove a labelling project")
def delete(project: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Its tokens are good for nothing from then on."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        labelling_repository.delete_project(connection, row["id"])
        _audit(connection, caller, "labelling_project_deleted", row["id"], {"name": row["name"]})
    gateway.authenticator.forget()
    return {"id": row["id"], "object": "labelling.project", "deleted": True}


@router.post(
    BASE + "/{project}/labellers",
    summary="Add a labeller",
    **json_body(AddLabeller, {"name": "li", "adjudicates": False}),
)
def add_labeller(
    project: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[AddLabeller], Depends(incoming(AddLabeller))],
) -> dict[str, Any]:
    """The `token` is shown this once. It opens the page of this project and nothing else."""
    caller, body = request.caller, request.body
    token = keys.new_key(keys.LABELLING_PREFIX)
    values = {
        "id": new_id("labr-"),
        "tenant": caller.tenant,
        "name": body.name,
        "prefix": token[: keys.SHOWN],
        "digest": keys.digest(token, gateway.pepper),
        "adjudicates": body.adjudicates,
    }
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        made = labelling_repository.insert_labeller(connection, {**values, "project": row["id"]})
        if made is None:
            raise Conflict(
                f"the project has a labeller {body.name!r} already", code="already_exists", param="name"
            )
        _audit(connection, caller, "labeller_added", made["id"], {"project": row["id"], "name": body.name})
    return {**label_shapes.labeller(made), "token": token, "page": f"/label/{row['id']}"}


@router.get(BASE + "/{project}/labellers", summary="List the labellers of a project")
def list_labellers(project: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, revoked ones too; never with their tokens."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        known = (
            labelling_repository.labellers(connection, row["id"], labeller_id=page.after, after=None, limit=1)
            if page.after
            else [row]
        )
        if page.after and not known:
            raise unknown_cursor(page.after)
        rows = labelling_repository.labellers(connection, row["id"], after=page.after, limit=page.limit + 1)
    return listing([label_shapes.labeller(one) for one in rows[: page.limit]], len(rows) > page.limit)


@router.delete(BASE + "/{project}/labellers/{labeller_id}", summary="Revoke a labeller's token")
def revoke_labeller(project: str, labeller_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """What the person said stays."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        if not labelling_repository.revoke(connection, row["id"], labeller_id):
            raise NotFound(f"the project has no labeller {labeller_id!r}", param="labeller_id")
        _audit(connection, caller, "labeller_revoked", labeller_id, {"project": row["id"]})
    gateway.authenticator.forget()
    return {"id": labeller_id, "object": "labelling.labeller", "deleted": True}


def find(connection: Connection, caller: Caller, name: str) -> Row:
    """The tenant's project by name or id. Raises NotFound."""
    row = labelling_repository.get_project(connection, caller.tenant, name)
    if row is None:
        raise NotFound(f"no labelling project {name!r}", param="project")
    return row


def _shown(gateway: Gateway, caller: Caller, name: str) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, name)
        return label_shapes.project(row, labelling_repository.progress(connection, row["id"]))


def _audit(connection: Connection, caller: Caller, action: str, subject: str, data: dict[str, Any]) -> None:
    keys_repository.audit(connection, caller.tenant, caller.key_id or "local", action, subject, data)
