"""Says of every operator what it does and what it may be told, as the contracts have it. Reads no file."""

from __future__ import annotations

from typing import Any

from shared.contracts.steps import STEP_TYPES


def operators() -> list[dict[str, Any]]:
    """Each operator: `op`, `version`, `does`, `note`, `before` (the operators that it must precede), `params`.

    A parameter has `name`, `type` (in words), `required`, and its `default`.
    """
    return [_operator(step) for step in STEP_TYPES]


def _operator(step: Any) -> dict[str, Any]:
    params = step.model_fields["params"].annotation
    schema = params.model_json_schema()
    required = schema.get("required", [])
    return {
        "op": step.model_fields["op"].annotation.__args__[0],
        "version": step.model_fields["version"].default,
        "does": _one_line(step.__doc__).partition(". ")[0].removesuffix("."),
        "note": _one_line(params.__doc__),
        "before": sorted(step.before),
        "params": [
            {
                "name": name,
                "type": _type(field, schema.get("$defs", {})),
                "required": name in required,
                **_default(params, name, name in required),
            }
            for name, field in schema.get("properties", {}).items()
        ],
    }


def _default(params: Any, name: str, required: bool) -> dict[str, Any]:
    return {} if required else {"default": params.model_fields[name].get_default(call_default_factory=True)}


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _type(field: dict[str, Any], defs: dict[str, Any]) -> str:
    """`integer (0 to 10)`, `a | b`, `list of {do: rename, ...}`: a JSON schema in a few words."""
    if "$ref" in field:
        return _object(defs[field["$ref"].rpartition("/")[2]], defs)
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if branches := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(branch, defs) for branch in branches))
    kind = str(field.get("type", "any value"))
    if kind == "array":
        return f"list of {_type(field['items'], defs)}"
    if kind == "object":
        held = field.get("additionalProperties")
        return f"object of {_type(held, defs)}" if isinstance(held, dict) else "object"
    return kind + _bounds(field)


def _object(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    if "properties" not in schema:
        return _type(schema, defs)
    required = schema.get("required", [])
    fields = [
        f"{name}{'' if name in required else '?'}: {_type(field, defs)}"
        for name, field in schema["properties"].items()
    ]
    return "{" + ", ".join(fields) + "}"


def _bounds(field: dict[str, Any]) -> str:
    low = field.get("minimum", field.get("minLength"))
    high = field.get("maximum", field.get("maxLength"))
    if low is None and high is None:
        return ""
    if high is None or high >= 2**31:
        return f" ({low:g} or more)" if low is not None else ""
    return f" ({low:g} to {high:g})" if low is not None else f" (at most {high:g})"
