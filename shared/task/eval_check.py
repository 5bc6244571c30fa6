"""Checks an eval, and where a run's items and answers come from, before anything is asked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.contracts.eval_items import STORED_ITEM, Config, FileContent, Source, StoredCompletions
from shared.contracts.evals import (
    ClassificationMetric,
    Classifications,
    Completions,
    ItemMessages,
    Jsonl,
    Metric,
    PerplexityMetric,
    Ranking,
    RankingMetric,
    Responses,
    TextMetric,
)
from shared.contracts.graders import (
    Criterion,
    Grader,
    LabelModel,
    MultiGrader,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from shared.contracts.item_schema import check_schema, fields_of, misfit
from shared.errors import InvalidInput
from shared.task.item_template import check_item_template, check_reference

# Slices that need no field of the item.
LANGUAGE = "language"
SHORT = ("label", "source")
LONGEST_ITEM = 1024 * 1024


@dataclass(frozen=True)
class Fields:
    """What templates of an eval may use: the item's fields where they are declared, and whether there are samples."""

    names: list[str] | None
    open: bool
    sample: bool

    def template(self, source: str, place: str) -> None:
        check_item_template(source, place, fields=self.names, sample=self.sample, open_fields=self.open)

    def reference(self, reference: str, place: str) -> None:
        check_reference(reference, place, fields=self.names, open_fields=self.open)


def fields(config: Config) -> Fields:
    names, others = fields_of(config.item_schema)
    return Fields(names, others, config.include_sample_schema)


def check_eval(
    config: Config,
    criteria: Sequence[Criterion],
    metrics: Sequence[Metric],
    slices: Sequence[str],
    cluster: str | None,
) -> None:
    """Raise InvalidInput with the place (`testing_criteria[1].input`) for what could not be run."""
    place = "data_source_config.item_schema"
    check_schema(config.item_schema, place)
    if config.item_schema.get("type", "object") != "object":
        raise InvalidInput(f"{place}.type must be 'object': an item has fields", param=f"{place}.type")
    known = fields(config)
    names: set[str] = set()
    for index, criterion in enumerate(criteria):
        where = f"testing_criteria[{index}]"
        if criterion.name in names:
            raise InvalidInput(
                f"{where}.name is {criterion.name!r}, which an earlier one has too; scores are kept by name",
                param=f"{where}.name",
            )
        names.add(criterion.name)
        check_grader(criterion, known, where)
        if isinstance(criterion, TextSimilarity) and criterion.pass_threshold is None:
            raise InvalidInput(
                f"missing required parameter '{where}.pass_threshold'",
                code="missing_required_parameter",
                param=f"{where}.pass_threshold",
            )
    _check_metrics(metrics, known)
    for index, name in enumerate(slices):
        if name != LANGUAGE:
            known.reference(sliced(name), f"slices[{index}]")
    if cluster is not None:
        known.reference(cluster, "cluster")


def sliced(name: str) -> str:
    """The field that a slice is by: `label` is item.label."""
    return name if name.startswith("item.") else f"item.{name}"


def _check_metrics(metrics: Sequence[Metric], known: Fields) -> None:
    names: set[str] = set()
    for index, metric in enumerate(metrics):
        where = f"metrics[{index}]"
        match metric:
            case ClassificationMetric():
                known.template(metric.prediction, f"{where}.prediction")
                known.template(metric.label, f"{where}.label")
            case TextMetric():
                known.template(metric.input, f"{where}.input")
                known.template(metric.reference, f"{where}.reference")
            case RankingMetric():
                known.reference(metric.relevance, f"{where}.relevance")
            case PerplexityMetric():
                known.template(metric.reference, f"{where}.reference")
        if metric_name(metric) in names:
            raise InvalidInput(
                f"{where} is called {metric_name(metric)!r} as an earlier one is; give it a name of its own",
                param=f"{where}.name",
            )
        names.add(metric_name(metric))


def metric_name(metric: Metric) -> str:
    return metric.name or metric.type


def check_grader(grader: Grader, known: Fields, place: str) -> None:
    """Raise InvalidInput for templates and source code that are wrong, with the place."""
    match grader:
        case StringCheck() | TextSimilarity():
            known.template(grader.input, f"{place}.input")
            known.template(grader.reference, f"{place}.reference")
        case LabelModel() | ScoreModel():
            for index, message in enumerate(grader.input):
                known.template(message.text, f"{place}.input[{index}].content")
        case PythonGrader():
            _check_source(grader.source, f"{place}.source")
        case MultiGrader():
            for name, part in grader.named.items():
                check_grader(part, known, f"{place}.graders.{name}")


def _check_source(source: str, place: str) -> None:
    try:
        compile(source, "grader", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        line = f" (line {exc.lineno})" if isinstance(exc, SyntaxError) and exc.lineno else ""
        said = exc.msg if isinstance(exc, SyntaxError) else str(exc)
        raise InvalidInput(f"{place} is no Python: {said}{line}", code="invalid_source", param=place) from exc
    if "def grade" not in source:
        raise InvalidInput(
            f"{place} defines no grade; write def grade(sample, item) -> float",
            code="invalid_source",
            param=place,
        )


def check_data_source(
    config: Config, source: Jsonl | Completions | Responses | Classifications | Ranking
) -> None:
    """Raise InvalidInput for a run's source that does not go with its eval; items that came along are looked at."""
    known = fields(config)
    if not isinstance(source, Jsonl) and not known.sample:
        raise InvalidInput(
            f"this eval has no samples, so its runs are of the type 'jsonl', not {source.type!r}; make an eval with "
            "include_sample_schema true",
            param="data_source.type",
        )
    _check_stored(config, source.source)
    # A request is made of the item alone.
    asking = Fields(known.names, known.open, False)
    match source:
        case Completions() | Responses():
            _check_messages(source, asking)
        case Classifications():
            asking.template(source.input, "data_source.input")
        case Ranking():
            asking.template(source.query, "data_source.query")
            asking.reference(source.documents, "data_source.documents")
    if isinstance(source.source, FileContent):
        for index, one in enumerate(source.source.content):
            check_item(config, one.item, f"data_source.source.content[{index}].item")


def _check_stored(config: Config, source: Source) -> None:
    """Raise InvalidInput for stored chats in an eval whose items have what no chat has."""
    if not isinstance(source, StoredCompletions):
        return
    missing = [
        name for name in config.item_schema.get("required", []) if name not in STORED_ITEM["properties"]
    ]
    if missing:
        raise InvalidInput(
            f"this eval's items need {', '.join(missing)}, which a stored chat has not; it has "
            f"{', '.join(STORED_ITEM['properties'])}; make an eval with the data_source_config stored_completions",
            param="data_source.source",
        )


def _check_messages(source: Completions | Responses, asking: Fields) -> None:
    place = "data_source.input_messages"
    if isinstance(source.input_messages, ItemMessages):
        asking.reference(source.input_messages.item_reference, f"{place}.item_reference")
    elif source.input_messages is not None:
        for index, message in enumerate(source.input_messages.template):
            asking.template(message.text, f"{place}.template[{index}].content")
    for name, template in (source.variables or {}).items():
        asking.template(template, f"data_source.variables.{name}")


def check_item(config: Config, item: Mapping[str, Any], place: str) -> None:
    """Raise InvalidInput where an item does not fit its eval's schema."""
    if (wrong := misfit(config.item_schema, item, place)) is not None:
        raise InvalidInput(wrong, code="invalid_item", param=place)
    if len(json.dumps(item, ensure_ascii=False)) > LONGEST_ITEM:
        raise InvalidInput(f"{place} has over {LONGEST_ITEM} characters", code="invalid_item", param=place)
