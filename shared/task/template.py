"""The template language of tasks: Jinja's, cut down to what cannot run away or look behind its variables. Pure.

What may stand in a template is said in `template_check`. What that leaves grows with the template and its variables
alone, and loops, repeats and lengths have caps of their own here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.contracts.task import MAX_INPUT
from shared.errors import InvalidInput

# A step is one node of a loop's body in one round: the time of a rendering is bounded by these and by MAX_INPUT.
MAX_STEPS = 50_000
MAX_RANGE = 1_000
MAX_NUMBER = 1e15

FILTERS = frozenset(
    {
        "capitalize",
        "default",
        "d",
        "first",
        "int",
        "join",
        "last",
        "length",
        "count",
        "list",
        "lower",
        "replace",
    }
    | {"reverse", "round", "sort", "string", "sum", "title", "tojson", "trim", "truncate", "unique", "upper"}
)
TESTS = frozenset(
    {
        "boolean",
        "defined",
        "divisibleby",
        "eq",
        "equalto",
        "even",
        "false",
        "ge",
        "gt",
        "in",
        "le",
        "lt",
        "ne",
    }
    | {"none", "number", "odd", "sequence", "string", "true", "undefined"}
)


class PromptTooLarge(InvalidInput):
    """A template came to more text or more rounds than a prompt may."""

    code = "template_too_large"


class Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(side, int | float) for side in (left, right)):
            # A text times a number repeats it, a text % a number pads it, and sums of texts grow in memory unseen.
            raise InvalidInput(f"{operator} works on numbers alone here", code=CODE)
        value = super().call_binop(context, operator, left, right)
        if abs(value) > MAX_NUMBER:
            raise InvalidInput(f"a number grows over {MAX_NUMBER:g}", code=CODE)
        return value


CODE = "template_error"


def _range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > MAX_RANGE:
        raise PromptTooLarge(f"range() gives {len(made)} numbers here; it gives {MAX_RANGE} at most")
    return made


def _join(value: Iterable[Any], separator: str = "") -> str:
    parts = [str(item) for item in value]
    _fits(sum(map(len, parts)) + len(str(separator)) * len(parts))
    return str(separator).join(parts)


def _replace(value: Any, old: str, new: str) -> str:
    text = str(value)
    _fits(len(text) + text.count(str(old)) * len(str(new)))
    return text.replace(str(old), str(new))


def _round(value: float, digits: int = 0) -> float:
    if not 0 <= digits <= 12:
        raise InvalidInput(f"round takes 0 to 12 digits, got {digits}", code=CODE)
    return round(value, digits) if digits else round(value)


def _truncate(value: Any, length: int = 255, end: str = "...") -> str:
    """At most `length` characters, with `end` as the last of them where some were left out."""
    text, end = str(value), str(end)
    if length < len(end):
        raise InvalidInput(f"truncate takes {len(end)} or more, got {length}", code=CODE)
    return text if len(text) <= length else text[: length - len(end)] + end


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _fits(length: int) -> None:
    if length > MAX_INPUT:
        raise PromptTooLarge(f"the text grows to {length} characters; it has {MAX_INPUT} at most")


class _ItemEnvironment(Environment):
    """For values that are JSON as it came: a key is looked up as a key alone, and never as an attribute."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping) and argument not in obj:
            there = ", ".join(str(key)[:40] for key in list(obj)[:12]) or "nothing"
            return self.undefined(hint=f"there is no {str(argument)[:80]!r}; there is {there}", name=argument)
        if isinstance(obj, Mapping | list | str):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        return self.undefined(obj=obj, name=str(argument))


def _as_json(value: Any) -> Any:
    """What a template of items shows of a value that is no text: true, null, 3, [1, 2]."""
    return _tojson(value) if value is None or isinstance(value, bool | list | dict) else value


def _environment(kind: type[Environment] = Environment, **options: Any) -> Environment:
    made = kind(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, **options)
    own = {"join": _join, "replace": _replace, "round": _round, "tojson": _tojson, "truncate": _truncate}
    made.filters = {name: own.get(name, made.filters[name]) for name in FILTERS} | {"_counted": _counted}
    made.tests = {name: made.tests[name] for name in TESTS}
    made.globals = {"range": _range}
    return made


class _Steps:
    """How many steps the loops of one rendering may still make, all together."""

    def __init__(self) -> None:
        self.left = MAX_STEPS


def _counted(value: Any, steps: _Steps, a_round: int) -> Iterator[Any]:
    if not isinstance(value, list | tuple | range):
        raise InvalidInput(f"a loop runs over a list or range(), not over {type(value).__name__}", code=CODE)
    for item in value:
        steps.left -= a_round
        if steps.left < 0:
            raise PromptTooLarge(f"the loops make more than {MAX_STEPS} steps together")
        yield item


ENVIRONMENT = _environment()
ITEMS = _environment(_ItemEnvironment, finalize=_as_json)


# What a template may meet in values that do not fit it.
FAILURES = (
    TemplateError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


def render(source: str, values: Mapping[str, Any], place: str, environment: Environment = ENVIRONMENT) -> str:
    """The text of a checked template. Raises InvalidInput where its values make no prompt, PromptTooLarge for size."""
    parts, size = [], 0
    try:
        for part in _compiled(source, environment).generate({**values, "_steps": _Steps()}):
            size += len(part)
            _fits(size)
            parts.append(part)
    except InvalidInput as exc:
        raise type(exc)(f"{place}: {exc.message}", code=exc.code, param=place) from exc
    except FAILURES as exc:
        raise InvalidInput(
            f"{place} does not go with these variables: {exc}", code=CODE, param=place
        ) from exc
    return "".join(parts)


@lru_cache(maxsize=512)
def _compiled(source: str, environment: Environment) -> Template:
    tree = environment.parse(source)
    for loop in tree.find_all(nodes.For):
        steps = nodes.Name("_steps", "load", lineno=loop.lineno)
        a_round = nodes.Const(1 + sum(1 for _ in loop.find_all(nodes.Node)), lineno=loop.lineno)
        loop.iter = nodes.Filter(loop.iter, "_counted", [steps, a_round], [], None, None, lineno=loop.lineno)
    tree.set_environment(environment)
    return Template.from_code(environment, environment.compile(tree), environment.globals)
