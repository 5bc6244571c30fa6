"""A folder's tokenizer as the engine uses it: text from tokens, their bytes, what ends an answer, its grammar side.

Knows no request and no model.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from services.inference.engine.detokenize import Decode
from services.inference.engine.grammar import Vocabulary
from services.inference.engine.loading import end_tokens, load_tokenizer, own_decoding
from services.inference.engine.request import Tools
from services.inference.tool_calls import ToolReader, form_of, grammar
from shared.contracts.generation_config import Settings

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


@dataclass(frozen=True)
class Codec:
    """A folder's tokenizer (None when it has none), its longest token's characters, and what ends an answer.

    `vocabulary` is None where no grammar can limit the answer, `decoding` where the folder says nothing of it.
    """

    tokenizer: Any | None
    longest: int
    ends: frozenset[int]
    vocabulary: Vocabulary | None
    decoding: Settings | None = None

    @classmethod
    def load(cls, path: str, known: dict[str, Vocabulary]) -> Codec:
        """Read the folder; vocabularies are looked for in `known` first, as adapters mostly have their base's."""
        tokenizer = load_tokenizer(path)
        longest = 0 if tokenizer is None else max(map(len, tokenizer.get_vocab()), default=0)
        ends = end_tokens(path, tokenizer)
        return cls(tokenizer, longest, ends, _vocabulary(tokenizer, ends, known), own_decoding(path))

    def on(self, base: Codec) -> Codec:
        """An adapter's, where it has no words or no decoding settings of its own those of its base."""
        words = self if self.tokenizer is not None else base
        return replace(words, decoding=base.decoding if self.decoding is None else self.decoding)

    def decoder(self) -> Decode:
        tokenizer = self.tokenizer
        if tokenizer is None:
            return lambda _: ""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None and type(backend.model).__name__ == "BPE":
            # What transformers' decode comes to for these, without its checks of every call.
            return lambda ids: str(backend.decode(ids, skip_special_tokens=True))
        return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))

    def tool_reader(self) -> ToolReader:
        """Reads calls of tools as this chat template teaches them. Raises InvalidInput where it teaches none."""
        return ToolReader(form_of(self.tokenizer.chat_template if self.tokenizer is not None else None))

    def tool_grammar(self, tools: Tools) -> str:
        """What an answer must be that has to call one of `tools`."""
        tokenizer = self.tokenizer
        assert tokenizer is not None, "a reader was made first"
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        named = None if tools.choice == "required" else tools.choice
        form = form_of(tokenizer.chat_template)
        return grammar(form, tools.functions, named=named, parallel=tools.parallel, special=special)

    def text_of(self, token: int) -> str:
        """A token's own text, special ones by name; with a replacement character where it is no whole one."""
        return self.bytes_of_token(token).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> tuple[int, ...]:
        """What a token stands for, as bytes: a token may hold a part of a character."""
        return tuple(self.bytes_of_token(token))

    def bytes_of_token(self, token: int) -> bytes:
        tokenizer = self.tokenizer
        piece = None if tokenizer is None else tokenizer.convert_ids_to_tokens(token)
        if tokenizer is None or piece is None:
            return b""
        if token in tokenizer.all_special_ids:
            return str(piece).encode()
        if self._byte_level:
            return bytes(_BYTE_OF[character] for character in piece if character in _BYTE_OF)
        if found := _BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return str(tokenizer.decode([token])).encode()

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and type(backend.decoder).__name__ == "ByteLevel"


def _vocabulary(
    tokenizer: Any | None, ends: frozenset[int], known: dict[str, Vocabulary]
) -> Vocabulary | None:
    if getattr(tokenizer, "backend_tokenizer", None) is None or not ends:
        return None
    written = tokenizer.backend_tokenizer.to_str()  # type: ignore[union-attr]
    mark = f"{hashlib.sha256(written.encode()).hexdigest()}:{sorted(ends)}"
    if mark not in known:
        known[mark] = Vocabulary(tokenizer, ends)
    return known[mark]
