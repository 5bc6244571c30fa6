"""Checks a version of a task when it is made, so that it cannot fail its callers later. Pure."""

from __future__ import annotations

from shared.contracts.decoding import DecodingBody, read_body
from shared.contracts.structured import response_format, structured_outputs
from shared.contracts.task import Guard, TaskSpec
from shared.errors import InvalidInput
from shared.task.bind import input_variable
from shared.task.citations import VARIABLE as PASSAGES
from shared.task.template_check import check_template
from shared.task.variables import checked
from shared.text.patterns import check_patterns

# Of a request, and not of a task.
NOT_DECODING = frozenset({"model", "n", "response_format", "structured_outputs", "stream", "stream_options"})


def check(spec: TaskSpec) -> None:
    """Raise InvalidInput that names the place (`spec.variables.text.default`) for what is wrong with a version."""
    for name, variable in spec.variables.items():
        if variable.default is not None:
            checked(variable, variable.default, f"spec.variables.{name}.default")
    declared = [*spec.variables, *_check_retrieval(spec)]
    for place, source in (("spec.prompt", spec.prompt), ("spec.system", spec.system)):
        if source is not None:
            check_template(source, declared, place)
    _check_input(spec)
    _check_decoding(spec)
    for side, guard in (("input", spec.guards.input), ("output", spec.guards.output)):
        _check_guard(guard, f"spec.guards.{side}")


def _check_retrieval(spec: TaskSpec) -> list[str]:
    """The variables that retrieval brings. Raises InvalidInput where there is nothing to search for."""
    asked = spec.retrieval
    if asked is None:
        return []
    if PASSAGES in spec.variables:
        raise InvalidInput(
            f"the variable {PASSAGES!r} is what retrieval finds; call yours otherwise",
            param=f"spec.variables.{PASSAGES}",
        )
    if asked.query is not None:
        check_template(asked.query, list(spec.variables), "spec.retrieval.query")
    elif input_variable(spec) is None:
        raise InvalidInput(
            "retrieval searches for the input variable, and this task has none; give a query, or name the input",
            param="spec.retrieval.query",
        )
    return [PASSAGES]


def _check_input(spec: TaskSpec) -> None:
    if spec.input is None:
        return
    variable = spec.variables.get(spec.input)
    if variable is None or variable.type != "string":
        raise InvalidInput(
            f"spec.input {spec.input[:80]!r} must name a declared variable of type string", param="spec.input"
        )


def _check_decoding(spec: TaskSpec) -> None:
    for name in spec.decoding.keys() & NOT_DECODING:
        raise InvalidInput(
            f"spec.decoding.{name} is no decoding setting",
            param=f"spec.decoding.{name}",
            code="unknown_parameter",
        )
    try:
        read_body(DecodingBody, {**spec.decoding, "model": spec.model}).sampling(
            max_tokens=None, top_logprobs=None
        )
        if spec.response_format is not None and spec.structured_outputs is not None:
            raise InvalidInput(
                "give response_format or structured_outputs, not both", param="structured_outputs"
            )
        if spec.response_format is not None:
            response_format(spec.response_format)
        if spec.structured_outputs is not None:
            structured_outputs(spec.structured_outputs)
    except InvalidInput as exc:
        own = exc.param is not None and exc.param.startswith(
            ("response_format", "structured_outputs", "model")
        )
        place = f"spec.{exc.param}" if own else f"spec.decoding.{exc.param}"
        raise InvalidInput(f"{place}: {exc.message}", code=exc.code, param=place) from exc


def _check_guard(guard: Guard, place: str) -> None:
    check_patterns(guard.blocked, f"{place}.blocked")
