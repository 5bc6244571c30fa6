"""Labelling projects: what a project asks of its labellers, and the jobs on one. Pure."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, LiveCall, Message
from shared.errors import InvalidInput

TaskType = Literal["classification", "preference", "answer", "spans", "text"]
# Settled by agreement or an adjudicator; the vote of most; or votes weighed by how far each labeller is right.
Method = Literal["adjudicated", "majority", "dawid_skene"]
# Of these there is one answer out of few, so that votes can be counted and confusions learned.
CATEGORICAL = ("classification", "preference")
WANTS_LABELS = ("classification", "spans")
MAX_LABELS = 200
MAX_LABEL_CHARS = 100
MAX_GUIDELINES = 20_000


class Fields(Message):
    """Columns of the source: what a labeller sees, and the right answer of gold rows. Unset ones are guessed."""

    text: str | None = Field(None, min_length=1, max_length=256)
    messages: str | None = Field(None, min_length=1, max_length=256)
    id: str | None = Field(None, min_length=1, max_length=256)
    a: str = Field("answer_a", min_length=1, max_length=256)
    b: str = Field("answer_b", min_length=1, max_length=256)
    gold: str | None = Field(None, min_length=1, max_length=256)


class ProjectSpec(Message):
    """`labels_per_item` people label each item, blind to each other; where they agree less than `agreement` (0 to 1),
    somebody who has not labelled it decides. `gold_share` of what a labeller gets are items with a known answer."""

    task: TaskType
    multiple: bool = False
    labels: tuple[str, ...] = Field((), max_length=MAX_LABELS)
    guidelines: str = Field("", max_length=MAX_GUIDELINES)
    labels_per_item: int = Field(1, ge=1, le=20)
    agreement: float = Field(1.0, gt=0, le=1)
    gold_share: float = Field(0.0, ge=0, le=0.5)
    lease_seconds: int = Field(600, ge=5, le=86_400)
    fields: Fields = Fields()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task in WANTS_LABELS and not self.labels:
            raise ValueError(f"labels: a {self.task} project needs one label or more")
        if self.task not in WANTS_LABELS and self.labels:
            raise ValueError(f"labels: a {self.task} project has none of its own; leave them out")
        if self.multiple and self.task != "classification":
            raise ValueError("multiple: only classification has more than one label an item")
        for label in self.labels:
            if not 0 < len(label.strip()) == len(label) <= MAX_LABEL_CHARS:
                raise ValueError(
                    f"labels: {label[:40]!r} must have 1 to {MAX_LABEL_CHARS} characters and no spaces around"
                )
        if len(set(self.labels)) != len(self.labels):
            twice = next(x for at, x in enumerate(self.labels) if x in self.labels[:at])
            raise ValueError(f"labels: {twice!r} stands twice")
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        """Everything that one vote may be; empty where answers are free."""
        return ("a", "b", "tie") if self.task == "preference" else self.labels


class _OfProject(JobContract):
    queue: ClassVar[str] = "data"
    stall_limit_s: ClassVar[float | None] = 300.0

    project_id: str


class ImportItems(_OfProject):
    """Rows of a file, of a dataset version, or tasks of a Label Studio export become items; again adds none twice."""

    kind: ClassVar[str] = "data.import_items"
    id_prefix: ClassVar[str] = "labjob-"

    artifact: str
    filename: str
    source: Literal["file", "version", "label_studio"]
    source_id: str


class ExportLabels(_OfProject):
    """Labels as a file; with `dataset_id`, a version of that dataset is built from it then.

    `weak` fills items that nobody has labelled with what labelling functions say at this probability or more.
    """

    kind: ClassVar[str] = "data.export_labels"
    id_prefix: ClassVar[str] = "labjob-"

    method: Method = "adjudicated"
    format: Literal["rows", "label_studio"] = "rows"
    weak: float | None = Field(None, ge=0.5, le=1)
    dataset_id: str | None = None
    dataset_name: str | None = None
    recipe: dict[str, Any] | None = None


class FindSuspects(_OfProject):
    """Labels that a classifier, which has not seen them, doubts; the least likely first, `most` of them."""

    kind: ClassVar[str] = "data.find_suspects"
    id_prefix: ClassVar[str] = "labjob-"

    most: int = Field(1000, ge=1, le=100_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)


class PickItems(_OfProject):
    """Orders the queue by how unsure a classifier of the labels so far is, or a supplied file of probabilities."""

    kind: ClassVar[str] = "data.pick_items"
    id_prefix: ClassVar[str] = "labjob-"

    artifact: str | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)


class Keyword(Message):
    """`label` where the text holds one of `any`, without regard to case and width."""

    kind: Literal["keyword"]
    name: str = Field(min_length=1, max_length=64)
    label: str
    any: tuple[str, ...] = Field(min_length=1, max_length=1000)


class Regex(Message):
    """`label` where the pattern is found in the text."""

    kind: Literal["regex"]
    name: str = Field(min_length=1, max_length=64)
    label: str
    pattern: str = Field(min_length=1, max_length=1000)


class Length(Message):
    """`label` where the text has `at_least` to `at_most` characters."""

    kind: Literal["length"]
    name: str = Field(min_length=1, max_length=64)
    label: str
    at_least: int = Field(0, ge=0)
    at_most: int = Field(2**31 - 1, ge=0)


class FieldValue(Message):
    """`label` where the column `field` of the source row is one of `values`, compared as text."""

    kind: Literal["field"]
    name: str = Field(min_length=1, max_length=64)
    label: str
    field: str = Field(min_length=1, max_length=256)
    values: tuple[str, ...] = Field(min_length=1, max_length=1000)


class Answers(Message):
    """What a model or head said, from a file of `{"custom_id": ROW_ID, "label": ...}` or a batch's output file.

    Of a batch's row the label is the head's, or the answer's text; what is none of the project's labels abstains.
    """

    kind: Literal["answers"]
    name: str = Field(min_length=1, max_length=64)
    file_id: str = Field(min_length=1, max_length=256)
    # Filled in by the gateway, which knows whose file it is.
    artifact: str = ""


Function = Annotated[Keyword | Regex | Length | FieldValue | Answers, Field(discriminator="kind")]


class ApplyFunctions(_OfProject):
    """Labelling functions over every item, weighed against each other by Dawid-Skene; never over a person's label."""

    kind: ClassVar[str] = "data.apply_functions"
    id_prefix: ClassVar[str] = "labjob-"

    functions: tuple[Function, ...] = Field(min_length=1, max_length=100)


class LabelAgreement(LiveCall):
    """How far a project's labellers agree, answered at once."""

    name: ClassVar[str] = "data.label_agreement"
    queue: ClassVar[str] = "data.live"

    project_id: str


def check_categorical(spec: ProjectSpec, what: str) -> None:
    """Raise InvalidInput where a project's answers cannot be counted as votes for one label."""
    if spec.task not in CATEGORICAL or spec.multiple:
        kind = "multi-label classification" if spec.multiple else spec.task
        raise InvalidInput(
            f"{what} needs a project with one label an item; this one is of {kind}", param="project"
        )
