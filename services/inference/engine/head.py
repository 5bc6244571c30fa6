"""A head in memory: texts, or pairs of them, in, and scores of labels out. Knows no request and no queue.

The trunk and its tokens are an encoder's; what comes of them is the last layer's numbers instead of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
)
from transformers.utils.logging import disable_progress_bar

from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.encoder import Encoder, load_trunk, read_auto_config
from services.inference.engine.head_folder import HeadFolder, read_head_folder
from services.inference.engine.loading import (
    BrokenModel,
    check_folder,
    load_tokenizer,
    load_weights,
    refuse_pickles,
)
from services.inference.engine.lstm import is_lstm, load_lstm
from services.inference.engine.sentence_folder import SentenceFolder
from services.inference.engine.vectors import pool

HALF = 0.5
# Two forwards of one text may round its sums in another order.
_NEAR = 1e-3


class Head(Encoder):
    """`encode` gives the last layer's numbers (logits), of which `predictions` makes labels and probabilities."""

    def __init__(
        self, model: Any, tokenizer: Any, folder: HeadFolder, layer: tuple[torch.Tensor, torch.Tensor] | None
    ) -> None:
        """Take over `model`; `layer` is (weight, bias) of our own layout, None where the model has it within."""
        self.folder = folder
        self._layer = layer
        # A causal model's tokenizer knows nothing between two texts.
        self._pairs = tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add()
        if layer is None and tokenizer.pad_token_id is None and model.config.pad_token_id is None:
            raise UnsupportedModel(
                "neither tokenizer nor config.json has a padding token, without which texts cannot be batched",
                param="path",
            )
        inner = SentenceFolder(Path(), folder.pooling, False, folder.longest, folder.lower, folder.prompt)
        super().__init__(model, tokenizer, inner)
        if self.width != folder.outputs:
            raise BrokenModel(
                f"the model has {self.width} outputs, and its folder tells of {folder.outputs}", param="path"
            )

    @classmethod
    def load(cls, path: str, *, dtype: str, device: str) -> Head:
        """Raises UnsafeModel, BrokenModel or UnsupportedModel."""
        disable_progress_bar()
        folder = check_folder(path)
        told = read_head_folder(folder)
        tokenizer = load_tokenizer(path)
        if tokenizer is None:
            raise BrokenModel(f"{path!r} has no tokenizer", param="path")
        if not told.own:
            return cls(_load_whole(folder, dtype=dtype, device=device), tokenizer, told, None)
        load = load_lstm if is_lstm(folder) else load_trunk
        model = load(folder, dtype=dtype, device=device)
        return cls(model, tokenizer, told, _load_layer(folder, told, dtype=dtype, device=device))

    @property
    def normalizes(self) -> bool:
        return False

    def bytes(self) -> int:
        return super().bytes() + sum(part.nbytes for part in self._layer or ())

    def pair(self, text: str, second: str | None, truncate: int | None) -> tuple[list[int], int]:
        """A text's or a pair's tokens, and how many of the last are the second one's.

        Raises InvalidInput, or PromptTooLong where it is not to be cut to `truncate` tokens (-1: what the model takes).
        """
        first = self._folder.prompt + self._cased(text)
        options: dict[str, Any] = {}
        if truncate is not None:
            most = self.context if truncate == -1 else min(truncate, self.context)
            # Nobody waits for the tokens of a book of which a page is read.
            first, second = first[: self._most_characters], second and second[: self._most_characters]
            options = {"truncation": True, "max_length": most}
        else:
            self.check_characters(len(first) + len(second or ""))
        if second is not None and not self._pairs:
            first, second = f"{first}\n{self._cased(second)}", None
        tokens, seconds = self._read(first, second and self._cased(second), **options)
        return self.checked(tokens), seconds

    def predictions(
        self, logits: torch.Tensor, top_k: int
    ) -> tuple[tuple[tuple[str | None, float], ...], tuple[str, ...] | None]:
        """(label, score), the best first, and the labels over one half of a head that may give several.

        Scores are probabilities: softmax of one label, sigmoid of several and of ranks; a regression's is its number.
        """
        head, labels = self.folder.head, self.folder.labels
        if not labels:
            value = logits if head == "regression" else logits.sigmoid()
            return ((None, float(value[0])),), None
        scores = logits.softmax(0) if head == "single_label" else logits.sigmoid()
        best = scores.topk(min(top_k, len(labels)))
        named = tuple((labels[i], float(scores[i])) for i in best.indices.tolist())
        if head == "single_label":
            return named, None
        return named, tuple(labels[i] for i in (scores >= HALF).nonzero().flatten().tolist())

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if self._layer is None:
            logits: torch.Tensor = self._model(**inputs).logits
            return logits
        weight, bias = self._layer
        hidden = self._model(**inputs).last_hidden_state
        pooled = pool(hidden, inputs["attention_mask"], self._folder.pooling)
        return torch.nn.functional.linear(pooled, weight, bias)

    def _is_same(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        return bool(torch.allclose(one, other, rtol=_NEAR, atol=_NEAR))


def _load_whole(folder: Path, *, dtype: str, device: str) -> Any:
    """A transformers folder of sequence classification, its own last layer within."""
    refuse_pickles(folder)
    config = read_auto_config(folder)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UnsupportedModel(
            f"{config.model_type!r} has no sequence classification that transformers has built in",
            param="path",
        )
    return load_weights(AutoModelForSequenceClassification, folder, config, dtype=dtype, device=device)


def _load_layer(
    folder: Path, told: HeadFolder, *, dtype: str, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        parts = load_file(folder / "head.safetensors", device=device)
        weight, bias = (parts[name].to(getattr(torch, dtype)) for name in ("weight", "bias"))
    except Exception as exc:
        raise BrokenModel(
            f"head.safetensors cannot be read: {type(exc).__name__}: {exc}", param="path"
        ) from exc
    if weight.ndim != 2 or bias.shape != (told.outputs,) or weight.shape[0] != told.outputs:
        raise BrokenModel(
            f"head.safetensors has the shapes {tuple(weight.shape)} and {tuple(bias.shape)}, and head.json tells of "
            f"{told.outputs} outputs",
            param="path",
        )
    return weight, bias
