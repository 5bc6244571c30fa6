"""What the command line says of operators is what their contracts say."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from services.cli.datasets import app
from shared.contracts.recipe_text import parse_recipe
from shared.contracts.steps import STEP_TYPES
from shared.contracts.steps.describe import operators
from shared.errors import InvalidInput


def test_every_operator_is_described_with_all_its_parameters() -> None:
    for step, about in zip(STEP_TYPES, operators(), strict=True):
        params = step.model_fields["params"].annotation
        assert [param["name"] for param in about["params"]] == list(params.model_fields)
        assert about["does"]
        assert all(param["type"] for param in about["params"])


def test_the_described_defaults_are_the_ones_that_a_recipe_gets() -> None:
    for contract, about in zip(STEP_TYPES, operators(), strict=True):
        if contract.model_fields["params"].is_required():
            continue
        step = parse_recipe({"steps": [{"op": about["op"]}]}).steps[0]
        told = {param["name"]: param["default"] for param in about["params"]}
        assert json.loads(step.params.model_dump_json()) == told


def test_the_command_needs_no_server_and_knows_near_names() -> None:
    shown = CliRunner().invoke(app, ["operators", "mask_pii", "--json"])
    assert json.loads(shown.stdout)["data"][0]["op"] == "mask_pii"
    missed = CliRunner().invoke(app, ["operators", "mask_pi"])
    assert isinstance(missed.exception, InvalidInput)
    assert "did you mean `mask_pii`" in missed.exception.message
