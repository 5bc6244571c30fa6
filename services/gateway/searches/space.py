"""What a search varies, checked against the body of the job that it varies: every end of every range must be a job that
would be taken. Finds where in the job's contract a value lands, so that a worker needs to know no body. Knows no SQL.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from services.gateway.complaints import parse, short
from services.gateway.training.methods import CreateTraining
from services.gateway.training.methods.base import MethodBody
from shared.contracts.searches import Choices, Dimension, Range, canonical
from shared.errors import HeliuError, InvalidInput

Job = dict[str, Any]
Params = Mapping[str, Any]
Payload = dict[str, Any]

# What says which job it is, and not how it is done.
FIXED = frozenset({"type", "name", "suffix", "metadata", "validation_file", "priority", "preemptible"})
MOST_COMBINED = 256


def dimensions(
    job: Job, space: Mapping[str, Range], contract: Callable[[MethodBody], Payload]
) -> tuple[Dimension, ...]:
    """The space with its places in the contract, whose payload `contract` makes of a body.

    Raises InvalidInput (`param` is `space.PATH`) for a path that no such job has, a value that its schema refuses, and
    a parameter that changes nothing.
    """
    check_bodies(job, space)
    first = {path: one.ends[0] for path, one in space.items()}
    base = _made(job, first, first, contract)
    found = tuple(_placed(job, path, one, first, base, contract) for path, one in space.items())
    _check_together(job, found, base, contract)
    return found


def check_bodies(job: Job, space: Mapping[str, Range]) -> None:
    """Raise InvalidInput where a trial could be a job that is refused: all ends together where they are few enough."""
    for path, one in space.items():
        if path.split(".")[0] in FIXED:
            raise InvalidInput(
                f"{path!r} names the job and is no parameter of it; it cannot be searched",
                param=f"space.{path}",
            )
        for end in one.ends:
            _body(job, {path: end})
    for params in _combined(space):
        _body(job, params)


def _combined(space: Mapping[str, Range]) -> Iterator[Params]:
    """Ends of all ranges together: every such point, or a sample of them."""
    count = 1
    for one in space.values():
        count *= len(one.ends)
    if count <= MOST_COMBINED:
        for values in itertools.product(*(one.ends for one in space.values())):
            yield dict(zip(space, values, strict=True))
        return
    draw = random.Random(0)
    for _ in range(MOST_COMBINED):
        yield {path: draw.choice(one.ends) for path, one in space.items()}


def _body(job: Job, params: Params) -> MethodBody:
    """The body of a trial. Raises InvalidInput that names the parameter at fault."""
    varied = copy.deepcopy(job)
    for path, value in params.items():
        inner: Any = varied
        *way, name = path.split(".")
        for part in way:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not name:
            raise InvalidInput(f"{path!r} leads to no parameter of this job", param=f"space.{path}")
        inner[name] = value
    try:
        return parse(CreateTraining, json.dumps(varied).encode(), varied).root
    except InvalidInput as exc:
        raise _blamed(exc, params) from exc


def _blamed(exc: HeliuError, params: Params) -> InvalidInput:
    """The refusal of a trial's body or contract, with the parameter of the space that it is about."""
    place = exc.param or ""
    told = {path for path in params if place == path or place.startswith((f"{path}.", f"{path}["))}
    path = next(iter(told or (params if len(params) == 1 else ())), None)
    given = "" if len(params) == 1 else f" (with {', '.join(f'{p}={short(v)}' for p, v in params.items())})"
    return InvalidInput(
        f"a trial of this space would be refused: {exc.message}{given}",
        code=exc.code,
        param=f"space.{path}" if path else "space",
    )


def _made(job: Job, params: Params, told: Params, contract: Callable[[MethodBody], Payload]) -> Payload:
    """The payload of a trial; `told` are the parameters that a refusal may be about."""
    try:
        return contract(_body(job, params))
    except HeliuError as exc:
        if (exc.param or "").startswith("space"):
            raise
        raise _blamed(exc, told) from exc


def _placed(
    job: Job,
    path: str,
    varies: Range,
    first: Params,
    base: Payload,
    contract: Callable[[MethodBody], Payload],
) -> Dimension:
    made = [_made(job, {**first, path: end}, {path: end}, contract) for end in varies.ends[1:]]
    changes = [_difference(base, one) for one in made]
    places = {place for change in changes for place in change}
    if not places:
        raise InvalidInput(f"{path} changes nothing of the job", param=f"space.{path}")
    if isinstance(varies, Choices):
        patches = tuple({place: _at(one, place) for place in sorted(places)} for one in (base, *made))
        return Dimension(path=path, range=varies, patches=patches)
    place = next(iter(places))
    landed = (_at(base, place), _at(made[0], place))
    if len(places) > 1 or landed != varies.ends:
        raise InvalidInput(
            f"{path} is not taken as a number by itself; name its values as choices", param=f"space.{path}"
        )
    return Dimension(path=path, range=varies, place=place)


def _check_together(
    job: Job,
    space: tuple[Dimension, ...],
    base: Payload,
    contract: Callable[[MethodBody], Payload],
) -> None:
    """Raise InvalidInput where two parameters land in one place, or one means something else beside another."""
    last = {one.path: one.range.ends[-1] for one in space}
    wanted = _made(job, last, last, contract)
    for one in space:
        for place, value in one.patch(last[one.path]).items():
            _set(base, place, value)
    if canonical(base) != canonical(wanted):
        at = ", ".join(sorted(_difference(base, wanted)))
        raise InvalidInput(
            f"the parameters of the space depend on each other in {at}; search one of them at a time",
            param="space",
        )


def _difference(one: Payload, other: Payload, way: str = "") -> dict[str, Any]:
    """Dotted place -> value in `other` of everything that differs; lists and what only one has are one value."""
    found: dict[str, Any] = {}
    for name in other:
        place = f"{way}.{name}" if way else name
        a, b = one.get(name), other[name]
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            found |= _difference(a, b, place)
        elif canonical(a) != canonical(b):
            found[place] = b
    return found


def _at(payload: Payload, place: str) -> Any:
    inner: Any = payload
    for part in place.split("."):
        inner = inner[part]
    return inner


def _set(payload: Payload, place: str, value: Any) -> None:
    *way, name = place.split(".")
    inner = payload
    for part in way:
        inner = inner[part]
    inner[name] = value
