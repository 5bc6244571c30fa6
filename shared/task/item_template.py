"""Templates over an item and a model's answer, as OpenAI's evals write them: `{{item.question}}`. Pure.

The language is that of tasks. A dotted name is a key of the JSON object before it and nothing else; a value that is
no text is shown as JSON.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes

from shared.errors import InvalidInput
from shared.task.template import CODE, ITEMS, render
from shared.task.template_check import check_template

SAMPLE = ("output_text", "output_json", "model", "finish_reason", "choices", "output_tools", "usage")


@lru_cache(maxsize=1024)
def keyed(source: str) -> str:
    """The same template with `a.b` written as `a['b']`, but for what Jinja's loops tell of themselves."""
    try:
        tokens = list(ITEMS.lex(source))
    except TemplateError:
        # What is wrong with it is told, with its line, by whoever parses it.
        return source
    parts: list[str] = []
    place, before = 0, ""
    while place < len(tokens):
        _, kind, text = tokens[place]
        if kind == "operator" and text == "." and before != "loop":
            after = place + 1
            if after < len(tokens) and tokens[after][1] in ("name", "integer"):
                _, what, key = tokens[after]
                parts.append(f"[{key}]" if what == "integer" else f"['{key}']")
                place, before = after + 1, key
                continue
        if kind != "whitespace":
            before = text
        parts.append(text)
        place += 1
    return "".join(parts)


def check_item_template(
    source: str, place: str, *, fields: Sequence[str] | None, sample: bool, open_fields: bool = False
) -> None:
    """Raise InvalidInput for a template that cannot be rendered: its language, an item's field that `fields` (where
    they are declared and not `open_fields`) does not have, and the sample where there is none."""
    names = ["item", "sample"] if sample else ["item"]
    try:
        tree = check_template(keyed(source), names, place, ITEMS)
    except InvalidInput as exc:
        if exc.code == "undeclared_variable" and not sample and "'sample'" in exc.message:
            raise InvalidInput(
                f"{place} uses 'sample', and this eval has no samples; set include_sample_schema to true",
                code="undeclared_variable",
                param=place,
            ) from exc
        raise
    for root, key in _keys(tree):
        if root == "item" and fields is not None and not open_fields:
            _known(key, fields, "item", place)
        elif root == "sample":
            _known(key, SAMPLE, "sample", place)


def _known(key: str, known: Iterable[str], root: str, place: str) -> None:
    there = list(known)
    if key in there:
        return
    near = difflib.get_close_matches(key, there, 1)
    hint = f"did you mean {root}.{near[0]}?" if near else f"there are {', '.join(there) or 'none'}"
    raise InvalidInput(
        f"{place} uses {root}.{key[:80]}, which the schema does not have; {hint}",
        code="undeclared_variable",
        param=place,
    )


def _keys(tree: nodes.Template) -> Iterable[tuple[str, str]]:
    """(item or sample, the key that is looked up in it) wherever it is a constant."""
    for node in tree.find_all(nodes.Getitem):
        if isinstance(node.node, nodes.Name) and isinstance(node.arg, nodes.Const):
            yield node.node.name, str(node.arg.value)


def render_item(source: str, values: Mapping[str, Any], place: str) -> str:
    """The text of a checked template. Raises InvalidInput that says which field of the item is not there."""
    return render(keyed(source), values, place, ITEMS)


def check_reference(
    reference: str, place: str, *, fields: Sequence[str] | None, open_fields: bool = False
) -> None:
    """Raise InvalidInput unless it is `item.name`, or deeper, of a declared field."""
    root, *keys = reference.split(".")
    if root != "item" or not keys or not all(keys):
        raise InvalidInput(
            f"{place} is {reference[:80]!r}; write item.NAME, a field of the item", param=place
        )
    if fields is not None and not open_fields:
        _known(keys[0], fields, "item", place)


def look_up(reference: str, item: Mapping[str, Any], place: str) -> Any:
    """The value that `item.a.b` names. Raises InvalidInput where the item has none."""
    value: Any = item
    for key in reference.split(".")[1:]:
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            raise InvalidInput(f"{place}: the item has no {reference}", code=CODE, param=place)
    return value
