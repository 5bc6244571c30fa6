"""Label Studio's JSON, in and out: tasks with annotations by person. Knows no database.

Label Studio counts places in a text in UTF-16 units, as its page's script does; here they are code points.
Format: https://labelstud.io/guide/export.html (JSON) and https://labelstud.io/tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from services.data_governance.labelling.export import Labelled
from services.data_governance.labelling.items import SourceRow, text_of
from shared.contracts.labelling import ProjectSpec
from shared.errors import InvalidInput

SIDES = {"a": "left", "b": "right"}
TIE = "tie"


@dataclass(frozen=True)
class Annotated:
    """One task: its row, what people said of it as (name, value), and what its `meta` says was settled."""

    row: SourceRow
    labels: list[tuple[str, dict[str, Any]]]
    final: dict[str, Any] | None
    final_by: str | None
    gold: dict[str, Any] | None


def task(spec: ProjectSpec, number: int, item: Labelled) -> dict[str, Any]:
    """An item as a task of Label Studio; what was settled stands in its `meta`."""
    data = {key: value for key, value in item.data.items() if key != "messages"}
    if "messages" in item.data:
        data |= {"text": text_of(item.data), "messages": item.data["messages"]}
    meta = {"row_id": item.row_id, "final": item.final, "final_by": item.final_by, "extra": item.extra}
    annotations = [_annotation(spec, item, at, name, value) for at, (name, value) in enumerate(item.labels)]
    if item.gold is not None:
        annotations.append(
            {**_annotation(spec, item, len(annotations), "gold", item.gold), "ground_truth": True}
        )
    return {"id": number, "data": data, "meta": meta, "annotations": annotations, "predictions": []}


def _annotation(
    spec: ProjectSpec, item: Labelled, number: int, name: str, value: Mapping[str, Any]
) -> dict[str, Any]:
    results = [
        {"id": f"{item.id}-{number}-{at}", **one} for at, one in enumerate(_results(spec, item, value))
    ]
    return {
        "id": f"{item.id}-{number}",
        "completed_by": {"email": name},
        "result": results,
        "was_cancelled": False,
        "ground_truth": False,
    }


def _results(spec: ProjectSpec, item: Labelled, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    if spec.task == "spans":
        return [_region(str(item.data["text"]), span) for span in value["spans"]]
    if spec.task == "preference":
        if value["choice"] == TIE:
            return [_result("tie", "a", "choices", {"choices": [TIE]})]
        return [_result("preference", "a,b", "pairwise", {"selected": SIDES[value["choice"]]})]
    if spec.task == "classification":
        return [_result("label", "text", "choices", {"choices": value.get("labels", [value.get("label")])})]
    return [_result("answer", "text", "textarea", {"text": [value["text"]]})]


def _region(text: str, span: Mapping[str, Any]) -> dict[str, Any]:
    start, end = span["start"], span["end"]
    value = {
        "start": _units(text[:start]),
        "end": _units(text[:end]),
        "text": text[start:end],
        "labels": [span["label"]],
    }
    return _result("label", "text", "labels", value)


def _result(name: str, to: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "to_name": to, "type": kind, "value": value}


def annotated(spec: ProjectSpec, one: Any, place: str, source_id: str) -> Annotated:
    """A task of an export as a row with labels. Raises InvalidInput that names the place."""
    if not isinstance(one, dict) or not isinstance(one.get("data"), dict):
        raise InvalidInput(f"{place}: a task is an object with `data`", param=place)
    data, meta = dict(one["data"]), _object(one.get("meta"))
    extra = _object(meta.get("extra"))
    messages, text = data.pop("messages", None), data.pop(spec.fields.text or "text", None)
    if messages is None and not isinstance(text, str):
        raise InvalidInput(
            f"{place}.data.{spec.fields.text or 'text'}: a task needs a text to label", param=place
        )
    if messages is not None and not _is_conversation(messages):
        raise InvalidInput(
            f'{place}.data.messages must be a list of {{"role": ..., "content": ...}}', param=place
        )
    if spec.task == "preference":
        data = {spec.fields.a: data.pop("a", None), spec.fields.b: data.pop("b", None)} | data
    if spec.task == "answer" and isinstance(data.get("draft"), str) and messages is not None:
        messages = [*messages, {"role": "assistant", "content": data.pop("draft")}]
    row_id = str(meta.get("row_id") or f"{source_id}-{one.get('id', place)}")
    row = SourceRow(row_id, None if messages is not None else text, messages, {**extra, **data})
    labels, gold = [], None
    annotations = one.get("annotations") or []
    if not isinstance(annotations, list):
        raise InvalidInput(f"{place}.annotations must be a list", param=place)
    for at, annotation in enumerate(annotations):
        name, value = _said(spec, row, annotation, f"{place}.annotations[{at}]")
        if value is None:
            continue
        if annotation.get("ground_truth"):
            gold = value
        else:
            labels.append((name, value))
    return Annotated(row, labels, meta.get("final"), meta.get("final_by"), gold)


def _is_conversation(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in messages
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _said(
    spec: ProjectSpec, row: SourceRow, annotation: Any, place: str
) -> tuple[str, dict[str, Any] | None]:
    """(who, value); None for a skipped task. The value is checked by whoever stores it."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise InvalidInput(f"{place}: an annotation is an object with `result`", param=place)
    by = annotation.get("completed_by")
    name = str(by.get("email") or by.get("id")) if isinstance(by, dict) else str(by)
    if not name.strip() or not name.isprintable():
        raise InvalidInput(f"{place}.completed_by names nobody", param=place)
    if annotation.get("was_cancelled"):
        return name, None
    values = [
        one["value"]
        for one in annotation["result"]
        if isinstance(one, dict) and isinstance(one.get("value"), dict)
    ]
    try:
        return name[:64], _value(spec, row, values)
    except (KeyError, IndexError, TypeError, ValueError, StopIteration) as exc:
        raise InvalidInput(
            f"{place}.result does not fit a {spec.task} project: {type(exc).__name__} {str(exc)[:80]}",
            param=place,
        ) from exc


def _value(spec: ProjectSpec, row: SourceRow, values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if spec.task == "spans":
        text = row.text if row.text is not None else text_of({"messages": row.messages})
        return {"spans": [_span(text, value) for value in values]}
    if spec.task == "preference":
        first = values[0]
        if "choices" in first:
            return {"choice": first["choices"][0]}
        return {"choice": next(side for side, name in SIDES.items() if name == first["selected"])}
    if spec.task == "classification":
        chosen = [choice for value in values for choice in value["choices"]]
        return {"labels": chosen} if spec.multiple else {"label": chosen[0]}
    texts = values[0]["text"]
    return {"text": texts if isinstance(texts, str) else "\n".join(texts)}


def _span(text: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Code points of a region; one that its own `text` shows to be in code points already is taken as it is."""
    start, end, label = value["start"], value["end"], value["labels"][0]
    said = value.get("text")
    if said is not None and text[start:end] == said and _units(text[:start]) != start:
        return {"start": start, "end": end, "label": label}
    return {"start": _points(text, start), "end": _points(text, end), "label": label}


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _points(text: str, units: int) -> int:
    """Code points before the place that `units` UTF-16 units come to."""
    return len(text.encode("utf-16-le")[: 2 * units].decode("utf-16-le"))


def config(spec: ProjectSpec) -> str:
    """The labelling interface that Label Studio needs for these tasks, as XML."""
    views = '<Text name="text" value="$text"/>'

    def options(tag: str) -> str:
        return "".join(f"<{tag} value={quoteattr(label)}/>" for label in spec.choices)

    if spec.task == "spans":
        body = f'<Labels name="label" toName="text">{options("Label")}</Labels>{views}'
    elif spec.task == "classification":
        choice = "multiple" if spec.multiple else "single"
        body = f'{views}<Choices name="label" toName="text" choice="{choice}">{options("Choice")}</Choices>'
    elif spec.task == "preference":
        pair = (
            '<Pairwise name="preference" toName="a,b"/><Text name="a" value="$a"/><Text name="b" value="$b"/>'
        )
        body = f'{views}{pair}<Choices name="tie" toName="a"><Choice value="{TIE}"/></Choices>'
    else:
        body = f'{views}<TextArea name="answer" toName="text"/>'
    return f"<View>{body}</View>"
