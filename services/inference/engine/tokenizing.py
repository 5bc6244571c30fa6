"""Texts and chats into tokens and back, with a model's tokenizer alone: no weights are read for it.

Knows no engine. One thread uses it at a time, and its tokenizers are its own: they change while they work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import AutoConfig

from services.inference.engine.codec import Codec
from services.inference.engine.encoder import context_of
from services.inference.engine.loading import BrokenModel, check_folder, load_tokenizer
from services.inference.engine.request import ModelRef
from services.inference.engine.sentence_folder import read_sentence_folder
from services.inference.prompt import render
from shared.errors import InvalidInput

HELD = 8


@dataclass(frozen=True)
class Tokens:
    """Tokens, what each is by itself (None where nobody asked), and how many the model takes in all."""

    ids: list[int]
    texts: list[str] | None
    context: int


@dataclass(frozen=True)
class _Held:
    codec: Codec
    context: int
    texts: dict[int, str] = field(default_factory=dict)

    def text_of(self, token: int) -> str:
        if token not in self.texts:
            self.texts[token] = self.codec.text_of(token)
        return self.texts[token]


class Tokenizers:
    """The tokenizers of the models that were asked for last. `kv_tokens` bounds what a base takes."""

    def __init__(self, kv_tokens: int) -> None:
        self._kv_tokens = kv_tokens
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()

    def tokenize(
        self,
        base: ModelRef,
        adapter: ModelRef | None = None,
        *,
        encoder: bool = False,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        special: bool = True,
        answered: bool = True,
        texts: bool = True,
    ) -> Tokens:
        """Tokens of a text or a chat, as the model would have them. Raises InvalidInput, or what loading raises."""
        held = self._get(base, adapter, encoder)
        ids = render(
            held.codec.tokenizer,
            prompt=prompt,
            messages=messages,
            tools=tools,
            special=special,
            answered=answered,
        )
        return Tokens(ids, [held.text_of(token) for token in ids] if texts else None, held.context)

    def detokenize(
        self, base: ModelRef, adapter: ModelRef | None, tokens: Sequence[int], *, encoder: bool = False
    ) -> str:
        """The text of tokens, special ones by name. Raises InvalidInput for a token that the model has not."""
        tokenizer = self._get(base, adapter, encoder).codec.tokenizer
        assert tokenizer is not None, "those without one are refused"
        for place, token in enumerate(tokens):
            if not 0 <= token < len(tokenizer):
                raise InvalidInput(
                    f"the model has the tokens 0 to {len(tokenizer) - 1}, got {token}",
                    param=f"tokens[{place}]",
                )
        return str(tokenizer.decode(list(tokens), skip_special_tokens=False))

    def _get(self, base: ModelRef, adapter: ModelRef | None, encoder: bool) -> _Held:
        key = (base.id, "" if adapter is None else adapter.id)
        if key not in self._held:
            self._held[key] = self._read(base.path, None if adapter is None else adapter.path, encoder)
            while len(self._held) > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    def _read(self, base: str, adapter: str | None, encoder: bool) -> _Held:
        if encoder:
            folder = str(read_sentence_folder(Path(base)).transformer)
            tokenizer, context = load_tokenizer(folder), context_of(base)
        else:
            # An adapter has a tokenizer of its own where its training has changed it.
            check_folder(base)
            own = None if adapter is None else load_tokenizer(adapter)
            tokenizer, context = own or load_tokenizer(base), self._context(base)
        if tokenizer is None:
            raise BrokenModel("this model's folder has no tokenizer; it takes tokens alone", param="model")
        return _Held(Codec(tokenizer, 0, frozenset(), None), context)

    def _context(self, path: str) -> int:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        return min(self._kv_tokens, int(positions or self._kv_tokens))
