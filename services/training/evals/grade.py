"""One item against all criteria of its eval. Pure, but for a Python grader's own process.

What is asked of models is asked before: `Answers` holds what judges said and encoders made of this item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.training.evals.items import Item
from services.training.evals.python_grader import PythonGrading
from services.training.evals.sampling import Sample
from services.training.evals.similarity import similarity
from shared.contracts.graders import (
    Criterion,
    LabelModel,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from shared.errors import HeliuError, InvalidInput
from shared.task.item_template import render_item
from shared.task.judging import read_verdict

PYTHON_THRESHOLD = 0.5


@dataclass(frozen=True)
class Answers:
    """By the number of a criterion: a judge's text or why there is none, and the cosine of two vectors."""

    said: Mapping[int, str | HeliuError] = field(default_factory=dict)
    cosines: Mapping[int, float | HeliuError] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What one criterion makes of an item. `unit` is the score from 0 to 1, as it counts for the item's own."""

    name: str
    type: str
    passed: bool
    score: float
    unit: float
    error: dict[str, str] | None = None
    sample: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        told = {"name": self.name, "type": self.type, "passed": self.passed, "score": self.score}
        return told | {k: v for k, v in (("error", self.error), ("sample", self.sample)) if v is not None}


@dataclass(frozen=True)
class Graded:
    """An item with its results; it passes where every criterion does, and an error anywhere is its own."""

    results: tuple[Result, ...]
    error: dict[str, str] | None

    @property
    def passed(self) -> bool:
        return self.error is None and all(result.passed for result in self.results)

    @property
    def score(self) -> float:
        """The mean of the criteria; 0 for an item with an error."""
        if self.error is not None or not self.results:
            return 0.0
        return sum(result.unit for result in self.results) / len(self.results)


class Graders:
    """The criteria of an eval, ready for many items. Close it: Python graders have processes."""

    def __init__(
        self,
        criteria: Sequence[Criterion],
        *,
        python: bool,
        python_process: Callable[[str], PythonGrading] = PythonGrading,
    ) -> None:
        """`python` says whether the operator lets Python graders run."""
        self._criteria = criteria
        self._processes = {
            index: python_process(criterion.source)
            for index, criterion in enumerate(criteria)
            if isinstance(criterion, PythonGrader) and python
        }

    def close(self) -> None:
        for process in self._processes.values():
            process.__exit__()

    def grade(self, item: Item, sample: Sample, answers: Answers) -> Graded:
        if sample.error is not None:
            results = tuple(_failed(one, sample.error) for one in self._criteria)
            return Graded(results, sample.error)
        results = tuple(
            self._one(index, one, item, sample, answers) for index, one in enumerate(self._criteria)
        )
        errors = [f"{result.name}: {result.error['message']}" for result in results if result.error]
        if not errors:
            return Graded(results, None)
        first = next(result.error for result in results if result.error)
        return Graded(results, {"code": first["code"], "message": "; ".join(errors)[:2000]})

    def _one(self, index: int, criterion: Criterion, item: Item, sample: Sample, answers: Answers) -> Result:
        try:
            return self._scored(index, criterion, item, sample, answers)
        except HeliuError as exc:
            return _failed(criterion, {"code": exc.code, "message": exc.message})

    def _scored(
        self, index: int, criterion: Criterion, item: Item, sample: Sample, answers: Answers
    ) -> Result:
        place = f"testing_criteria[{index}]"
        match criterion:
            case StringCheck():
                score = float(check_strings(criterion, *texts(criterion, item, sample, place)))
                return Result(criterion.name, criterion.type, score == 1.0, score, score)
            case TextSimilarity():
                if criterion.evaluation_metric == "cosine":
                    score = _known(answers.cosines, index)
                else:
                    score = similarity(criterion.evaluation_metric, *texts(criterion, item, sample, place))
                threshold = criterion.pass_threshold or 0.0
                return Result(criterion.name, criterion.type, score >= threshold, score, _unit(score))
            case LabelModel() | ScoreModel():
                said = _known(answers.said, index)
                verdict = read_verdict(criterion, said)
                told = {"model": criterion.model, "output": said}
                return Result(
                    criterion.name,
                    criterion.type,
                    verdict.passed,
                    verdict.score,
                    verdict.unit,
                    sample=told | ({"label": verdict.label} if verdict.label is not None else {}),
                )
        if index not in self._processes:
            raise InvalidInput(
                "this worker runs no Python graders; its operator sets HELIU_EVAL_PYTHON=on where they may run",
                code="python_not_allowed",
            )
        score = self._processes[index].grade(sample.values, item.item)
        threshold = criterion.pass_threshold if criterion.pass_threshold is not None else PYTHON_THRESHOLD
        return Result(criterion.name, criterion.type, score >= threshold, score, _unit(score))


def texts(criterion: StringCheck | TextSimilarity, item: Item, sample: Sample, place: str) -> tuple[str, str]:
    """(input, reference) of an item. Raises InvalidInput where a template does not go with it."""
    values = {"item": item.item, "sample": sample.values}
    return (
        render_item(criterion.input, values, f"{place}.input"),
        render_item(criterion.reference, values, f"{place}.reference"),
    )


def check_strings(criterion: StringCheck, text: str, reference: str) -> bool:
    """`like`: the input contains the reference; `ilike` without regard to case."""
    match criterion.operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
    return reference.casefold() in text.casefold()


def _known(found: Mapping[int, Any], index: int) -> Any:
    value = found.get(index)
    if value is None:
        raise InvalidInput("the model that judges has given no answer", code="no_answer")
    if isinstance(value, HeliuError):
        raise value
    return value


def _unit(score: float) -> float:
    return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0


def _failed(criterion: Criterion, error: Mapping[str, str]) -> Result:
    return Result(criterion.name, criterion.type, False, 0.0, 0.0, error=dict(error))
