"""Fields of a row: the other columns, and text, label and id."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.steps.base import Name, StepBase, Strict

MAX_CHANGES = 200
Value = (
    Annotated[str, Field(max_length=10_000)]
    | bool
    | int
    | Annotated[float, Field(allow_inf_nan=False)]
    | None
)


class Rename(Strict):
    """`field` gets the name `to`; a field of that name is replaced. A row without `field` stays as it is."""

    do: Literal["rename"]
    field: Name
    to: Name


class Put(Strict):
    """`field` gets `value` in every row."""

    do: Literal["set"]
    field: Name
    value: Value


class Default(Strict):
    """`field` gets `value` where it is missing, null or blank."""

    do: Literal["default"]
    field: Name
    value: Value


class Drop(Strict):
    """The fields are left out of every row."""

    do: Literal["drop"]
    fields: list[Name] = Field(min_length=1, max_length=MAX_CHANGES)


class Concat(Strict):
    """`to` gets what is not blank of `fields`, in their order, with `separator` between."""

    do: Literal["concat"]
    fields: list[Name] = Field(min_length=1, max_length=MAX_CHANGES)
    to: Name
    separator: Annotated[str, Field(max_length=100)] = " "


class Cast(Strict):
    """`field` becomes a value of `type`; a row in which it cannot is dropped, or the field becomes null.

    Full-width digits, thousands separators, and dates such as 2026年3月5日 or 2026/3/5 are read; dates are written as
    ISO 8601. A missing, null or blank field is null already.
    """

    do: Literal["cast"]
    field: Name
    type: Literal["int", "float", "bool", "date", "datetime", "str"]
    on_error: Literal["drop", "null"] = "drop"


Change = Annotated[Rename | Put | Default | Drop | Concat | Cast, Field(discriminator="do")]


class MapFieldsParams(Strict):
    """Changes, one after the other. `text`, `label` and `id` are the row's own; all else are its other columns.

    `meta.text` names another column that has one of these names. The text of a conversation cannot be written: it has
    turns. `label` and `id` are written as text, and no row may be without an id.
    """

    changes: Annotated[list[Change], Field(min_length=1, max_length=MAX_CHANGES)]


class MapFields(StepBase):
    """Fields renamed, set, filled, left out, put together, and cast."""

    before: ClassVar[dict[str, str]] = {
        "normalize_text": "a text put together afterwards would not be normalised",
        "drop_empty": "a text may be put together from other fields",
        "mask_pii": "personal data of another field could be put into the text unmasked",
        "blocked_words": "blocked words of another field could be put into the text",
        "check_rows": "casts give fields the types that checks look for",
        "map_labels": "a label may be made of another field",
        "exact_duplicates": "changing fields makes new duplicates",
        "near_duplicates": "changing fields makes new duplicates",
        "conflicting_labels": "a label may be made of another field",
        "length_bounds": "a text may be put together from other fields",
    }

    op: Literal["map_fields"]
    params: MapFieldsParams
