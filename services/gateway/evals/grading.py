"""One answer graded while its client waits: by a training worker, by judging models, by an encoder's vectors."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse

from services.gateway.answering import metered, questions
from services.gateway.answering.completions import complete
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.evals import names as eval_names
from shared.contracts.answers import CHAT
from shared.contracts.chat import parse_chat
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.graders import (
    Criterion,
    Grader,
    LabelModel,
    MultiGrader,
    PythonGrader,
    ScoreModel,
    TextSimilarity,
)
from shared.contracts.grading import GradeSample
from shared.contracts.inference import Embed
from shared.errors import HeliuError, InvalidInput
from shared.task.eval_check import Fields, check_grader
from shared.task.formula import check_formula, evaluate
from shared.task.item_template import render_item
from shared.task.judging import UNPARSABLE, judge_body, read_verdict

Scores = dict[str, float | HeliuError]
# A grader of fine-tuning has an answer, and its items have no schema.
ANY = Fields(None, True, True)
FLAGS = (
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)


@dataclass
class _Spent:
    """Tokens by model, and the model that was asked last."""

    tokens: dict[str, int] = field(default_factory=dict)
    model: str | None = None


def check(gateway: Gateway, grader: Grader) -> None:
    """Raise InvalidInput with the place for a grader that could not be run."""
    for place, one in _parts(grader):
        if isinstance(one, PythonGrader) and not gateway.settings.eval_python:
            raise InvalidInput(
                f"{place}.type is 'python', which is off on this platform; its operator turns it on with "
                "HELIU_EVAL_PYTHON=on",
                code="python_not_allowed",
                param=f"{place}.type",
            )
    check_grader(grader, ANY, "grader")
    if isinstance(grader, MultiGrader):
        check_formula(grader.calculate_output, list(grader.named), "grader.calculate_output")


def _parts(grader: Grader) -> list[tuple[str, Criterion]]:
    if isinstance(grader, MultiGrader):
        return [(f"grader.graders.{name}", one) for name, one in grader.named.items()]
    return [("grader", grader)]


async def grade(
    request: Request, gateway: Gateway, grader: Grader, answer: str, item: dict[str, Any]
) -> dict[str, Any]:
    """The reward in OpenAI's shape; what goes wrong in a grader is told among its `errors`, and its reward is 0."""
    began, spent = time.monotonic(), _Spent()
    named = grader.named if isinstance(grader, MultiGrader) else {grader.name: grader}
    caller: Caller = request.state.caller
    await to_thread.run_sync(_check_models, gateway, caller, list(named.values()))
    sample = {"output_text": answer}
    scores = await _by_worker(request, gateway, named, sample, item)
    first, number = request.state.request_id, 0
    for name, one in named.items():
        if name not in scores:
            # The ledger knows each question to a model by an id of its own.
            number += 1
            request.state.request_id = f"{first}-{number}"
            scores[name] = await _by_model(request, gateway, one, sample, item, spent)
    request.state.request_id = first
    reward, problem = _reward(grader, scores)
    return _shape(grader, scores, reward, problem, spent, time.monotonic() - began)


def _check_models(gateway: Gateway, caller: Caller, criteria: list[Criterion]) -> None:
    with gateway.db.transaction(caller.tenant) as connection:
        eval_names.check_judges(connection, caller.tenant, criteria)


async def _by_worker(
    request: Request,
    gateway: Gateway,
    named: Mapping[str, Criterion],
    sample: dict[str, Any],
    item: dict[str, Any],
) -> Scores:
    plain = {name: one for name, one in named.items() if not _asks_model(one)}
    if not plain:
        return {}
    call = GradeSample(graders=plain, sample=sample, item=item)
    told = (await questions.answer(request, gateway, call))["results"]
    return {
        name: InvalidInput(one["error"]["message"], code=one["error"]["code"])
        if "error" in one
        else float(one["score"])
        for name, one in told.items()
    }


def _asks_model(criterion: Criterion) -> bool:
    cosine = isinstance(criterion, TextSimilarity) and criterion.evaluation_metric == "cosine"
    return cosine or isinstance(criterion, LabelModel | ScoreModel)


async def _by_model(
    request: Request,
    gateway: Gateway,
    criterion: Criterion,
    sample: dict[str, Any],
    item: dict[str, Any],
    spent: _Spent,
) -> float | HeliuError:
    values = {"item": item, "sample": _with_json(sample)}
    try:
        if isinstance(criterion, LabelModel | ScoreModel):
            return await _judged(request, gateway, criterion, values, spent)
        assert isinstance(criterion, TextSimilarity)
        return await _cosine(request, gateway, criterion, values, spent)
    except HeliuError as exc:
        if exc.code == "client_closed_request":
            raise
        return exc


def _with_json(sample: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parsed = json.loads(sample["output_text"])
    except (ValueError, RecursionError):
        parsed = None
    return {**sample, "output_json": parsed}


async def _judged(
    request: Request,
    gateway: Gateway,
    judge: LabelModel | ScoreModel,
    values: Mapping[str, Any],
    spent: _Spent,
) -> float:
    asked = parse_chat(judge_body(judge, values, "grader"))
    response = await complete(request, gateway, CHAT, asked)
    assert isinstance(response, JSONResponse)
    told = json.loads(bytes(response.body))
    spent.model = judge.model
    spent.tokens[judge.model] = spent.tokens.get(judge.model, 0) + told["usage"]["total_tokens"]
    return read_verdict(judge, told["choices"][0]["message"]["content"]).score


async def _cosine(
    request: Request,
    gateway: Gateway,
    criterion: TextSimilarity,
    values: Mapping[str, Any],
    spent: _Spent,
) -> float:
    pair = [
        render_item(text, values, f"grader.{place}")
        for place, text in (("input", criterion.input), ("reference", criterion.reference))
    ]
    if not all(text.strip() for text in pair):
        return float(not any(text.strip() for text in pair))
    caller: Caller = request.state.caller

    def encoder() -> str:
        with gateway.db.transaction(caller.tenant) as connection:
            found = eval_names.judges(connection, caller.tenant, [criterion])[2]
        assert found is not None
        return found.name

    called = await metered.resolved(request, gateway, await to_thread.run_sync(encoder), EMBEDDINGS)
    found = await metered.collect(
        request, gateway, Embed(model=called.ref, inputs=tuple(pair)), EMBEDDINGS, "vectors"
    )
    spent.tokens[called.name] = spent.tokens.get(called.name, 0) + found.tokens
    one, other = (np.frombuffer(base64.b64decode(row), "<f4") for row in found.rows)
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def _reward(grader: Grader, scores: Scores) -> tuple[float, HeliuError | None]:
    failed = next((one for one in scores.values() if isinstance(one, HeliuError)), None)
    if failed is not None:
        return 0.0, failed
    values = {name: float(one) for name, one in scores.items() if not isinstance(one, HeliuError)}
    if not isinstance(grader, MultiGrader):
        return values[grader.name], None
    try:
        return evaluate(grader.calculate_output, values, "grader.calculate_output"), None
    except HeliuError as exc:
        return 0.0, exc


def _shape(
    grader: Grader,
    scores: Scores,
    reward: float,
    problem: HeliuError | None,
    spent: _Spent,
    seconds: float,
) -> dict[str, Any]:
    errors: dict[str, Any] = dict.fromkeys(FLAGS, False)
    if problem is not None:
        flag = _flag(problem.code)
        errors[flag] = True
        if flag in ("model_grader_server_error", "python_grader_runtime_error"):
            errors[f"{flag}_details"] = problem.message
        else:
            # OpenAI's shape has no place for the words of the others.
            errors["details"] = problem.message
    values = {name: None if isinstance(one, HeliuError) else one for name, one in scores.items()}
    several = isinstance(grader, MultiGrader)
    return {
        "reward": reward,
        "sub_rewards": values if several else {},
        "model_grader_token_usage_per_model": spent.tokens,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": errors,
            "execution_time": seconds,
            "scores": values,
            "token_usage": sum(spent.tokens.values()) or None,
            "sampled_model_name": spent.model,
        },
    }


def _flag(code: str) -> str:
    return {
        "template_error": "invalid_variable_error",
        "undeclared_variable": "invalid_variable_error",
        "invalid_formula": "formula_parse_error",
        "python_grader_failed": "python_grader_runtime_error",
        "python_not_allowed": "python_grader_server_error",
        UNPARSABLE: "model_grader_parse_error",
    }.get(code, "model_grader_server_error")
