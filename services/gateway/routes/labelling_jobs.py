"""The long work on a labelling project: bringing items in, taking labels out, building versions, finding what to do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.datasets import repository as datasets_repository
from services.gateway.datasets.recipes import check_recipe
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.submission import submit
from services.gateway.labelling import repository as labelling_repository
from services.gateway.labelling import shapes as label_shapes
from services.gateway.models import resolve
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.routes.labelling import BASE, NAME, find, import_of
from shared.contracts.labelling import (
    Answers,
    ApplyFunctions,
    ExportLabels,
    FindSuspects,
    Function,
    ImportItems,
    Method,
    PickItems,
    ProjectSpec,
    Regex,
    check_categorical,
)
from shared.contracts.recipe_text import did_you_mean
from shared.db import Connection
from shared.errors import InvalidInput
from shared.text.patterns import check_pattern

router = APIRouter(tags=["labelling"])


class ImportBody(Body):
    """`label_studio` takes a JSON export of Label Studio with its annotations, `file` the rows of a file."""

    file_id: str = Field(min_length=1, max_length=256)
    format: Literal["label_studio", "file"] = "label_studio"


class ExportBody(Body):
    """`adjudicated` takes what was agreed or decided, `majority` the vote of most, `dawid_skene` votes weighed by how
    far each labeller is right. `weak` fills the rest from labelling functions, at this probability or more."""

    format: Literal["rows", "label_studio"] = "rows"
    method: Method = "adjudicated"
    weak: float | None = Field(None, ge=0.5, le=1)


class BuildBody(Body):
    """The dataset is made at its first use; without a `recipe` one is inferred."""

    dataset: str = Field(min_length=1, max_length=128, pattern=NAME)
    method: Method = "adjudicated"
    weak: float | None = Field(None, ge=0.5, le=1)
    recipe: dict[str, Any] | None = None


class SuspectsBody(Body):
    most: int = Field(1000, ge=1, le=100_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)


class PicksBody(Body):
    """`file_id`: JSONL of `{"id": ROW_ID, "probabilities": {LABEL: p, ...}}`; without it a classifier of the labels."""

    file_id: str | None = Field(None, min_length=1, max_length=256)
    seed: int = Field(0, ge=0, le=2**31 - 1)


class FunctionsBody(Body):
    functions: list[Function] = Field(min_length=1, max_length=100)


FUNCTIONS = {
    "functions": [
        {"kind": "keyword", "name": "says refund", "label": "refund", "any": ["refund", "退款"]},
        {"kind": "regex", "name": "order number", "label": "delivery", "pattern": "订单号?[0-9]{6,12}"},
    ]
}


@router.post(
    BASE + "/{project}/import", summary="Bring items in", **json_body(ImportBody, {"file_id": "file-..."})
)
def import_items(
    project: str, gateway: GatewayDep, request: Annotated[Incoming[ImportBody], Depends(incoming(ImportBody))]
) -> dict[str, Any]:
    """Adds to what is there; rows that are there already stay as they are."""
    body = request.body

    def make(connection: Connection) -> ImportItems:
        row = find(connection, request.caller, project)
        return import_of(connection, row["id"], body.file_id, body.format)

    return job_shapes.job(submit(gateway, request, ImportItems, make))


@router.post(
    BASE + "/{project}/export", summary="Take labels out", **json_body(ExportBody, {"format": "rows"})
)
def export(
    project: str, gateway: GatewayDep, request: Annotated[Incoming[ExportBody], Depends(incoming(ExportBody))]
) -> dict[str, Any]:
    """The job's result names the file: JSONL of rows, or JSON as Label Studio reads it."""
    body = request.body

    def make(connection: Connection) -> ExportLabels:
        row = find(connection, request.caller, project)
        _check_method(ProjectSpec.model_validate(row["spec"]), body.method, body.weak)
        return ExportLabels(project_id=row["id"], method=body.method, format=body.format, weak=body.weak)

    return job_shapes.job(submit(gateway, request, ExportLabels, make))


@router.post(
    BASE + "/{project}/build",
    summary="Build a dataset version from the labels",
    **json_body(BuildBody, {"dataset": "intents", "method": "adjudicated"}),
)
def build(
    project: str, gateway: GatewayDep, request: Annotated[Incoming[BuildBody], Depends(incoming(BuildBody))]
) -> dict[str, Any]:
    """The job's result names the file with the labels, and the job that builds the version from it."""
    body, tenant = request.body, request.caller.tenant
    if body.recipe is not None:
        check_recipe(body.recipe)

    def make(connection: Connection) -> ExportLabels:
        row = find(connection, request.caller, project)
        _check_method(ProjectSpec.model_validate(row["spec"]), body.method, body.weak)
        dataset = datasets_repository.ensure_dataset(connection, tenant, body.dataset)
        return ExportLabels(
            project_id=row["id"],
            method=body.method,
            weak=body.weak,
            dataset_id=dataset["id"],
            dataset_name=body.dataset,
            recipe=body.recipe,
        )

    return job_shapes.job(submit(gateway, request, ExportLabels, make))


@router.post(
    BASE + "/{project}/suspects", summary="Look for wrong labels", **json_body(SuspectsBody, {"most": 100})
)
def find_suspects(
    project: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[SuspectsBody], Depends(incoming(SuspectsBody))],
) -> dict[str, Any]:
    """By a classifier that has not seen the label that it judges; needs a project with one label an item."""
    body = request.body

    def make(connection: Connection) -> FindSuspects:
        row = find(connection, request.caller, project)
        check_categorical(ProjectSpec.model_validate(row["spec"]), "looking for suspects")
        return FindSuspects(project_id=row["id"], most=body.most, seed=body.seed)

    return job_shapes.job(submit(gateway, request, FindSuspects, make))


@router.get(BASE + "/{project}/suspects", summary="Labels that are in doubt")
def list_suspects(project: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Of the newest look, the least likely first."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        if page.after and not labelling_repository.suspect_exists(connection, row["id"], page.after):
            raise unknown_cursor(page.after)
        rows = labelling_repository.suspects(connection, row["id"], page.after, page.limit + 1)
    return listing([label_shapes.suspect(one) for one in rows[: page.limit]], len(rows) > page.limit)


@router.post(BASE + "/{project}/picks", summary="Put the least sure items first", **json_body(PicksBody, {}))
def pick_items(
    project: str, gateway: GatewayDep, request: Annotated[Incoming[PicksBody], Depends(incoming(PicksBody))]
) -> dict[str, Any]:
    """Orders what is still open by the entropy of its probabilities."""
    body = request.body

    def make(connection: Connection) -> PickItems:
        row = find(connection, request.caller, project)
        check_categorical(ProjectSpec.model_validate(row["spec"]), "picking items")
        artifact = _artifact(connection, body.file_id, "file_id") if body.file_id is not None else None
        return PickItems(project_id=row["id"], artifact=artifact, seed=body.seed)

    return job_shapes.job(submit(gateway, request, PickItems, make))


@router.post(
    BASE + "/{project}/functions", summary="Apply labelling functions", **json_body(FunctionsBody, FUNCTIONS)
)
def apply_functions(
    project: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[FunctionsBody], Depends(incoming(FunctionsBody))],
) -> dict[str, Any]:
    """The job's result tells coverage, overlap and conflict of each; a person's label is never touched."""
    body = request.body

    def make(connection: Connection) -> ApplyFunctions:
        row = find(connection, request.caller, project)
        spec = ProjectSpec.model_validate(row["spec"])
        check_categorical(spec, "labelling by functions")
        functions = tuple(
            _checked(connection, spec, function, f"functions[{at}]")
            for at, function in enumerate(body.functions)
        )
        names = [function.name for function in functions]
        if len(set(names)) != len(names):
            raise InvalidInput("two functions have the same name", param="functions")
        return ApplyFunctions(project_id=row["id"], functions=functions)

    return job_shapes.job(submit(gateway, request, ApplyFunctions, make))


def _checked(connection: Connection, spec: ProjectSpec, function: Any, place: str) -> Any:
    """The function as a worker takes it. Raises InvalidInput for a label, pattern or file that is none."""
    if isinstance(function, Answers):
        return function.model_copy(
            update={"artifact": _artifact(connection, function.file_id, f"{place}.file_id")}
        )
    if function.label not in spec.choices:
        raise InvalidInput(
            f"{place}.label: {function.label[:80]!r} is no label of this project; "
            f"{did_you_mean(function.label, list(spec.choices))}",
            param=f"{place}.label",
        )
    if isinstance(function, Regex):
        check_pattern(function.pattern, f"{place}.pattern")
    return function


def _artifact(connection: Connection, file_id: str, param: str) -> str:
    return str(resolve.file_row(connection, file_id, param=param)["artifact"])


def _check_method(spec: ProjectSpec, method: str, weak: float | None) -> None:
    if method == "dawid_skene":
        check_categorical(spec, "Dawid-Skene")
    if weak is not None:
        check_categorical(spec, "labelling by functions")
