"""Graders as OpenAI's evals have them: how an answer is judged, one criterion each. Pure.

Shapes after https://platform.openai.com/docs/guides/graders; `chrf` and the encoder of `cosine` are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_CRITERIA = 32
MAX_TEMPLATE = 100_000
MAX_SOURCE = 64 * 1024
MAX_MESSAGES = 64

Name = Annotated[str, Field(min_length=1, max_length=128)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
TemplateText = Annotated[str, Field(max_length=MAX_TEMPLATE)]
Similarity = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "chrf",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]


class Part(BaseModel):
    """A part of a body and of a job's payload alike: unknown fields refused, nothing converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class TemplateMessage(Part):
    """A message of a prompt; its text may hold templates over the item (and the sample)."""

    role: Literal["user", "assistant", "system", "developer"]
    # A text, or parts of text; checked by hand, since images and sounds are refused by name.
    content: Any
    type: Literal["message"] = "message"

    @field_validator("content")
    @classmethod
    def _of_text(cls, content: Any) -> Any:
        message_text(content)
        return content

    @property
    def text(self) -> str:
        return message_text(self.content)


def message_text(content: Any) -> str:
    """The text of a message's content. Raises ValueError for what is no text."""
    if isinstance(content, str):
        text = content
    else:
        text = "".join(_part_text(part) for part in (content if isinstance(content, list) else [content]))
    if len(text) > MAX_TEMPLATE:
        raise ValueError(f"the content has {len(text)} characters; it has {MAX_TEMPLATE} at most")
    return text


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("input_image", "input_audio", "image_url"):
        raise ValueError(f"a part of the type {kind!r} is not served; evals are of text")
    raise ValueError('content is a text or a list of {"type": "input_text", "text": ...}')


class JudgeSampling(Part):
    """How a judge answers. Its answer is bound by a grammar, so that few tokens do."""

    max_completions_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    # Named so that it is refused where it is set, and taken where a client sends null.
    reasoning_effort: None = None


class StringCheck(Part):
    """Equal, not equal, or contained: `like` looks for the reference in the input, `ilike` without regard to case."""

    type: Literal["string_check"]
    name: Name
    input: TemplateText
    reference: TemplateText
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(Part):
    """How near the input is to the reference, 0 to 1; cosine is of the vectors of `model`, an encoder."""

    type: Literal["text_similarity"]
    name: Name
    input: TemplateText
    reference: TemplateText
    evaluation_metric: Similarity
    pass_threshold: float | None = None
    model: ModelName | None = Field(
        None, description="The encoder of cosine; your only one where none is named."
    )

    @model_validator(mode="after")
    def _encoder_of_cosine(self) -> Self:
        if self.model is not None and self.evaluation_metric != "cosine":
            raise ValueError(f"model is of cosine alone, not of {self.evaluation_metric}; leave it out")
        return self


class LabelModel(Part):
    """A judge that says one of `labels`; those in `passing_labels` pass."""

    type: Literal["label_model"]
    name: Name
    model: ModelName
    input: list[TemplateMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    labels: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(min_length=1, max_length=256)
    passing_labels: list[str] = Field(min_length=1, max_length=256)
    sampling_params: JudgeSampling | None = None

    @model_validator(mode="after")
    def _passing_are_labels(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels has a label twice")
        for label in self.passing_labels:
            if label not in self.labels:
                raise ValueError(
                    f"passing_labels has {label!r}, which labels ({', '.join(self.labels)}) has not"
                )
        return self


class ScoreModel(Part):
    """A judge that says a number within `range`; it passes from `pass_threshold` on, by default the middle."""

    type: Literal["score_model"]
    name: Name
    model: ModelName
    input: list[TemplateMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    range: list[float] | None = Field(default=None, min_length=2, max_length=2)
    pass_threshold: float | None = None
    sampling_params: JudgeSampling | None = None

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"range is [{low:g}, {high:g}]; the first number must be the smaller one")
        if self.pass_threshold is not None and not low <= self.pass_threshold <= high:
            raise ValueError(f"pass_threshold is {self.pass_threshold:g}, outside of [{low:g}, {high:g}]")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        return (self.range[0], self.range[1]) if self.range is not None else (0.0, 1.0)

    @property
    def threshold(self) -> float:
        return self.pass_threshold if self.pass_threshold is not None else sum(self.bounds) / 2


class PythonGrader(Part):
    """`def grade(sample, item) -> float`, run in a process of its own where the operator allows it."""

    type: Literal["python"]
    name: Name
    source: str = Field(min_length=1, max_length=MAX_SOURCE)
    pass_threshold: float | None = None
    # Named so that it is refused where it is set: there is one interpreter.
    image_tag: None = None


Criterion = Annotated[
    StringCheck | TextSimilarity | LabelModel | ScoreModel | PythonGrader, Field(discriminator="type")
]


class MultiGrader(Part):
    """Several graders and a formula over their scores, as `client.fine_tuning.alpha.graders` takes them."""

    type: Literal["multi"]
    name: Name
    graders: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Criterion] | Criterion = (
        Field(union_mode="left_to_right")
    )
    calculate_output: str = Field(min_length=1, max_length=1000)

    @property
    def named(self) -> dict[str, Criterion]:
        """The graders by the names that the formula calls them by."""
        if isinstance(self.graders, dict):
            return self.graders
        return {self.graders.name: self.graders}


Grader = Annotated[
    StringCheck | TextSimilarity | LabelModel | ScoreModel | PythonGrader | MultiGrader,
    Field(discriminator="type"),
]
