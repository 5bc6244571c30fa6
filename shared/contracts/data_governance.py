"""Jobs of data governance. The recipe itself is described in `shared.contracts.recipe`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, LiveCall, Message

MOST_SOURCES = 32


class BuildSource(Message):
    """One file that a version is built from. `name` is how the recipe's `inputs` call it."""

    file_id: str
    artifact: str
    name: str


class BuildVersion(JobContract):
    """Upload -> validated, governed, content-addressed dataset version with its quality report.

    `recipe` None means: infer the mapping from the first rows and use the default recipe. `others` are further files
    whose rows follow those of the first.
    """

    kind: ClassVar[str] = "data.build_version"
    queue: ClassVar[str] = "data"
    id_prefix: ClassVar[str] = "dsjob-"
    stall_limit_s: ClassVar[float | None] = 300.0

    dataset_id: str
    dataset_name: str
    file_id: str
    artifact: str
    filename: str
    recipe: dict[str, Any] | None = Field(default=None)
    others: list[BuildSource] = Field(default_factory=list, max_length=MOST_SOURCES - 1)

    def sources(self) -> list[BuildSource]:
        """All files, in order."""
        return [
            BuildSource(file_id=self.file_id, artifact=self.artifact, name=self.filename),
            *self.others,
        ]


class BuildPart(JobContract):
    """One part of one stage of a build that many workers share; what it leaves lies in the build's scratch folder."""

    kind: ClassVar[str] = "data.build_part"
    queue: ClassVar[str] = "data"
    id_prefix: ClassVar[str] = "dspart-"
    stall_limit_s: ClassVar[float | None] = 300.0

    build_id: str
    stage: int
    part: int
    artifacts: list[str]


class PreviewRows(LiveCall):
    """Some rows of a stored version, answered at once: `{"rows": [...], "total": n}`.

    `bad_rows` are the places in the source that could not be read; they belong to no split.
    """

    name: ClassVar[str] = "data.preview_rows"
    queue: ClassVar[str] = "data.live"

    artifact: str
    part: Literal["rows", "bad_rows"] = "rows"
    split: Literal["train", "validation"] | None = None
    offset: int = Field(0, ge=0)
    limit: int = Field(20, ge=1, le=500)


class TryRecipe(LiveCall):
    """What a recipe makes of the first rows of files: `recipe`, `report` and some `rows`. Stores nothing."""

    name: ClassVar[str] = "data.try_recipe"
    queue: ClassVar[str] = "data.live"

    sources: list[BuildSource] = Field(min_length=1, max_length=MOST_SOURCES)
    recipe: dict[str, Any] | None = None
    rows: int = Field(1000, ge=1, le=10_000)
    shown: int = Field(10, ge=0, le=100)
