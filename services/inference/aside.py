"""What the engine's process does beside the engine: tokenizing, on a thread of its own, so that no step waits for it.

Knows frames and the tokenizers; nothing of generation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.inference.engine.request import ModelRef
from services.inference.engine.tokenizing import Tokenizers
from shared.errors import HeliuError
from shared.frames import Frame

log = logging.getLogger(__name__)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Folder(_Message):
    id: str = Field(min_length=1)
    path: str


class OfModel(_Message):
    """Which model is meant; `encoder` says that the base is a sentence encoder."""

    id: str = Field(min_length=1)
    base: Folder
    adapter: Folder | None = None
    encoder: bool = False

    @property
    def refs(self) -> tuple[ModelRef, ModelRef | None]:
        adapter = self.adapter
        return (
            ModelRef(self.base.id, self.base.path),
            None if adapter is None else ModelRef(adapter.id, adapter.path),
        )


class Tokenize(OfModel):
    op: Literal["tokenize"]
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] = []
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    texts: bool = True


class Detokenize(OfModel):
    op: Literal["detokenize"]
    tokens: list[int]


class Aside:
    """`take` returns at once; `write` gets a `done` or an `error` frame from the thread, and must allow that."""

    def __init__(
        self, kv_tokens: int, write: Callable[[Frame], None], error_frame: Callable[[HeliuError, str], Frame]
    ) -> None:
        self._tokenizers = Tokenizers(kv_tokens)
        self._write = write
        self._error_frame = error_frame
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")

    def take(self, message: Tokenize | Detokenize) -> None:
        self._thread.submit(self._answer, message)

    def close(self) -> None:
        """Finish what was taken."""
        self._thread.shutdown()

    def _answer(self, message: Tokenize | Detokenize) -> None:
        try:
            self._write({"type": "done", "id": message.id, **self._made(message)})
        except BrokenPipeError:
            return  # the worker is gone, and this process ends too
        except HeliuError as error:
            self._write(self._error_frame(error, message.id))
        except Exception as exc:  # whatever a library raises, somebody waits for an answer
            log.exception("tokenizing_failed")
            failed = HeliuError(f"the tokenizer failed: {type(exc).__name__}", code="engine_failed")
            self._write(self._error_frame(failed, message.id))

    def _made(self, message: Tokenize | Detokenize) -> Frame:
        base, adapter = message.refs
        if isinstance(message, Detokenize):
            made = self._tokenizers.detokenize(base, adapter, message.tokens, encoder=message.encoder)
            return {"text": made}
        tokens = self._tokenizers.tokenize(
            base,
            adapter,
            encoder=message.encoder,
            prompt=message.prompt,
            messages=message.messages,
            tools=message.tools,
            special=message.add_special_tokens,
            answered=message.add_generation_prompt,
            texts=message.texts,
        )
        return {"tokens": tokens.ids, "texts": tokens.texts, "context": tokens.context}
