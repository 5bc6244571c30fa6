"""The recipe of a dataset version: its models, and the checks that need no data. Reads no file, runs nothing.

What its steps may say is in `shared.contracts.steps`.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps import Step
from shared.contracts.steps.base import Count, Name, Ratio, Strict

MAX_STEPS = 64


class InputMapping(Strict):
    """Which source columns make a row. Exactly one of `messages`, `prompt` + `completion`, or `text`.

    `context` is what a prompt speaks of (the `input` of an instruction); where it is not blank it follows the prompt
    after an empty line. Columns that are not named go to the row's `meta`. `roles` renames the source's role names;
    `role_field` and `content_field` name the keys of one message.
    """

    messages: Name | None = None
    prompt: Name | None = None
    completion: Name | None = None
    context: Name | None = None
    text: Name | None = None
    id: Name | None = None
    label: Name | None = None
    system: Name | None = None
    role_field: Name = "role"
    content_field: Name = "content"
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default_factory=dict)
    encoding: Literal["utf-8", "gb18030", "big5", "cp1252"] = "utf-8"

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.prompt is None) != (self.completion is None):
            missing = "completion" if self.completion is None else "prompt"
            raise ValueError(f"`prompt` and `completion` go together; `{missing}` is missing")
        if self.context is not None and self.prompt is None:
            raise ValueError("`context` follows a `prompt`; without one it has no place")
        shapes = [s for s in ("messages", "prompt", "text") if getattr(self, s) is not None]
        if len(shapes) != 1:
            found = " and ".join(f"`{s}`" for s in shapes) or "none of them"
            raise ValueError(f"give exactly one of `messages`, `prompt` + `completion`, `text`, not {found}")
        if self.text is not None and self.system is not None:
            raise ValueError("`system` needs a conversation; plain `text` has no system message")
        return self

    def columns(self) -> tuple[str, ...]:
        """The source columns this mapping reads, without repeats, in a fixed order."""
        told = (self.messages, self.prompt, self.context, self.completion, self.text)
        named = (*told, self.id, self.label, self.system)
        return tuple(dict.fromkeys(c for c in named if c is not None))


class Gates(Strict):
    """Limits that a version must meet before training may use it; `None` means not asked.

    Ratios are of the rows that came in. A version without a row never passes. `max_drift` is of the figure of a version
    that moved most from the version before it, as a population stability index; a first version has none.
    """

    min_rows: Count | None = None
    min_validation_rows: Count | None = None
    max_dropped_ratio: Ratio | None = None
    max_bad_ratio: Ratio | None = None
    max_duplicate_ratio: Ratio | None = None
    max_conflict_ratio: Ratio | None = None
    max_pii_left: Count | None = None
    max_leaked_questions: Count | None = None
    max_drift: Annotated[float, Field(ge=0.0, le=100.0, allow_inf_nan=False)] | None = None


class Split(Strict):
    """Shares of the groups that go to validation and to the test, and what makes a group.

    `question`: rows whose first user turn (or text) is the same but for case, width, spaces and punctuation.
    `id`: rows with the same source id; the report then counts questions seen on both sides. `field`: rows with the same
    value of the source column `field` (a customer, a conversation). `time`: no groups: the newest rows by the column
    `field` are the test, those before them validation, the rest trains.
    """

    validation: Annotated[float, Field(ge=0.0, le=0.5, allow_inf_nan=False)] = 0.1
    test: Annotated[float, Field(ge=0.0, le=0.5, allow_inf_nan=False)] = 0.0
    by: Literal["question", "id", "field", "time"] = "question"
    field: Name | None = None

    @model_validator(mode="after")
    def _field_where_needed(self) -> Self:
        if self.by in ("field", "time") and self.field is None:
            raise ValueError(f"a split by `{self.by}` needs `field`, the source column to look at")
        if self.by in ("question", "id") and self.field is not None:
            raise ValueError(f"a split by `{self.by}` looks at no `field`; leave it out, or split by `field`")
        return self


class Recipe(Strict):
    """How sources become a dataset version. `input: auto` lets the worker infer the mapping.

    Of several inputs each may have a mapping of its own in `inputs`, by its name; `input` is for the others.
    """

    version: Literal[1] = 1
    input: InputMapping | Literal["auto"] = "auto"
    inputs: Annotated[dict[Name, InputMapping], Field(max_length=64)] = Field(default_factory=dict)
    steps: Annotated[list[Step], Field(max_length=MAX_STEPS)] = Field(default_factory=list)
    gates: Gates = Gates()
    split: Split = Split()
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    @model_validator(mode="after")
    def _order(self) -> Self:
        check_order(self)
        return self

    def canonical(self) -> str:
        """The one JSON text of this recipe, defaults written out: what the version id is made from."""
        plain = self.model_dump(mode="json")
        return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def check_order(recipe: Recipe) -> None:
    """Raises ValueError where two steps stand in an order that would undo what one of them promises."""
    places: dict[str, int] = {}
    for index, step in enumerate(recipe.steps):
        if step.op in places and not step.repeatable:
            raise ValueError(f"step {index} repeats `{step.op}` of step {places[step.op]}; keep one of them")
        for op, why in step.before.items():
            if op in places:
                raise ValueError(
                    f"`{step.op}` (step {index}) must come before `{op}` (step {places[op]}): {why}"
                )
        places.setdefault(step.op, index)
    split = recipe.split
    if split.by != "question" and split.validation + split.test > 0 and "exact_duplicates" not in places:
        raise ValueError(
            f"a split by `{split.by}` needs an `exact_duplicates` step: equal rows in two groups would land in "
            "training and in validation"
        )
    counted = {"exact_duplicates", "near_duplicates"} & places.keys()
    if recipe.gates.max_duplicate_ratio is not None and not counted:
        raise ValueError("gate `max_duplicate_ratio` needs an `exact_duplicates` step, which counts them")
    if recipe.gates.max_conflict_ratio is not None and "conflicting_labels" not in places:
        raise ValueError("gate `max_conflict_ratio` needs a `conflicting_labels` step, which counts them")
