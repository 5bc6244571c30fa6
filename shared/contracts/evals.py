"""Evals: what the items are, where a run's come from, what is measured over them, and the job of a run. Pure.

Shapes after https://platform.openai.com/docs/api-reference/evals; versions of datasets, `variables`, classifications,
rankings, metrics and slices are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.graders import Criterion, ModelName, Name, Part, TemplateMessage, TemplateText
from shared.contracts.inference import ModelRef
from shared.contracts.model_registry import RegisteredRoute
from shared.contracts.task import TaskRoute
from shared.contracts.training import LIGHT_QUEUE, BaseRef

MAX_ITEMS = 50_000
MAX_METRICS = 32
MAX_SLICES = 16

# A field of an item: item.name, or deeper.
Reference = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^item\.\S+$")]


class CustomConfig(Part):
    """Items of one's own, as a JSON schema has them."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool = False


class ClassificationMetric(Part):
    """Accuracy, macro F1, recall of each class, MCC, and with probabilities AUROC and ECE (15 bins)."""

    type: Literal["classification"]
    name: Name = "classification"
    prediction: TemplateText = "{{sample.output_text}}"
    label: TemplateText
    # What an answer may be, with regard to case and white space around it alone; without it, any text is a class.
    labels: list[str] | None = Field(default=None, min_length=2, max_length=1000)


class TextMetric(Part):
    """BLEU, chrF or ROUGE of all answers against their references; Chinese is cut into characters."""

    type: Literal["bleu", "chrf", "rouge_1", "rouge_2", "rouge_l"]
    name: Name | None = None
    input: TemplateText = "{{sample.output_text}}"
    reference: TemplateText


class RankingMetric(Part):
    """NDCG@k, recall@k and MRR of a ranking run: `relevance` is a list of numbers, one for each document."""

    type: Literal["ranking"]
    name: Name = "ranking"
    relevance: Reference
    k: int = Field(10, ge=1, le=1000)


class PerplexityMetric(Part):
    """How likely a base or adapter of ours finds the references, in the place of its own answers."""

    type: Literal["perplexity"]
    name: Name = "perplexity"
    reference: TemplateText


Metric = Annotated[
    ClassificationMetric | TextMetric | RankingMetric | PerplexityMetric, Field(discriminator="type")
]


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


class NotServed(Part):
    """OpenAI's queries over stored answers, which are known so that they can be refused by name."""

    type: Literal["stored_completions", "responses"]
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
            f"a source of the type {self.type!r} is not served; upload the items as a file of the purpose evals "
            "(file_id), send them (file_content), or name a dataset_version"
        )


Source = Annotated[FileContent | FileId | DatasetVersion | NotServed, Field(discriminator="type")]


class TemplateMessages(Part):
    type: Literal["template"]
    template: list[TemplateMessage] = Field(min_length=1, max_length=64)


class ItemMessages(Part):
    """Messages that stand in the item."""

    type: Literal["item_reference"]
    item_reference: Reference


InputMessages = Annotated[TemplateMessages | ItemMessages, Field(discriminator="type")]


class Sampling(Part):
    """Of a sampled answer; what is not given is as a chat has it."""

    max_completion_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    # As a chat's; checked with the request of the first item.
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    reasoning_effort: None = None


class ResponseText(Part):
    format: dict[str, Any] | None = None


class ResponseSampling(Part):
    """The same in the words of OpenAI's responses."""

    max_completion_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    text: ResponseText | None = None
    tools: None = None
    reasoning_effort: None = None


class Jsonl(Part):
    """Answers that are there already, as the items' samples, or items that need none."""

    type: Literal["jsonl"]
    source: Source


class _Sampled(Part):
    """Chats with a served model, adapter or task."""

    source: Source
    model: ModelName
    input_messages: InputMessages | None = None
    # Of a task, by name: a template, or the value itself where the template is one reference.
    variables: dict[Annotated[str, Field(min_length=1, max_length=64)], TemplateText] | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.input_messages is None and not self.variables:
            raise ValueError("input_messages is missing: a template, or a reference to messages of the item")
        return self


class Completions(_Sampled):
    type: Literal["completions"]
    sampling_params: Sampling | None = None


class Responses(_Sampled):
    type: Literal["responses"]
    sampling_params: ResponseSampling | None = None


class Classifications(Part):
    """Labels of a classifier: sample.output_text is the likeliest, sample.output_json all with their scores."""

    type: Literal["classifications"]
    source: Source
    model: ModelName
    input: TemplateText = "{{item.text}}"
    top_k: int = Field(100, ge=1, le=100)


class Ranking(Part):
    """An order of documents: sample.output_json is [{"index", "relevance_score"}], the best first."""

    type: Literal["rerank"]
    source: Source
    model: ModelName
    query: TemplateText = "{{item.query}}"
    documents: Reference = "item.documents"


DataSource = Annotated[
    Jsonl | Completions | Responses | Classifications | Ranking, Field(discriminator="type")
]


class ItemsRef(Message):
    """The items of a run by content; `given` are those that came with the request, JSONL as a file's."""

    kind: Literal["file", "version", "given"]
    id: str
    artifact: str


class RunEval(JobContract):
    """Answers sampled as a batch where they are not given, judged as another where a model judges, then graded."""

    kind: ClassVar[str] = "eval.run"
    queue: ClassVar[str] = LIGHT_QUEUE
    id_prefix: ClassVar[str] = "evalrun_"
    stall_limit_s: ClassVar[float | None] = 900.0

    eval_id: str
    config: CustomConfig
    criteria: list[Criterion]
    metrics: list[Metric] = Field(default_factory=list)
    slices: list[str] = Field(default_factory=list)
    cluster: str | None = None
    items: ItemsRef
    # As it was asked for, but for items that came with it.
    data_source: dict[str, Any]
    # Those that are asked and that judge, by the names they are called by.
    models: dict[str, ModelRef] = Field(default_factory=dict)
    tasks: dict[str, TaskRoute] = Field(default_factory=dict)
    # What a task's model may be called by.
    registered: dict[str, RegisteredRoute] = Field(default_factory=dict)
    encoder: ModelRef | None = None
    # What a perplexity is of; None where no metric asks for it, or the weights are not here.
    base: BaseRef | None = None
    pool: str = "default"
