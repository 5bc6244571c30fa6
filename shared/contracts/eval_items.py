"""The items of evals: what they are by an eval's configuration, and where a run's come from. Pure.

Shapes after https://platform.openai.com/docs/api-reference/evals; versions of datasets are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Message
from shared.contracts.graders import ModelName, Part
from shared.contracts.stored_chats import Chosen, Labels, Unix

MAX_ITEMS = 50_000

# A field of an item: item.name, or deeper.
Reference = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^item\.\S+$")]

# What an item that is a stored chat has.
STORED_ITEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "created_at": {"type": "integer"},
        "model": {"type": "string"},
        "metadata": {"type": "object"},
        "input": {"type": "array", "items": {"type": "object"}},
        "tools": {"type": "array", "items": {"type": "object"}},
        "output_text": {"type": "string"},
        "output_tools": {"type": "array", "items": {"type": "object"}},
        "finish_reason": {"type": "string"},
    },
    "required": ["input"],
}


class CustomConfig(Part):
    """Items of one's own, as a JSON schema has them."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool = False


class StoredConfig(Part):
    """Stored chats as items: `input` are the messages, `output_text` the answer that was given, which is the sample too
    where no other model is asked. Its runs take those that have these labels."""

    type: Literal["logs", "stored_completions"]
    metadata: Labels | None = None

    @property
    def item_schema(self) -> dict[str, Any]:
        return STORED_ITEM

    @property
    def include_sample_schema(self) -> bool:
        return True


Config = Annotated[CustomConfig | StoredConfig, Field(discriminator="type")]


class ContentItem(Part):
    item: dict[str, Any]
    sample: dict[str, Any] | None = None


class FileContent(Part):
    type: Literal["file_content"]
    content: list[ContentItem] = Field(min_length=1, max_length=MAX_ITEMS)


class FileId(Part):
    """A file of the purpose `evals`: a line is {"item": {...}, "sample": {...}?}."""

    type: Literal["file_id"]
    id: str = Field(min_length=1, max_length=256)


class DatasetVersion(Part):
    """Rows of a governed version, by `dsv-...` or DATASET@TAG; a row is an item."""

    type: Literal["dataset_version"]
    id: str = Field(min_length=1, max_length=256)
    split: Literal["train", "validation", "all"] = "validation"
    limit: int | None = Field(default=None, ge=1, le=MAX_ITEMS)


class StoredCompletions(Part):
    """Chats that were stored with `store`: the newest `limit` of a model and a time with all of these labels."""

    type: Literal["stored_completions"]
    model: ModelName | None = None
    metadata: Labels | None = None
    created_after: Unix | None = None
    created_before: Unix | None = None
    limit: int | None = Field(default=None, ge=1, le=MAX_ITEMS)


class NotServed(Part):
    """OpenAI's query over stored responses, which is known so that it can be refused by name."""

    type: Literal["responses"]
    created_after: Any = None
    created_before: Any = None
    limit: Any = None
    metadata: Any = None
    model: Any = None
    instructions_search: Any = None
    reasoning_effort: Any = None
    temperature: Any = None
    tools: Any = None
    top_p: Any = None
    users: Any = None

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError(
            f"a source of the type {self.type!r} is not served; store chats with store=true (stored_completions), "
            "upload the items as a file of the purpose evals (file_id), send them (file_content), or name a "
            "dataset_version"
        )


Source = Annotated[
    FileContent | FileId | DatasetVersion | StoredCompletions | NotServed, Field(discriminator="type")
]


class ItemsRef(Message):
    """The items of a run by content; `given` are those that came with the request, JSONL as a file's."""

    kind: Literal["file", "version", "given", "stored"]
    id: str
    artifact: str = ""
    # Of stored chats, which; none that is stored later is among them.
    chats: Chosen | None = None
