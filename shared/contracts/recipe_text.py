"""From the text of a recipe (YAML or JSON) to a checked `Recipe`, or to an error that names the mend."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.recipe import Recipe
from shared.contracts.steps import STEP_TYPES
from shared.errors import InvalidInput

MAX_RECIPE_BYTES = 64 * 1024
MAX_DEPTH = 12
MAX_ERRORS = 8
_TOO_DEEP = f"the recipe is nested deeper than {MAX_DEPTH} levels; no recipe needs that"

_STEPS: dict[str, type[BaseModel]] = {str(s.model_fields["op"].annotation.__args__[0]): s for s in STEP_TYPES}  # type: ignore[union-attr]
Location = tuple[int | str, ...]


class InvalidRecipe(InvalidInput):
    """A recipe that cannot run; `param` is the place of the first fault, such as `steps[2].params.types`."""

    code = "invalid_recipe"


class _Loader(yaml.SafeLoader):
    """Safe YAML, without aliases (a few lines of them can stand for gigabytes) and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise InvalidRecipe("YAML aliases are not allowed in a recipe; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    place = f"line {key.start_mark.line + 1}" if key.start_mark else "the recipe"
                    raise InvalidRecipe(f"{place}: `{key.value[:80]}` is given twice; keep one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`did you mean `x`?` when one of `known` is near, else the list of what there is."""
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    if near:
        return f"did you mean `{next(k for k in known if k.lower() == near[0])}`?"
    return "known are " + ", ".join(f"`{k[:60]}`" for k in known[:30])


def parse_recipe(source: bytes | str | Mapping[str, Any]) -> Recipe:
    """A checked recipe from YAML or JSON text, or from a parsed object. Raises InvalidRecipe."""
    value = source if isinstance(source, Mapping) else _load(source)
    if not isinstance(value, Mapping):
        keys = ", ".join(Recipe.model_fields)
        raise InvalidRecipe(f"a recipe is an object with the keys {keys}, not {_kind(value)}")
    try:
        return Recipe.model_validate(dict(value))
    except ValidationError as exc:
        raise _translate(exc) from exc


def _load(source: bytes | str) -> Any:
    size = len(source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass"))
    if size > MAX_RECIPE_BYTES:
        raise InvalidRecipe(f"the recipe has {size} bytes; at most {MAX_RECIPE_BYTES} are allowed")
    try:
        text = source.decode("utf-8") if isinstance(source, bytes) else source
    except UnicodeDecodeError as exc:
        byte = exc.object[exc.start]
        raise InvalidRecipe(f"the recipe is not UTF-8: byte {exc.start} is 0x{byte:02x}") from exc
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except RecursionError as exc:
            raise InvalidRecipe(_TOO_DEEP) from exc
        except json.JSONDecodeError:
            pass  # a YAML flow mapping opens with a brace too
    try:
        _check_depth(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidRecipe(f"the recipe is neither YAML nor JSON: {place}{exc.problem}") from exc
    except (yaml.YAMLError, ValueError, TypeError) as exc:
        raise InvalidRecipe(f"the recipe is neither YAML nor JSON: {exc}") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(k for i, (k, _) in enumerate(pairs) if any(k == other for other, _ in pairs[:i]))
        raise InvalidRecipe(f"`{twice[:80]}` is given twice; keep one")
    return found


def _check_depth(text: str) -> None:
    """Counts nesting over the event stream, before the recursive composer sees it."""
    depth = 0
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidRecipe(_TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except RecursionError as exc:
        raise InvalidRecipe(_TOO_DEEP) from exc


def _translate(exc: ValidationError) -> InvalidRecipe:
    errors = exc.errors(include_url=False, include_input=True)
    # `input` may be "auto" or an object: each branch of the union reports; keep the one that was meant.
    meant = [e for e in errors if not ("literal['auto']" in e["loc"] and len(errors) > 1)]
    said: dict[str, list[str]] = {}
    for error in meant:
        # Each type that a value may have reports by itself.
        said.setdefault(_place(error["loc"]), []).append(_message(error))
    lines = [f"{place}: {' or '.join(dict.fromkeys(what))}" for place, what in said.items()]
    if len(lines) > MAX_ERRORS:
        lines[MAX_ERRORS:] = [f"and {len(lines) - MAX_ERRORS} more"]
    return InvalidRecipe("; ".join(lines), param=_place(meant[0]["loc"]))


def _message(error: ErrorDetails) -> str:
    loc, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        return f"unknown key; {did_you_mean(str(loc[-1]), _fields_at(loc[:-1]))}"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _tag_message(error)
    if kind == "int_parsing_size":
        return "the number is beyond what any recipe needs; it should be below 2**63"
    message = error["msg"].removeprefix("Value error, ")
    if loc and loc[0] == "input" and len(loc) == 2 and kind != "value_error":
        return f"`auto` or an object that names the columns, not {_kind(error['input'])}"
    if kind in {"value_error", "missing"}:
        return message[0].lower() + message[1:]
    return f"{message[0].lower() + message[1:]}, not {_kind(error['input'])}"


def _tag_message(error: ErrorDetails) -> str:
    """Of an object whose kind (`op` of a step, `do` of a change) is unknown, or not told."""
    key = str(error.get("ctx", {}).get("discriminator", "'op'")).strip("'")
    models = _kinds_at(error["loc"])
    known = list(_STEPS) if key == "op" else [tag for model in models for tag in sorted(_tags(model))]
    what = "operator" if key == "op" else key
    given = error["input"].get(key) if isinstance(error["input"], Mapping) else None
    if error["type"] == "union_tag_not_found":
        subject = "a step" if key == "op" else "it"
        return f"{subject} needs `{key}`; known are " + ", ".join(f"`{name}`" for name in known)
    return f"unknown {what} `{str(given)[:80]}`; {did_you_mean(str(given), known)}"


def _fields_at(loc: Location) -> list[str]:
    """The keys that are allowed at `loc`, where unions carry the tag of the branch that was taken."""
    return [name for kind in _kinds_at(loc) if _is_model(kind) for name in kind.model_fields]


def _kinds_at(loc: Location) -> list[Any]:
    kinds: list[Any] = [Recipe]
    for part in loc:
        kinds = _inside(kinds, part)[0]
    return kinds


def _inside(kinds: Sequence[Any], part: int | str) -> tuple[list[Any], bool]:
    """What a value may be at `part` of any of `kinds`, and whether `part` is a key there and no union's tag."""
    models = [kind for kind in kinds if _is_model(kind)]
    fields = [kind.model_fields[part].annotation for kind in models if part in kind.model_fields]
    held = [get_args(kind)[-1] for kind in kinds if get_origin(kind) in (list, dict)]
    if fields or held:
        return [branch for kind in fields or held for branch in _branches(kind)], True
    tagged = [kind for kind in models if part in _tags(kind) or kind.__name__ in str(part)]
    return tagged, bool(models) and not tagged


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _branches(annotation: Any) -> list[Any]:
    """The types that an annotation stands for: unions taken apart, `Annotated` taken off."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [branch for kind in get_args(annotation) for branch in _branches(kind)]
    return [annotation]


def _tags(model: type[BaseModel]) -> frozenset[str]:
    """The values of `op` or `do` that choose this model in a union."""
    told = [model.model_fields[key].annotation for key in ("op", "do") if key in model.model_fields]
    return frozenset(str(value) for annotation in told for value in get_args(annotation))


def _place(loc: Location) -> str:
    """`steps[2].params.types` from pydantic's location, without the tags of unions."""
    parts: list[str] = []
    kinds: list[Any] = [Recipe]
    for part in loc:
        kinds, is_key = _inside(kinds, part)
        if isinstance(part, int) and parts:
            parts[-1] += f"[{part}]"
        elif is_key:
            parts.append(str(part)[:80])
    return ".".join(parts) or "recipe"


def _kind(value: object) -> str:
    if isinstance(value, (str, int, float)) or value is None:
        return repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__
