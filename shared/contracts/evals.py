"""Evals: what a run asks of its items, what is measured over them, and the job of a run. Pure.

Shapes after https://platform.openai.com/docs/api-reference/evals; `variables`, classifications, rankings,
metrics and slices are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract
from shared.contracts.eval_items import Config, ItemsRef, Reference, Source, StoredCompletions
from shared.contracts.graders import Criterion, ModelName, Name, Part, TemplateMessage, TemplateText
from shared.contracts.inference import ModelRef
from shared.contracts.model_registry import RegisteredRoute
from shared.contracts.task import TaskRoute
from shared.contracts.training import LIGHT_QUEUE, BaseRef
from shared.errors import InvalidInput

MAX_METRICS = 32
MAX_SLICES = 16


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
    """Chats with a served model, adapter or task. Stored chats without a model are graded as they are, and with one
    asked again with their own messages where no others are given."""

    source: Source
    # Empty where none is asked.
    model: ModelName = ""
    input_messages: InputMessages | None = None
    # Of a task, by name: a template, or the value itself where the template is one reference.
    variables: dict[Annotated[str, Field(min_length=1, max_length=64)], TemplateText] | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        stored = isinstance(self.source, StoredCompletions)
        asking = self.input_messages is not None or bool(self.variables)
        if not self.model and (asking or not stored):
            raise InvalidInput(
                "missing required parameter 'data_source.model'; only stored_completions are graded without one, and "
                "then without input_messages",
                code="missing_required_parameter",
                param="data_source.model",
            )
        if not asking and not stored:
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


class RunEval(JobContract):
    """Answers sampled as a batch where they are not given, judged as another where a model judges, then graded."""

    kind: ClassVar[str] = "eval.run"
    queue: ClassVar[str] = LIGHT_QUEUE
    id_prefix: ClassVar[str] = "evalrun_"
    stall_limit_s: ClassVar[float | None] = 900.0

    eval_id: str
    config: Config
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
