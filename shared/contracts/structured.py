"""What a client may ask of an answer's form, as one grammar text that gateway and engine read alike. Pure.

`response_format` is OpenAI's (https://platform.openai.com/docs/guides/structured-outputs); `structured_outputs` with
`regex`, `choice` or `json` is what the clients of other self-hosted servers send.
It is checked where the request is and again where it runs, by the same library and limits: a schema that explodes is
refused before it reaches a queue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from shared.errors import InvalidInput

MAX_GRAMMAR_BYTES = 64 * 1024
MAX_CHOICES = 500
MAX_REGEX = 4096


@cache
def guidance() -> ModuleType:
    """llguidance, which is read when a grammar first comes: an engine without any runs where it is not installed."""
    import llguidance

    return llguidance


@cache
def limits() -> Any:
    """Half of the library's defaults and less: what explodes is refused in tens of milliseconds."""
    return guidance().LLParserLimits(
        max_items_in_row=1_000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
    )


def response_format(value: Any) -> str | None:
    """The grammar of a `response_format`; None for plain text. Raises InvalidInput with the place."""
    form = _object(value, "response_format")
    kind = form.get("type")
    if kind == "text":
        _only(form, {"type"}, "response_format")
        return None
    if kind == "json_object":
        _only(form, {"type"}, "response_format")
        return json_schema({"type": "object"}, "response_format")
    if kind == "json_schema":
        _only(form, {"type", "json_schema"}, "response_format")
        named = _object(form.get("json_schema"), "response_format.json_schema")
        _only(named, {"name", "description", "schema", "strict"}, "response_format.json_schema")
        if not isinstance(named.get("name"), str) or not 1 <= len(named["name"]) <= 64:
            raise InvalidInput(
                "response_format.json_schema.name must be a string of 1 to 64 characters",
                param="response_format.json_schema.name",
            )
        return json_schema(named.get("schema", {"type": "object"}), "response_format.json_schema.schema")
    raise InvalidInput(
        f"response_format.type must be 'text', 'json_object' or 'json_schema', got {kind!r}",
        param="response_format.type",
    )


def structured_outputs(value: Any) -> str:
    """The grammar of {"regex": ...}, {"choice": [...]} or {"json": schema}. Raises InvalidInput with the place."""
    form = _object(value, "structured_outputs")
    given = [name for name, item in form.items() if item is not None]
    if len(given) != 1 or given[0] not in ("regex", "choice", "json"):
        raise InvalidInput(
            f"structured_outputs takes exactly one of regex, choice and json, got {sorted(form) or 'none'}",
            param="structured_outputs",
        )
    place = f"structured_outputs.{given[0]}"
    item = form[given[0]]
    if given[0] == "json":
        return json_schema(item, place)
    if given[0] == "regex":
        if not isinstance(item, str) or not 1 <= len(item) <= MAX_REGEX:
            raise InvalidInput(f"{place} must be a string of 1 to {MAX_REGEX} characters", param=place)
        return _checked(guidance().LLMatcher.grammar_from_regex(item), place)
    if not isinstance(item, list) or not 1 <= len(item) <= MAX_CHOICES:
        raise InvalidInput(f"{place} must be a list of 1 to {MAX_CHOICES} strings", param=place)
    for index, choice in enumerate(item):
        if not isinstance(choice, str) or not choice:
            raise InvalidInput(
                f"{place}[{index}] must be a string that is not empty", param=f"{place}[{index}]"
            )
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in item)
    return _checked(guidance().LLMatcher.grammar_from_lark(f"start: {alternatives}"), place)


def json_schema(schema: Any, place: str) -> str:
    """The grammar of a JSON schema. Raises InvalidInput for one that is none, or that is not supported."""
    text = json.dumps(_object(schema, place), ensure_ascii=False)
    if len(text.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES:
        raise InvalidInput(f"{place} has more than {MAX_GRAMMAR_BYTES} bytes", param=place)
    try:
        # As json.dumps writes: free white space would let a small model fill its answer with it. As overrides, so
        # that a schema cannot set them by a key of its own.
        grammar = guidance().LLMatcher.grammar_from_json_schema(
            text, overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
    except (ValueError, UnicodeError) as exc:
        raise InvalidInput(f"{place} is no JSON schema: {exc}", param=place) from exc
    return _checked(grammar, place)


def _checked(grammar: str, place: str) -> str:
    if len(grammar.encode("utf-8", "replace")) > 2 * MAX_GRAMMAR_BYTES:
        raise InvalidInput(f"{place} is too large", param=place)
    try:
        refusal = guidance().LLMatcher.validate_grammar(grammar, limits=limits())
    except (ValueError, UnicodeError) as exc:
        refusal = str(exc)
    if refusal and not refusal.startswith("WARNING"):
        raise InvalidInput(f"{place} is refused: {_first_line(refusal)}", code="invalid_schema", param=place)
    return grammar


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300]


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{place} must be an object, got {type(value).__name__}", param=place)
    return value


def _only(form: Mapping[str, Any], known: set[str], place: str) -> None:
    for name in form.keys() - known:
        raise InvalidInput(
            f"unknown key {place}.{name}; there is {', '.join(sorted(known))}",
            code="unknown_parameter",
            param=f"{place}.{name}",
        )
