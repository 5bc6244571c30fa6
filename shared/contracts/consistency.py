"""Consistency between files: keys, references, and records of the same thing in several sources. Pure."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.sources import BuildAfter, Name

Rule = Literal["newest", "priority", "vote"]
Columns = Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]


class KeyRule(Message):
    """Rows of `input` that have the same values in these columns, or null in one of them, break it."""

    input: Name
    columns: Columns


class Reference(Message):
    """Each row of `input` must name one of `to`; a null names none and is let pass."""

    input: Name
    columns: Columns
    to: Name
    to_columns: Columns


class MatchKey(Message):
    """Records of several inputs that have the same normal form here are one thing.

    `columns` say for each input where it stands; `region` is what a phone number without a country is taken for.
    """

    kind: Literal["phone", "email", "name", "exact"]
    columns: Annotated[dict[Name, Name], Field(min_length=1)]
    region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "CN"


class Entities(Message):
    """How records are matched, and how what they contradict each other in is settled.

    `values` has the columns of the result, each with its column in every input that knows it. `newest` names the
    column of each input that says how new a record is; `priority` lists inputs, the most trusted first.
    """

    match: Annotated[tuple[MatchKey, ...], Field(min_length=1, max_length=8)]
    values: Annotated[dict[Name, Annotated[dict[Name, Name], Field(min_length=1)]], Field(min_length=1)]
    rule: Rule = "vote"
    rules: dict[Name, Rule] = Field(default={})
    newest: dict[Name, Name] = Field(default={})
    priority: tuple[Name, ...] = ()


class Checks(Message):
    """What shall hold. Names of inputs are those of the request."""

    keys: Annotated[tuple[KeyRule, ...], Field(max_length=50)] = ()
    references: Annotated[tuple[Reference, ...], Field(max_length=50)] = ()
    entities: Entities | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not (self.keys or self.references or self.entities):
            raise ValueError("give keys, references or entities to check")
        for reference in self.references:
            if len(reference.columns) != len(reference.to_columns):
                raise ValueError("a reference has as many columns as to_columns")
        found = self.entities
        if found is not None:
            used = {found.rule, *found.rules.values()}
            if unknown := found.rules.keys() - found.values.keys():
                raise ValueError(f"rules names {sorted(unknown)[0]!r}, which is not among values")
            for rule, given in (("newest", found.newest), ("priority", found.priority)):
                if rule in used and not given:
                    raise ValueError(f"the rule {rule!r} wants {rule!r} to be given")
        return self

    def inputs(self) -> set[str]:
        """Every input that is named somewhere."""
        names = {rule.input for rule in self.keys}
        names |= {name for rule in self.references for name in (rule.input, rule.to)}
        if self.entities is not None:
            told = [*(m.columns for m in self.entities.match), *self.entities.values.values()]
            names |= {name for columns in (*told, self.entities.newest) for name in columns}
            names |= set(self.entities.priority)
        return names


class CheckInput(Message):
    """A file by content, under the name that the checks call it by."""

    name: str
    file_id: str
    artifact: str
    filename: str


class CheckConsistency(JobContract):
    """Checks files against each other; with `entities` it makes a file of one row a thing, and one of conflicts."""

    kind: ClassVar[str] = "data.check"
    queue: ClassVar[str] = "data.check"
    id_prefix: ClassVar[str] = "check-"
    stall_limit_s: ClassVar[float | None] = 600.0

    name: str
    inputs: tuple[CheckInput, ...]
    checks: Checks
    build: BuildAfter | None = None
