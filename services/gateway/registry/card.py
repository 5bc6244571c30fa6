"""The card of a model: what it is, what of, how good, how far; as an object and as Markdown. Pure.

Sections follow Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993), as far as it is known.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from services.gateway.registry.checks import Item
from services.gateway.registry.facts import Facts
from services.gateway.shapes import Row, Shape, unix
from shared.contracts.serving import SERVES
from shared.statistics import interval

MOST_SLICES = 50
# Of the report of a dataset version, what a reader of a card asks for.
REPORTED = ("rows_in", "rows_kept", "dropped", "splits", "scripts", "leakage", "pii", "lengths")
# What `info` holds beside figures.
TOLD_ELSEWHERE = ("lineage", "parity", "held_out", "baseline", "pinned", "labels", "linear_layers")
SPECIAL = re.compile(r"([\\`*_{}\[\]()#|~!$^])")
# What is made a link of without being marked as one.
LINK = re.compile(r"(?i)(?<=:)//|(?<=www)\.")


def card(
    model: Row,
    data: Row | None,
    facts: Facts,
    *,
    registered: Shape | None,
    decision: Shape | None,
    evals: list[Shape],
    history: list[Shape],
) -> Shape:
    """`data` is the dataset version that it learned from; `decision` the newest of its gate."""
    info = model["info"]
    lineage = info.get("lineage") or {}
    return {
        "object": "model_card",
        "model": {
            "id": model["id"],
            "kind": model["kind"],
            "base": model["base_id"],
            "created_at": unix(model["created_at"]),
            "artifact": model["artifact"],
            "serves": info.get("endpoints") or sorted(SERVES.get(model["kind"], ())),
            "about": {name: value for name, value in info.items() if name not in TOLD_ELSEWHERE},
        },
        "registered": registered,
        "data": _data(model, data),
        "training": {
            "method": lineage.get("job_kind"),
            "base": lineage.get("base") or model["base_id"],
            "hyperparameters": lineage.get("hyperparameters", {}),
            "seed": lineage.get("seed"),
            "code": lineage.get("code", {}),
            "libraries": lineage.get("libraries", {}),
        },
        "metrics": {"held_out": info.get("held_out"), "baseline": info.get("baseline")},
        "evaluations": evals,
        "gate": decision,
        "parity": info.get("parity"),
        "limits": limits(model, facts, evals, decision),
        "lineage": {
            "job_id": model["job_id"],
            "trace_id": lineage.get("trace_id"),
            "learned_from": model["dataset_version"],
            "validated_on": lineage.get("validation"),
            "graph": f"/v1/lineage/{model['id']}",
        },
        "history": history,
    }


def _data(model: Row, data: Row | None) -> Shape | None:
    if model["dataset_version"] is None:
        return None
    if data is None:
        return {"file": model["dataset_version"], "version": None}
    report = data["report"]
    return {
        "version": data["id"],
        "dataset": data["dataset"],
        "rows": data["rows"],
        "train_rows": data["train_rows"],
        "validation_rows": data["validation_rows"],
        "recipe": data["recipe"],
        "report": {name: report[name] for name in REPORTED if name in report},
        "gate": data["gate"],
        "job_id": data["job_id"],
    }


def evaluated(run: Row, items: Sequence[Item], *, sliced: bool) -> Shape:
    """One run's mean score with its interval of 95%, and that of each slice of two items or more."""
    inside: dict[tuple[str, str], list[float]] = defaultdict(list)
    for item in items if sliced else ():
        for name, value in item.slices.items():
            inside[name, value].append(item.score)
    largest = sorted(inside.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:MOST_SLICES]
    return {
        "eval": run["eval_id"],
        "name": run["eval_name"],
        "run": run["id"],
        "created_at": unix(run["created_at"]),
        **_figures([item.score for item in items]),
        "passed": sum(item.passed for item in items),
        "slices": [
            {"slice": f"{name}={value}", **_figures(scores)}
            for (name, value), scores in sorted(largest)
            if len(scores) > 1
        ],
    }


def _figures(scores: Sequence[float]) -> Shape:
    found = interval(scores)
    bounds = {"mean": found.mean, "low": found.low, "high": found.high}
    return {"items": found.n, **{name: round(value, 4) for name, value in bounds.items()}}


def limits(model: Row, facts: Facts, evals: Sequence[Shape], decision: Shape | None) -> list[str]:
    """What a reader should not take for granted."""
    found = []
    context = model["info"].get("context_length")
    if context:
        found.append(f"It reads {context} tokens at most.")
    if facts.file:
        found.append("It learned from a file: nothing is known of what that holds.")
    elif facts.dataset_version is None and not facts.trained_here:
        found.append("It was brought in: what it learned from is not known here.")
    if facts.data_gate_passed is False:
        found.append(f"The data that it learned from fails its gate: {'; '.join(facts.data_gate_reasons)}")
    refused = facts.refused_ancestor()
    if refused is not None:
        found.append(f"It stands on {refused['model']}, which learned from data that fails its gate.")
    if facts.leaked_questions:
        found.append(f"{facts.leaked_questions} questions stand in training and held-out rows alike.")
    if facts.erased:
        found.append("It learned from rows that were erased since.")
    if facts.trained_here and (facts.parity is None or facts.parity.get("passed") is not True):
        found.append("It was not shown that it is served as it was trained.")
    if not evals:
        found.append("No eval run of it has succeeded.")
    few = [f"{one['slice']} ({one['items']})" for run in evals for one in run["slices"] if one["items"] < 20]
    if few:
        found.append(f"Too few items to say much of: {', '.join(few[:20])}.")
    if decision is not None and decision["verdict"] != "passed":
        found.append(f"Its gate says {decision['verdict']}: {'; '.join(decision['reasons'])}")
    return found


def markdown(card: Mapping[str, Any]) -> str:
    """The same to read. What others have written stands in it as text alone."""
    model, registered, training = card["model"], card["registered"], card["training"]
    title = registered["id"] if registered else model["id"]
    parts = [f"# {text(title)}", _table(_what(model, registered))]
    if card["limits"]:
        parts += ["## Limits", "\n".join(f"- {text(line)}" for line in card["limits"])]
    parts += ["## Data", _data_text(card["data"])]
    parts += ["## Training", _table({**training, **_flat("", {"parity": card["parity"]})})]
    if any(card["metrics"].values()):
        parts += ["## Held-out rows beside the baseline", _metrics(card["metrics"])]
    parts += ["## Evaluations", *(_evaluation(run) for run in card["evaluations"])]
    if not card["evaluations"]:
        parts.append("None.")
    if card["gate"] is not None:
        parts += ["## Gate", _gate(card["gate"])]
    parts += ["## Lineage", _table(card["lineage"])]
    if card["history"]:
        parts += ["## History", _history(card["history"])]
    return "\n\n".join(parts) + "\n"


def text(value: Any) -> str:
    """A value on one line in which nothing is markup: neither Markdown's nor HTML's."""
    plain = "" if value is None else str(value)
    escaped = SPECIAL.sub(r"\\\1", html.escape(" ".join(plain.split()), quote=False))
    return LINK.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), escaped)


def _table(values: Mapping[str, Any]) -> str:
    rows = [(name, value) for name, value in _flat("", values).items() if value not in (None, "", [], {})]
    return _rows(("", ""), rows)


def _rows(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(text(cell) for cell in row)} |" for row in rows)])


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Objects in objects as one, with their names joined."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            found |= _flat(f"{path} / ", value)
        elif isinstance(value, list | tuple):
            found[path] = ", ".join(str(one) for one in value)
        else:
            found[path] = value
    return found


def _what(model: Mapping[str, Any], registered: Mapping[str, Any] | None) -> dict[str, Any]:
    names = ("model", "stage", "share", "note")
    stage = {name: registered[name] for name in names} if registered else {}
    return {**model, **stage, "model": model["id"], "id": None, "called as": stage.get("model")}


def _data_text(data: Mapping[str, Any] | None) -> str:
    return _table({**data, "recipe": None}) if data is not None else "Not known."


def _metrics(metrics: Mapping[str, Any]) -> str:
    held_out, baseline = (_flat("", metrics[name] or {}) for name in ("held_out", "baseline"))
    rows = [(name, value, baseline.get(name, "")) for name, value in held_out.items()]
    return _rows(("metric", "model", "baseline"), rows)


def _evaluation(run: Mapping[str, Any]) -> str:
    head = ("", "items", "mean score", "95% from", "to")
    named = ("items", "mean", "low", "high")
    rows = [("all", *(run[name] for name in named))]
    rows += [(one["slice"], *(one[name] for name in named)) for one in run["slices"]]
    return f"{text(run['name'])} ({text(run['eval'])}, run {text(run['run'])})\n\n{_rows(head, rows)}"


def _gate(decision: Mapping[str, Any]) -> str:
    rows = [(check["name"], check["outcome"], check["reason"]) for check in decision["checks"]]
    said = f"Decision {text(decision['id'])}: {text(decision['verdict'])}"
    return f"{said}\n\n{_rows(('check', 'outcome', 'why'), rows)}"


def _history(events: Sequence[Mapping[str, Any]]) -> str:
    head = ("when (Unix)", "what", "from", "to", "by", "approved by", "decision", "why")
    names = (
        "created_at",
        "action",
        "from_stage",
        "to_stage",
        "created_by",
        "approved_by",
        "decision",
        "reason",
    )
    return _rows(head, [tuple(event[name] for name in names) for event in events])
