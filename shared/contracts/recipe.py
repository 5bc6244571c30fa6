"""The recipe of a dataset version: its models, and the checks that need no data. Reads no file, runs nothing.

An operator's parameters are declared here, so that the gateway refuses a wrong recipe before a worker sees
it; what the operator does lives in `services/data_governance/operators/`.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_STEPS = 64

OnDrop = Literal["drop", "fail"]
PiiType = Literal["email", "phone", "id_card", "bank_card"]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Strict(BaseModel):
    """Unknown fields are refused, values are never converted, instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class NormalizeTextParams(Strict):
    """`width` makes full-width letters, digits and spaces half width; Chinese punctuation stays."""

    form: Literal["none", "nfc", "nfkc"] = "nfc"
    width: bool = True
    whitespace: bool = True
    control: bool = True
    mojibake: bool = True


class NoParams(Strict):
    """An operator without parameters."""


class ExactDuplicatesParams(Strict):
    """What makes two rows the same.

    `normalised` compares without case, width, spaces and punctuation, marks within numbers excepted;
    `include_label` tells rows apart whose labels differ.
    """

    normalised: bool = False
    include_label: bool = True


class ConflictingLabelsParams(Strict):
    """Rows with the same user turns (`label`) or the same context (`answer`) that disagree.

    `majority` keeps the value most rows have (a tie drops all), `drop` keeps none of them.
    """

    compare: Literal["label", "answer"] = "label"
    resolution: Literal["majority", "drop"] = "majority"


class MaskPiiParams(Strict):
    """Types to mask, and whether the remaining source columns in `meta` are masked too."""

    types: list[PiiType] = Field(default=["email", "phone", "id_card", "bank_card"], min_length=1)
    meta: bool = True


class LengthBoundsParams(Strict):
    """Characters of the whole row, turns counted as user messages; plain text has no turns."""

    min_chars: Count = 1
    max_chars: Annotated[int, Field(ge=1, le=2**31)] = 100_000
    min_turns: Count = 1
    max_turns: Annotated[int, Field(ge=1, le=2**31)] = 10_000

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        for what in ("chars", "turns"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low > high:
                raise ValueError(f"`min_{what}` ({low}) is above `max_{what}` ({high})")
        return self


class _Step(Strict):
    version: Literal[1] = 1
    on_drop: OnDrop = "drop"


class NormalizeText(_Step):
    """Unicode, width, whitespace, control characters, and mojibake where the repair is certain."""

    op: Literal["normalize_text"]
    params: NormalizeTextParams = NormalizeTextParams()


class DropEmpty(_Step):
    """Rows without any text, and conversations with a blank message."""

    op: Literal["drop_empty"]
    params: NoParams = NoParams()


class DropBroken(_Step):
    """Rows with encoding damage, and conversations that cannot be learnt from."""

    op: Literal["drop_broken"]
    params: NoParams = NoParams()


class ExactDuplicates(_Step):
    """All but the first of rows with the same content."""

    op: Literal["exact_duplicates"]
    params: ExactDuplicatesParams = ExactDuplicatesParams()


class ConflictingLabels(_Step):
    """Rows that say different things of the same question."""

    op: Literal["conflicting_labels"]
    params: ConflictingLabelsParams = ConflictingLabelsParams()


class MaskPii(_Step):
    """Personal data replaced by typed placeholders such as `[PHONE]`."""

    op: Literal["mask_pii"]
    params: MaskPiiParams = MaskPiiParams()


class LengthBounds(_Step):
    """Rows that are too short or too long."""

    op: Literal["length_bounds"]
    params: LengthBoundsParams = LengthBoundsParams()


STEP_TYPES = (NormalizeText, DropEmpty, DropBroken, ConflictingLabels, ExactDuplicates, MaskPii, LengthBounds)
Step = Annotated[
    NormalizeText | DropEmpty | DropBroken | ConflictingLabels | ExactDuplicates | MaskPii | LengthBounds,
    Field(discriminator="op"),
]


class Gates(Strict):
    """Limits that a version must meet before training may use it; `None` means not asked.

    Ratios are of the rows that came in. A version without a row never passes.
    """

    min_rows: Count | None = None
    min_validation_rows: Count | None = None
    max_dropped_ratio: Ratio | None = None
    max_bad_ratio: Ratio | None = None
    max_duplicate_ratio: Ratio | None = None
    max_conflict_ratio: Ratio | None = None
    max_pii_left: Count | None = None
    max_leaked_questions: Count | None = None


class Split(Strict):
    """Share of the groups that goes to validation, and what makes a group.

    `question`: rows whose first user turn (or text) is the same but for case, width, spaces and punctuation.
    `id`: rows with the same source id; the report then counts questions seen on both sides.
    """

    validation: Annotated[float, Field(ge=0.0, le=0.5, allow_inf_nan=False)] = 0.1
    by: Literal["question", "id"] = "question"


class Recipe(Strict):
    """How a source becomes a dataset version. `input: auto` lets the worker infer the mapping."""

    version: Literal[1] = 1
    input: InputMapping | Literal["auto"] = "auto"
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


# (first, second): why `first` may not come after `second`
_BEFORE = {
    ("normalize_text", "mask_pii"): "normalising can uncover numbers that masking could not read",
    ("normalize_text", "exact_duplicates"): "normalising makes new duplicates",
    ("normalize_text", "conflicting_labels"): "normalising makes more questions the same",
    ("normalize_text", "drop_broken"): "repairable encoding damage would be dropped",
    ("normalize_text", "drop_empty"): "normalising can leave a row empty",
    ("normalize_text", "length_bounds"): "normalising changes lengths",
    ("mask_pii", "length_bounds"): "masking changes lengths",
    ("conflicting_labels", "exact_duplicates"): "without the duplicates there are no votes to count",
}


def check_order(recipe: Recipe) -> None:
    """Raises ValueError where two steps stand in an order that would undo what one of them promises."""
    places: dict[str, int] = {}
    for index, step in enumerate(recipe.steps):
        if step.op in places:
            raise ValueError(f"step {index} repeats `{step.op}` of step {places[step.op]}; keep one of them")
        places[step.op] = index
    for (first, second), why in _BEFORE.items():
        if first in places and second in places and places[first] > places[second]:
            raise ValueError(
                f"`{first}` (step {places[first]}) must come before `{second}` (step {places[second]}): {why}"
            )
    if recipe.split.by == "id" and recipe.split.validation > 0 and "exact_duplicates" not in places:
        raise ValueError(
            "a split by `id` needs an `exact_duplicates` step: equal rows under two ids would land in "
            "training and in validation"
        )
    if recipe.gates.max_duplicate_ratio is not None and "exact_duplicates" not in places:
        raise ValueError("gate `max_duplicate_ratio` needs an `exact_duplicates` step, which counts them")
    if recipe.gates.max_conflict_ratio is not None and "conflicting_labels" not in places:
        raise ValueError("gate `max_conflict_ratio` needs a `conflicting_labels` step, which counts them")
