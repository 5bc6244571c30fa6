"""The figures of a run: passes and scores, task metrics, and the same by slice, each with its interval. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.training.evals import classes, corpus
from services.training.evals.items import Item
from services.training.evals.sampling import Sample
from shared.contracts.evals import ClassificationMetric, Metric, PerplexityMetric, RankingMetric, TextMetric
from shared.errors import HeliuError, InvalidInput
from shared.statistics import Interval, interval, interval_of
from shared.task.eval_check import metric_name
from shared.task.item_template import look_up, render_item

MOST_VALUES = 50
# Where a sample holds {metric: {"loss", "tokens"}} of the references of its item.
LIKELIHOODS = "likelihoods"
# Under so many items a figure of a slice is told without its metrics.
FEWEST_OF_SLICE = 5


@dataclass(frozen=True)
class Row:
    """What an item came to, as it is stored."""

    passed: bool
    score: float
    cluster: str
    slices: Mapping[str, str]
    errored: bool


@dataclass
class Gathered:
    """What one metric sees of the items: by item number, what is compared. `skipped` says why some are not."""

    metric: Metric
    seen: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def gather(metrics: Sequence[Metric], samples: Iterable[tuple[Item, Sample]]) -> list[Gathered]:
    """One pass over the items and their samples."""
    found = [Gathered(metric) for metric in metrics]
    for item, sample in samples:
        for one in found:
            if sample.error is not None:
                one.skipped[sample.error["code"]] += 1
                continue
            try:
                one.seen[item.number] = _seen(one.metric, item, sample)
            except HeliuError as exc:
                one.skipped[exc.code] += 1
    return found


def _seen(metric: Metric, item: Item, sample: Sample) -> tuple[Any, ...]:
    values = {"item": item.item, "sample": sample.values}
    place = metric_name(metric)
    match metric:
        case ClassificationMetric():
            wanted = _label(metric, render_item(metric.label, values, place))
            if metric.labels is not None and wanted not in metric.labels:
                raise InvalidInput(f"{wanted!r} is none of the labels", code="unknown_label")
            given = _label(metric, render_item(metric.prediction, values, place))
            return wanted, given, _likely(sample.values.get("output_json"))
        case TextMetric():
            return (
                render_item(metric.input, values, place),
                render_item(metric.reference, values, place),
            )
        case RankingMetric():
            return _ranked(metric, item, sample)
        case PerplexityMetric():
            found = (sample.values.get(LIKELIHOODS) or {}).get(metric.name)
            if found is None:
                raise InvalidInput("the model's likelihoods are not known", code="no_likelihood")
            return found["loss"], found["tokens"]


def _label(metric: ClassificationMetric, text: str) -> str:
    bare = text.strip()
    for label in metric.labels or ():
        if bare.casefold() == label.casefold():
            return label
    return bare


def _likely(told: Any) -> dict[str, float] | None:
    """By label how likely it is, of a classifier's answer."""
    if not isinstance(told, dict) or not isinstance(told.get("predictions"), list) or not told["predictions"]:
        return None
    return {str(one["label"]): float(one["score"]) for one in told["predictions"]}


def _ranked(metric: RankingMetric, item: Item, sample: Sample) -> tuple[float, float, float]:
    """(NDCG@k with linear gains, recall@k, reciprocal rank of the first relevant document)."""
    worth = look_up(metric.relevance, item.item, "relevance")
    order = sample.values.get("output_json")
    if not isinstance(worth, list) or not all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in worth
    ):
        raise InvalidInput(f"{metric.relevance} is no list of numbers", code="invalid_item")
    if not isinstance(order, list) or sorted(_index(one) for one in order) != list(range(len(worth))):
        raise InvalidInput("the sample is no order of these documents", code="invalid_sample")
    gains = np.maximum(np.array([worth[_index(one)] for one in order], dtype=float), 0.0)
    if not gains.any():
        raise InvalidInput("no document is relevant", code="nothing_relevant")
    discount = 1 / np.log2(np.arange(2, len(gains) + 2))
    best = np.sort(gains)[::-1]
    k = metric.k
    ndcg = float((gains[:k] * discount[:k]).sum() / (best[:k] * discount[:k]).sum())
    relevant = gains > 0
    return ndcg, float(relevant[:k].sum() / relevant.sum()), 1 / (1 + int(relevant.argmax()))


def _index(one: Any) -> int:
    return int(one["index"]) if isinstance(one, dict) and isinstance(one.get("index"), int) else -1


def summary(rows: Sequence[Row], gathered: Sequence[Gathered]) -> dict[str, Any]:
    """{"passed", "score", "metrics", "slices"} of a run, as JSON; an item with an error counts as not passed."""
    everything = range(len(rows))
    return {
        **_passes(rows, everything),
        "metrics": [_figures(one, rows, everything) for one in gathered],
        "slices": _slices(rows, gathered),
    }


def _passes(rows: Sequence[Row], places: Sequence[int]) -> dict[str, Any]:
    if not places:
        return {"passed": None, "score": None}
    clusters = [rows[place].cluster for place in places]
    return {
        "passed": shown(interval([float(rows[place].passed) for place in places], clusters=clusters)),
        "score": shown(interval([rows[place].score for place in places], clusters=clusters)),
    }


def _slices(rows: Sequence[Row], gathered: Sequence[Gathered]) -> dict[str, dict[str, Any]]:
    """By slice and value; the most frequent values first, MOST_VALUES of them."""
    places: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows):
        for name, value in row.slices.items():
            places[name][value].append(number)
    told: dict[str, dict[str, Any]] = {}
    for name, values in sorted(places.items()):
        ranked = sorted(values.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:MOST_VALUES]
        told[name] = {
            value: {
                "n": len(at),
                **_passes(rows, at),
                "metrics": [_figures(one, rows, at) for one in gathered]
                if len(at) >= FEWEST_OF_SLICE
                else [],
            }
            for value, at in ranked
        }
    return told


def _figures(one: Gathered, rows: Sequence[Row], places: Sequence[int]) -> dict[str, Any]:
    at = [place for place in places if place in one.seen]
    head = {"name": metric_name(one.metric), "type": one.metric.type, "n": len(at)}
    if len(places) == len(rows):
        head["skipped"] = dict(one.skipped)
    if not at:
        return {**head, "figures": {}}
    seen, clusters = [one.seen[place] for place in at], [rows[place].cluster for place in at]
    if isinstance(one.metric, ClassificationMetric):
        likely = [row[2] for row in seen]
        figures, each = classes.measure(
            classes.Decisions(
                [row[0] for row in seen],
                [row[1] for row in seen],
                likely if all(row is not None for row in likely) else None,
                clusters,
            )
        )
        return {**head, "figures": _told(figures), "classes": each}
    if isinstance(one.metric, TextMetric):
        texts, references = [row[0] for row in seen], [row[1] for row in seen]
        told = corpus.measure(one.metric.type, texts, references, clusters)
        return {**head, "figures": _told({one.metric.type: told})}
    if isinstance(one.metric, PerplexityMetric):
        return {**head, "figures": _told({"perplexity": _perplexity(seen, clusters)})}
    k = one.metric.k
    names = (f"ndcg@{k}", f"recall@{k}", "mrr")
    columns = zip(*seen, strict=True)
    return {
        **head,
        "figures": _told(
            {
                name: interval(list(column), clusters=clusters)
                for name, column in zip(names, columns, strict=True)
            }
        ),
    }


def _perplexity(seen: Sequence[tuple[float, int]], clusters: Sequence[str]) -> Interval | None:
    """exp of the mean cross-entropy of a token, over the tokens of all references."""
    loss, tokens = np.array(seen, dtype=float).T
    return interval_of(
        lambda at: float(np.exp(loss[at].sum() / tokens[at].sum())), len(seen), clusters=clusters
    )


def _told(figures: Mapping[str, Interval | None]) -> dict[str, Any]:
    return {name: shown(one) for name, one in figures.items() if one is not None}


def shown(one: Interval) -> dict[str, Any]:
    """Bounds that cannot be said are null."""
    return {
        "value": one.mean,
        "low": None if math.isnan(one.low) else one.low,
        "high": None if math.isnan(one.high) else one.high,
        "n": one.n,
    }
