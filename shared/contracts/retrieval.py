"""Vector stores: what may be asked of them, and the jobs and calls that index and search their files. Pure.

Shapes after https://platform.openai.com/docs/api-reference/vector-stores.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.contracts.base import JobContract, LiveCall, Message
from shared.contracts.inference import ModelRef

MAX_RESULTS = 50
MAX_QUERIES = 16
MAX_QUERY = 8192
MAX_FILES = 2000
MAX_FILTERS = 64
MAX_FILTER_DEPTH = 8
# Texts of one job for vectors: what is lost when its worker dies, and what one artifact of vectors holds.
EMBED_TEXTS = 2048
AUTO_TOKENS, AUTO_OVERLAP = 800, 400

AttributeKey = Annotated[str, Field(min_length=1, max_length=64)]
AttributeValue = Annotated[str, Field(max_length=512)] | bool | float
Attributes = Annotated[dict[AttributeKey, AttributeValue], Field(max_length=16)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Comparison(_Part):
    """One attribute against a value, or against a list of them for `in` and `nin`."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: AttributeKey
    value: Any

    @model_validator(mode="after")
    def _value_of_its_type(self) -> Self:
        many = self.type in ("in", "nin")
        if many and not (isinstance(self.value, list) and 1 <= len(self.value) <= 256):
            raise ValueError(f"the value of {self.type!r} is a list of 1 to 256 strings, numbers or booleans")
        for item in self.value if many else [self.value]:
            if not isinstance(item, str | int | float | bool) or (isinstance(item, str) and len(item) > 512):
                raise ValueError(
                    f"the value of {self.type!r} is a string of 512 characters at most, a number or a boolean"
                )
        if self.type in ("gt", "gte", "lt", "lte") and isinstance(self.value, bool):
            raise ValueError(f"{self.type!r} compares numbers or strings, and no booleans")
        return self


class Compound(_Part):
    """All (`and`) or one (`or`) of some filters."""

    type: Literal["and", "or"]
    filters: list[Filter] = Field(min_length=1, max_length=MAX_FILTERS)


Filter = Annotated[Comparison | Compound, Field(discriminator="type")]
Compound.model_rebuild()


def check_filter(filter_: Filter, depth: int = 1) -> int:
    """How many comparisons it has. Raises ValueError for more than is served, or deeper."""
    if depth > MAX_FILTER_DEPTH:
        raise ValueError(f"filters are nested deeper than {MAX_FILTER_DEPTH} levels")
    if isinstance(filter_, Comparison):
        return 1
    count = sum(check_filter(one, depth + 1) for one in filter_.filters)
    if count > MAX_FILTERS:
        raise ValueError(f"a filter has {MAX_FILTERS} comparisons at most, this one has {count}")
    return count


class Static(_Part):
    """Chunks of so many tokens: a Chinese character, a word of four letters or so."""

    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0, le=2048)

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            raise ValueError(
                f"chunk_overlap_tokens must not exceed half of max_chunk_size_tokens, which is "
                f"{self.max_chunk_size_tokens // 2}"
            )
        return self


class AutoChunking(_Part):
    type: Literal["auto"]


class StaticChunking(_Part):
    type: Literal["static"]
    static: Static


ChunkingStrategy = Annotated[AutoChunking | StaticChunking, Field(discriminator="type")]


def sizes(strategy: AutoChunking | StaticChunking | None) -> Static:
    """What a strategy comes to."""
    if isinstance(strategy, StaticChunking):
        return strategy.static
    return Static(max_chunk_size_tokens=AUTO_TOKENS, chunk_overlap_tokens=AUTO_OVERLAP)


class IndexFile(JobContract):
    """One file of a vector store: text, chunks, vectors by way of an inference worker, and an index of its own."""

    kind: ClassVar[str] = "data.index_file"
    # Of its own: a build or a sync of hours must not hold up a file that somebody waits for.
    queue: ClassVar[str] = "data.index"
    id_prefix: ClassVar[str] = "vsjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    store_id: str
    file_id: str
    artifact: str
    filename: str
    max_tokens: int = Field(ge=100, le=4096)
    overlap_tokens: int = Field(ge=0, le=2048)
    encoder: ModelRef | None = None
    # Tokens of a text that the encoder takes; None where nobody has told.
    context: int | None = None
    pool: str = "default"


class EmbedTexts(JobContract):
    """Vectors of the texts of an artifact, JSONL of strings; the result names a .npy of float32 (texts, width)."""

    kind: ClassVar[str] = "inference.embed_texts"
    queue: ClassVar[str] = "inference.{pool}.rows.batch"
    id_prefix: ClassVar[str] = "embjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    model: ModelRef
    artifact: str
    count: int = Field(ge=1, le=EMBED_TEXTS)


class FindPassages(JobContract):
    """What answers the questions of a batch: `artifact` is JSONL of `Question`, the result's of `Found`, in order."""

    kind: ClassVar[str] = "data.find_passages"
    queue: ClassVar[str] = "data.index"
    id_prefix: ClassVar[str] = "psgjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    artifact: str
    pool: str = "default"


class SearchStore(LiveCall):
    """The best chunks of a store for one or more queries: {"results": [{"file_id", "filename", "score",
    "attributes", "chunk", "text"}], "ranked_by"}. `vectors` are the queries', base64 of float32; empty for words alone.
    """

    name: ClassVar[str] = "data.search_store"
    queue: ClassVar[str] = "data.live"

    store_id: str
    queries: tuple[str, ...] = Field(min_length=1, max_length=MAX_QUERIES)
    vectors: tuple[str, ...] = ()
    # As Comparison or Compound; those are strict, and know no JSON numbers of a float's kind.
    filters: dict[str, Any] | None = None
    limit: int = Field(10, ge=1, le=MAX_RESULTS)
    min_score: float = Field(0.0, ge=0, le=1)


class ReadChunks(LiveCall):
    """The texts of an indexed file, in order: {"texts": [...], "more": bool} from chunk `offset` on."""

    name: ClassVar[str] = "data.read_chunks"
    queue: ClassVar[str] = "data.live"

    store_id: str
    file_id: str
    offset: int = Field(0, ge=0)


class Passage(Message):
    """What a search found, as a task puts it before its question."""

    file_id: str
    filename: str
    score: float
    text: str


class Question(Message):
    """What a row of a batch, by its custom_id, wants to be found, and in which store."""

    id: str
    store: str
    query: str
    limit: int = Field(ge=1, le=MAX_RESULTS)
    min_score: float = Field(ge=0, le=1)


class Found(Message):
    """The passages for a row; `error` says why there could be none."""

    id: str
    store: str
    passages: tuple[Passage, ...] = ()
    error: str | None = None
