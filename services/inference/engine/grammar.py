"""What may come next under a grammar (JSON schema, regular expression, choice), by llguidance. Knows no model.

A grammar is llguidance's own text, which `shared.contracts.structured` writes and has checked. Masks are computed
beside the forward pass, whose logits they limit: llguidance gives the interpreter free while it works.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from shared.contracts.structured import guidance, limits
from shared.errors import HeliuError, InvalidInput

_WORD = 32


class GrammarFailed(HeliuError):
    """The grammar outgrew its limits, or left nothing to choose from, in the middle of an answer."""

    code = "grammar_failed"


class Vocabulary:
    """A tokenizer as grammars see it. Making one of a large tokenizer takes a second: share it."""

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        """`tokenizer` is transformers', over one of the tokenizers library; `ends` are its end tokens, one or more."""
        self.tokens = guidance().LLTokenizer(tokenizer.backend_tokenizer.to_str(), eos_token=sorted(ends))


class Constraint:
    """Where one answer stands in its grammar."""

    def __init__(self, vocabulary: Vocabulary | None, grammar: str) -> None:
        """Raises InvalidInput when llguidance refuses the grammar, or the model has no vocabulary for it."""
        if vocabulary is None:
            raise InvalidInput(
                "structured output needs a model with a tokenizer.json and an end token",
                code="unsupported_parameter",
                param="response_format",
            )
        self.matcher = guidance().LLMatcher(vocabulary.tokens, grammar, log_level=0, limits=limits())
        if self.matcher.is_error():
            raise InvalidInput(
                f"the grammar is refused: {self.matcher.get_error()}",
                code="invalid_grammar",
                param="response_format",
            )
        self.words = -(-vocabulary.tokens.vocab_size // _WORD)

    @property
    def complete(self) -> bool:
        """Nothing but an end token may come."""
        return bool(self.matcher.is_stopped())

    @property
    def error(self) -> str:
        """Why it cannot go on; empty while it can."""
        return str(self.matcher.get_error()) if self.matcher.is_error() else ""

    def accept(self, token: int) -> None:
        """Move on by a chosen token. Raises GrammarFailed."""
        if not self.matcher.consume_token(token):
            raise GrammarFailed(f"the grammar cannot go on: {self.error}")


class MaskMaker:
    """Computes the masks of a step's constrained rows in a thread of its own."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._executor: Any = None

    def start(self, constraints: Sequence[Constraint | None]) -> Future[list[torch.Tensor | None]] | None:
        """One mask a row, None where nothing limits it; None when no row is constrained.

        A mask is (words) int32: bit j of word w allows token 32 w + j; tokens past its end are not allowed.
        """
        if not any(constraints):
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine-grammar")
            self._executor = guidance().LLExecutor()
        return self._pool.submit(self._masks, constraints)

    def _masks(self, constraints: Sequence[Constraint | None]) -> list[torch.Tensor | None]:
        assert self._executor is not None
        masks: list[torch.Tensor | None] = [None] * len(constraints)
        by_words: dict[int, list[int]] = {}
        for row, constraint in enumerate(constraints):
            if constraint is not None:
                by_words.setdefault(constraint.words, []).append(row)
        for words, rows in by_words.items():
            table = torch.zeros((len(rows), words), dtype=torch.int32)
            matchers = [
                (constraint.matcher, place)
                for place, row in enumerate(rows)
                if (constraint := constraints[row]) is not None
            ]
            self._executor.unsafe_compute_mask_ptr(matchers, table.data_ptr(), words * 4, len(rows))
            for place, row in enumerate(rows):
                masks[row] = table[place]
        return masks

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
