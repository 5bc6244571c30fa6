"""The formula of a multi grader: numbers, names of graders, + - * / and a few functions. Pure, and cannot run away."""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence

from shared.errors import InvalidInput

CODE = "invalid_formula"
OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SIGNS: Mapping[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
MAX_NODES = 200


def check_formula(formula: str, names: Sequence[str], place: str) -> None:
    """Raise InvalidInput for what is no formula, and for a name that no grader has."""
    tree = _parsed(formula, place)
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise InvalidInput(f"{place} has more than {MAX_NODES} parts", code=CODE, param=place)
    _walk(tree.body, names, place)


def evaluate(formula: str, values: Mapping[str, float], place: str) -> float:
    """The number of a checked formula. Raises InvalidInput where it has none: a division by zero, a root of -1."""
    try:
        value = float(_value(_parsed(formula, place).body, values))
    except (ArithmeticError, ValueError, TypeError) as exc:
        raise InvalidInput(f"{place} has no value here: {exc}", code=CODE, param=place) from exc
    if not math.isfinite(value):
        raise InvalidInput(f"{place} comes to {value}", code=CODE, param=place)
    return value


def _parsed(formula: str, place: str) -> ast.Expression:
    try:
        return ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        said = exc.msg if isinstance(exc, SyntaxError) else str(exc)
        raise InvalidInput(f"{place} is no formula: {said}", code=CODE, param=place) from exc


def _walk(node: ast.expr, names: Sequence[str], place: str) -> None:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float()):
            return
        case ast.Name(id=name):
            if name in names:
                return
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise InvalidInput(
                f"{place} uses {name!r}, which no grader is called; {hint}", code=CODE, param=place
            )
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            _walk(left, names, place)
            _walk(right, names, place)
            return
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            _walk(operand, names, place)
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
            for one in args:
                _walk(one, names, place)
            return
    raise InvalidInput(
        f"{place} may use numbers, graders, + - * / and {', '.join(FUNCTIONS)}, and not {type(node).__name__.lower()}",
        code=CODE,
        param=place,
    )


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.UnaryOp(op=op, operand=operand):
            return SIGNS[type(op)](_value(operand, values))
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name](*(_value(one, values) for one in args))
    raise InvalidInput("the formula was not checked", code=CODE)
