"""What may stand in a template of a task: it is refused when it is made, not when it runs. Pure.

Only the nodes below may stand in it, so nothing can be assigned, defined, imported or called but `range`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from jinja2 import TemplateError, nodes

from shared.errors import InvalidInput
from shared.task.template import ENVIRONMENT, FILTERS, TESTS, Environment

NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const),
    *(nodes.If, nodes.For, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div),
    *(nodes.FloorDiv, nodes.Mod, nodes.Getitem, nodes.Slice, nodes.List, nodes.Tuple),
)
LOOP = frozenset({"index", "index0", "first", "last", "length", "revindex", "revindex0"})
# The rest would look at attributes of what is filtered.
ARGUMENTS = {
    "default": 2,
    "d": 2,
    "int": 1,
    "join": 1,
    "replace": 2,
    "round": 1,
    "sort": 1,
    "trim": 1,
    "truncate": 2,
}


def check_template(
    source: str, declared: Sequence[str], place: str, environment: Environment = ENVIRONMENT
) -> nodes.Template:
    """Raise InvalidInput, with the line, for what may not stand in a template, and for undeclared variables."""
    try:
        tree = environment.parse(source)
    except (TemplateError, RecursionError) as exc:
        line = getattr(exc, "lineno", None)
        raise _refused(f"is no template: {exc}", line, place) from exc
    except ValueError as exc:
        raise _refused(f"is no template: {exc}", None, place) from exc
    try:
        _walk(tree, declared, frozenset(), place)
    except RecursionError as exc:
        raise _refused("is nested too deeply", None, place) from exc
    return tree


def _walk(node: nodes.Node, declared: Sequence[str], bound: frozenset[str], place: str) -> None:
    """Check a node and what is in it; `bound` are the names of the loops around it."""
    if isinstance(node, nodes.For):
        _check_loop(node, place)
        _walk(node.iter, declared, bound, place)
        inside = (
            bound | {name.name for name in node.target.find_all(nodes.Name)} | _own(node.target) | {"loop"}
        )
        for part in (*node.body, *([node.test] if node.test else [])):
            _walk(part, declared, inside, place)
        for part in node.else_:
            _walk(part, declared, bound, place)
        return
    _check_node(node, declared, bound, place)
    for child in node.iter_child_nodes():
        if not (isinstance(node, nodes.Call | nodes.Getattr) and child is node.node):
            _walk(child, declared, bound, place)


def _own(target: nodes.Node) -> frozenset[str]:
    return frozenset({target.name}) if isinstance(target, nodes.Name) else frozenset()


def _check_loop(node: nodes.For, place: str) -> None:
    if node.recursive:
        raise _refused("may not have a recursive loop", node.lineno, place)
    names = [
        target
        for target in (node.target, *node.target.find_all(nodes.Name))
        if isinstance(target, nodes.Name)
    ]
    for name in names:
        if name.name.startswith("_") or name.name in ("range", "loop"):
            raise _refused(f"may not name a loop's item {name.name!r}", node.lineno, place)


def _check_node(node: nodes.Node, declared: Sequence[str], bound: frozenset[str], place: str) -> None:
    line = node.lineno
    match node:
        case nodes.Call():
            plain = isinstance(node.node, nodes.Name) and node.node.name == "range"
            if not plain or node.kwargs or node.dyn_args or node.dyn_kwargs:
                raise _refused("may call nothing but range(...)", line, place)
        case nodes.Getattr():
            known = isinstance(node.node, nodes.Name) and node.node.name == "loop" and "loop" in bound
            if not known or node.attr not in LOOP:
                raise _refused(
                    f"may not read the attribute {node.attr!r}; there are loop.{', loop.'.join(sorted(LOOP))}",
                    line,
                    place,
                )
        case nodes.Name():
            _check_name(node.name, declared, bound, line, place)
        case nodes.Filter():
            if node.name not in FILTERS:
                raise _refused(_near("filter", node.name, FILTERS), line, place)
            if (
                node.kwargs
                or node.dyn_args
                or node.dyn_kwargs
                or len(node.args) > ARGUMENTS.get(node.name, 0)
            ):
                most = ARGUMENTS.get(node.name, 0)
                raise _refused(
                    f"gives {node.name} too much; it takes {most} by their places here", line, place
                )
        case nodes.Test():
            if node.name not in TESTS or node.dyn_args or node.dyn_kwargs:
                raise _refused(_near("test", node.name, TESTS), line, place)
        case nodes.Keyword() | nodes.Pair():
            pass
        case _ if not isinstance(node, NODES):
            raise _refused(f"may not use {type(node).__name__.lower()}", line, place)


def _check_name(
    name: str, declared: Sequence[str], bound: frozenset[str], line: int | None, place: str
) -> None:
    if name in declared or (name in bound and name != "loop"):
        return
    near = difflib.get_close_matches(name, [*declared, *bound], 1)
    hint = f"did you mean {near[0]!r}?" if near else f"declared are: {', '.join(declared) or 'none'}"
    raise _refused(
        f"uses {name!r}, which no variable declares; {hint}", line, place, code="undeclared_variable"
    )


def _near(kind: str, name: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
    return f"may not use the {kind} {name[:80]!r}; {hint}"


def _refused(what: str, line: int | None, place: str, *, code: str = "invalid_template") -> InvalidInput:
    at = f" (line {line})" if line else ""
    return InvalidInput(f"{place} {what}{at}", code=code, param=place)
