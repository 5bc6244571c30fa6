"""`/v1/fine_tuning/alpha/graders`: a grader tried on one answer, or checked alone, as the openai client has it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from services.gateway.evals import grading
from shared.contracts.graders import MAX_TEMPLATE, Grader

router = APIRouter(tags=["evals"])


class RunGrader(Body):
    grader: Grader = Field(description="A grader as an eval has them, or several with a formula ('multi').")
    model_sample: str = Field(
        max_length=MAX_TEMPLATE,
        description="The answer: sample.output_text, and output_json where it is JSON.",
    )
    item: dict[str, Any] | None = Field(None, description="What templates call item.")


class ValidateGrader(Body):
    grader: Grader = Field(description="The grader.")


GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


@router.post(
    "/v1/fine_tuning/alpha/graders/run",
    summary="Try a grader on one answer",
    **json_body(RunGrader, {"grader": GRADER, "model_sample": "yes", "item": {"answer": "yes"}}),
)
async def run(
    gateway: GatewayDep,
    http: Request,
    request: Annotated[Incoming[RunGrader], Depends(incoming(RunGrader))],
) -> dict[str, Any]:
    """Its reward; what went wrong in it is told in `metadata.errors`."""
    body = request.body
    grading.check(gateway, body.grader)
    return await grading.grade(http, gateway, body.grader, body.model_sample, body.item or {})


@router.post(
    "/v1/fine_tuning/alpha/graders/validate",
    summary="Check a grader",
    **json_body(ValidateGrader, {"grader": GRADER}),
)
def validate(
    gateway: GatewayDep,
    request: Annotated[Incoming[ValidateGrader], Depends(incoming(ValidateGrader))],
) -> dict[str, Any]:
    """The grader as it is understood; what is wrong with it is told with its place."""
    grading.check(gateway, request.body.grader)
    return {"grader": request.body.grader.model_dump(mode="json", exclude_none=True)}
