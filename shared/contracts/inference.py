"""What is asked of a model for its answers, its vectors or its tokens, and which model; see `scores` and `batches`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import LiveCall, Message
from shared.contracts.models import Kind

MAX_PROMPTS = 128
MAX_CHOICES = 128
MAX_INPUTS = 2048
# Tokens that are answered to a text where neither request nor model says: OpenAI's, as a text has no turn that ends.
TEXT_TOKENS = 16

# The endpoints whose requests a batch may hold.
Endpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classifications", "/v1/rerank"
]


class ModelRef(Message):
    """A served model by content; a worker fetches the artifacts at first use.

    `encoder` says that the base is a sentence encoder, `head` that it is a classifier or a ranker; neither has answers.
    """

    name: str
    base_artifact: str
    adapter_artifact: str | None = None
    encoder: bool = False
    head: Literal["classifier", "ranker"] | None = None
    # The name of an adapter's base.
    base: str = ""
    # The endpoints of a model that another server answers for; its artifact is the id of that. None are of ours.
    upstream: tuple[Endpoint, ...] = ()

    @property
    def kind(self) -> Kind | Literal["upstream"]:
        if self.upstream:
            return "upstream"
        if self.head is not None:
            return self.head
        if self.encoder:
            return "encoder"
        return "base" if self.adapter_artifact is None else "adapter"

    @property
    def read_as_encoder(self) -> bool:
        """Whether its tokens are an encoder's, which is true of a head too."""
        return self.encoder or self.head is not None

    @property
    def base_name(self) -> str:
        """What a worker must serve: an adapter's base, or the model itself."""
        return self.base or self.name


class ToolCall(Message):
    """A function that the model called; `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


class Tool(Message):
    """A function that the model may call; `parameters` is the JSON schema of its arguments, as text."""

    name: str
    description: str | None = None
    parameters: str


class ChatMessage(Message):
    """`tool_calls` are an assistant's; `tool_call_id` says which of them a tool's message answers."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Sampling(Message):
    """Decoding settings of one request; temperature 0 is greedy, `grammar` is of `structured`.

    None is the model's own, where its `generation_config.json` pins it, else as OpenAI has it.

    `form` is what `grammar` was made of, `response_format` or `structured_outputs` as JSON, for whoever reads that.
    """

    max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: tuple[str, ...] = Field((), max_length=4)
    grammar: str | None = None
    form: str | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


class Completion(Message):
    """What is to be completed: a chat, or one or more prompts (texts or tokens); `n` answers to each."""

    messages: tuple[ChatMessage, ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = Field((), max_length=MAX_PROMPTS)
    tools: tuple[Tool, ...] = ()
    # "required", or the name of the one to call.
    tool_choice: str | None = None
    parallel_tool_calls: bool = True
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.messages) == bool(self.prompts):
            raise ValueError("give messages or prompts")
        return self


class CompletionRequest(Completion):
    """A checked request of a client: of which model, and how to answer."""

    model: str
    stream: bool
    include_usage: bool
    # Whom the client asks for, where it says so: one user always gets the same version.
    user: str | None = None


def live_queue(pool: str, base: str) -> str:
    """Where workers that name this base in HELIU_MODELS wait for it."""
    return f"inference.{pool}.{base}.live"


def rows_queue(pool: str, base: str) -> str:
    """Where the same workers wait for shards of batches that ask for this base alone."""
    return f"inference.{pool}.{base}.rows.batch"


class ModelCall(LiveCall):
    """A live call of a model: for workers that serve its base by name, or those that serve any."""

    queue: ClassVar[str] = "inference.{pool}.live"

    model: ModelRef

    def queues_for(self, pool: str) -> tuple[str, ...]:
        return live_queue(pool, self.model.base_name), self.queue_for(pool)

    @property
    def needs(self) -> str:
        base = self.model.base_name
        return f"the model {self.model.name!r}" + (f" (base {base!r})" if base != self.model.name else "")

    @property
    def served_by(self) -> str:
        return f"an inference worker whose HELIU_MODELS is empty or names {self.model.base_name!r}"


class Generate(ModelCall, Completion):
    """Answers, streamed back as they are made."""

    name: ClassVar[str] = "inference.generate"


class Embedding(Message):
    """Texts, or their tokens, that vectors are asked of; `dimensions` cuts these."""

    inputs: tuple[str | tuple[int, ...], ...] = Field(min_length=1, max_length=MAX_INPUTS)
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbeddingRequest(Embedding):
    """A checked request of a client: of which model, and how to write the numbers."""

    model: str
    encoding_format: Literal["float", "base64"] = "float"
    stream: Literal[False] = False
    user: str | None = None


class Embed(ModelCall, Embedding):
    """Vectors of texts: entries of a few, float32 little endian in base64, in the order of the texts."""

    name: ClassVar[str] = "inference.embed"


class Tokenize(ModelCall):
    """Tokens of a text or of a chat, as `model` is given them."""

    name: ClassVar[str] = "inference.tokenize"

    prompt: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[Tool, ...] = ()
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    token_strs: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give messages or prompt")
        return self


class Detokenize(ModelCall):
    """The text of tokens."""

    name: ClassVar[str] = "inference.detokenize"

    tokens: tuple[int, ...]
