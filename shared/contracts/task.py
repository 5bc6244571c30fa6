"""What a version of a task is made of, as it arrives and as it is stored. What it means is in `shared.task`. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.contracts.base import Message
from shared.contracts.steps.mask_pii import CorePiiType

PREFIX = "task:"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
MAX_TEXT = 20_000
# What a caller's texts, and what a prompt made of them, may come to: guards look at every character.
MAX_INPUT = 100_000
MAX_WEIGHT = 1_000_000
Language = Literal["zh", "en"]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Variable(_Part):
    """One declared variable; it is required where it has no default. Bounds count characters, values or items."""

    type: Literal["string", "integer", "number", "boolean", "list", "enum"] = "string"
    description: str | None = Field(default=None, max_length=500)
    required: bool | None = None
    default: Any = None
    max_length: int | None = Field(default=None, ge=1, le=MAX_INPUT)
    max_items: int | None = Field(default=None, ge=1, le=1000)
    minimum: float | None = None
    maximum: float | None = None
    values: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        default=None, min_length=1, max_length=200
    )

    @property
    def needed(self) -> bool:
        return self.required if self.required is not None else self.default is None

    @model_validator(mode="after")
    def _of_its_type(self) -> Self:
        for names, types in (
            (("max_length",), ("string", "list")),
            (("max_items",), ("list",)),
            (("minimum", "maximum"), ("integer", "number")),
            (("values",), ("enum",)),
        ):
            for name in names:
                if getattr(self, name) is not None and self.type not in types:
                    raise ValueError(f"{name} belongs to {' and '.join(types)}, not to {self.type}")
        if self.type == "enum" and self.values is None:
            raise ValueError("an enum needs its values")
        if self.required and self.default is not None:
            raise ValueError("give required or a default, not both")
        return self


class PiiGuard(_Part):
    """What happens where personal data are found."""

    action: Literal["mask", "refuse"]
    types: list[CorePiiType] = Field(default=["email", "phone", "id_card", "bank_card"], min_length=1)


class Guard(_Part):
    """What a text must keep to. `blocked` are regular expressions of RE2's kind with a bounded length."""

    min_chars: int | None = Field(default=None, ge=1, le=MAX_INPUT)
    max_chars: int | None = Field(default=None, ge=1, le=MAX_INPUT)
    languages: list[Language] | None = Field(default=None, min_length=1, max_length=2)
    blocked: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(default=[], max_length=10)
    pii: PiiGuard | None = None

    @model_validator(mode="after")
    def _room_between(self) -> Self:
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            raise ValueError("min_chars is above max_chars")
        return self

    @property
    def empty(self) -> bool:
        return self == Guard()


class Guards(_Part):
    input: Guard = Guard()
    output: Guard = Guard()


class Retrieval(_Part):
    """Where the answer stands: passages of a vector store are the template's variable `passages`, numbered from [1].

    `query` is a template over the variables, the input variable by default. `unknown` is the answer where no passage
    has `min_score`; without it the model is asked all the same, with no passages.
    """

    vector_store: str = Field(min_length=1, max_length=256)
    max_results: int = Field(default=5, ge=1, le=20)
    min_score: float = Field(default=0.0, ge=0, le=1)
    query: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    unknown: str | None = Field(default=None, min_length=1, max_length=2000)


class TaskSpec(_Part):
    """A version of a task. `prompt` and `system` are templates over the variables; `input` names the variable that
    the last user message is bound to where the caller sends none by that name."""

    model: str = Field(min_length=1, max_length=256)
    prompt: str = Field(min_length=1, max_length=MAX_TEXT)
    system: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    variables: dict[str, Variable] = Field(default={}, max_length=32)
    input: str | None = None
    decoding: dict[str, Any] = Field(default={}, max_length=32)
    response_format: Any = None
    structured_outputs: Any = None
    guards: Guards = Guards()
    retrieval: Retrieval | None = None

    @field_validator("model")
    @classmethod
    def _no_task(cls, value: str) -> str:
        if value.startswith(PREFIX):
            raise ValueError("a task stands on a model, not on another task")
        return value

    @field_validator("variables")
    @classmethod
    def _names(cls, value: dict[str, Variable]) -> dict[str, Variable]:
        for name in value:
            if not VARIABLE.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"{name[:80]!r} is no name for a variable: letters, digits and _, 64 at most, and none of "
                    f"{', '.join(sorted(RESERVED))}"
                )
        return value


# Words of the template language; a variable of such a name could not be read.
RESERVED = frozenset(
    {"range", "loop", "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if"}
    | {"else", "elif", "endif", "for", "endfor", "self", "recursive"}
)


class TaskRoute(Message):
    """Which versions of a task its callers get: (version, weight), the versions ascending."""

    id: str
    weights: tuple[tuple[int, int], ...]
