"""A sentence encoder in memory: texts or tokens in, vectors out. Knows no request and no queue.

Any encoder that transformers has built in (BERT, RoBERTa, XLM-R, ...), and decoders in the same layout; safetensors
only, never code of the folder's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING, AutoModel
from transformers.utils.logging import disable_progress_bar

from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.head_folder import is_head, read_head_folder
from services.inference.engine.linear import pack_linears
from services.inference.engine.loading import (
    BrokenModel,
    check_folder,
    load_tokenizer,
    load_weights,
    refuse_pickles,
)
from services.inference.engine.sentence_folder import SentenceFolder, read_sentence_folder
from services.inference.engine.vectors import pool
from services.inference.prompt import PromptTooLong, check_length
from shared.errors import InvalidInput

# What a tokenizer says that knows of no limit is a number of thirty digits.
_NO_LIMIT = 10**9
_PROBE = (5, 3)
# Whatever its length, a word of no known pieces is one token, and so may stand for many characters.
_WORD = 100


class Encoder:
    """`width` numbers a vector, `context` tokens a text at most; `vocabulary` tokens have a vector of their own, and
    the tokenizer knows `known_tokens`. Not thread-safe.
    """

    def __init__(self, model: Any, tokenizer: Any, folder: SentenceFolder) -> None:
        """Take over `model`. Raises BrokenModel when the tokenizer is of another one, UnsupportedModel when padding
        changes what it says of a text.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._folder = folder
        self._device = next(model.parameters()).device
        config = model.config.get_text_config()
        self.architecture = type(model).__name__
        # Counted before they are packed.
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.known_tokens = len(tokenizer)
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]
        if self.known_tokens > self.vocabulary:
            raise BrokenModel(
                f"the tokenizer has {self.known_tokens} tokens, but the model embeds {self.vocabulary}",
                param="path",
            )
        self.context = context_length(model, tokenizer, folder)
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        self._most_characters = self.context * max(longest, _WORD)
        pad = tokenizer.pad_token_id
        self._pad = int(getattr(config, "pad_token_id", None) or 0) if pad is None else int(pad)
        self._has_types = (getattr(config, "type_vocab_size", None) or 0) > 1
        packs = self._device.type == "cpu" and model.dtype == torch.float32
        self._packed_bytes = pack_linears(model) if packs else 0
        self.width = self._probe()

    @classmethod
    def load(cls, path: str, *, dtype: str, device: str) -> Encoder:
        """Raises UnsafeModel, BrokenModel or UnsupportedModel."""
        disable_progress_bar()
        refuse_pickles(Path(path))
        folder = read_sentence_folder(Path(path))
        tokenizer = load_tokenizer(str(check_folder(str(folder.transformer))))
        if tokenizer is None:
            raise BrokenModel(f"{path!r} has no tokenizer", param="path")
        return cls(load_trunk(folder.transformer, dtype=dtype, device=device), tokenizer, folder)

    @property
    def normalizes(self) -> bool:
        return self._folder.normalize

    def bytes(self) -> int:
        return int(sum(parameter.nbytes for parameter in self._model.parameters())) + self._packed_bytes

    def tokens(self, text: str) -> list[int]:
        """A text's tokens, with those that the model wants around them. Raises InvalidInput or PromptTooLong."""
        self.check_characters(len(text))
        return self.checked(self._read(self._folder.prompt + self._cased(text))[0])

    def check_characters(self, count: int) -> None:
        """Raise PromptTooLong for what cannot fit, before the time to tokenize it is spent."""
        if count > self._most_characters:
            raise PromptTooLong(
                f"the text has {count} characters, the model takes {self.context} tokens; cut it into parts",
                param="prompt",
            )

    def _cased(self, text: str) -> str:
        return text.lower() if self._folder.lower else text

    def _read(self, text: str, pair: str | None = None, **options: Any) -> tuple[list[int], int]:
        """The tokenizer's own tokens, and how many at their end are the second text's. Raises InvalidInput."""
        try:
            read = self._tokenizer(text, pair, verbose=False, **options)
        except (ValueError, TypeError, UnicodeError) as exc:
            raise InvalidInput(f"the model's tokenizer refuses this text: {exc}", param="prompt") from exc
        return [int(token) for token in read["input_ids"]], sum(read.get("token_type_ids") or ())

    def checked(self, tokens: list[int]) -> list[int]:
        """Tokens that the model can take. Raises InvalidInput or PromptTooLong."""
        check_length(len(tokens), context=self.context)
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise InvalidInput(
                    f"the model has the tokens 0 to {self.vocabulary - 1}, got {token}", param="prompt_ids"
                )
        return tokens

    @torch.inference_mode()
    def encode(self, texts: Sequence[list[int]], seconds: Sequence[int] = ()) -> torch.Tensor:
        """(texts, width) in float32, on the CPU. `seconds` says how many of each one's last tokens are a second
        text's, where any are."""
        longest = max(map(len, texts))
        ids = torch.full((len(texts), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._has_types and any(seconds):
            types = torch.zeros_like(ids)
            for row, (tokens, second) in enumerate(zip(texts, seconds, strict=True)):
                types[row, len(tokens) - second : len(tokens)] = 1
            inputs["token_type_ids"] = types
        return self._forward({name: value.to(self._device) for name, value in inputs.items()}).float().cpu()

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(texts, width) of what the model makes of padded tokens."""
        hidden = self._model(**inputs).last_hidden_state
        return pool(hidden.float(), inputs["attention_mask"], self._folder.pooling)

    def _probe(self) -> int:
        """The width of what comes out; a text alone and one beside a longer one must have the same vector."""
        name = type(self._model).__name__
        counts = [min(count, self.context) for count in _PROBE]
        texts = [[(7 + 13 * place) % self.vocabulary for place in range(count)] for count in counts]
        try:
            together, alone = self.encode(texts), self.encode(texts[1:])
        except Exception as exc:
            raise UnsupportedModel(f"{name} does not take tokens and a mask: {exc}", param="path") from exc
        if not torch.isfinite(together).all() or not self._is_same(together[1], alone[0]):
            raise UnsupportedModel(f"{name} makes another vector of a text beside a longer one", param="path")
        return int(together.shape[1])

    def _is_same(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        return bool(torch.cosine_similarity(one, other, dim=0) >= 0.999)


def context_length(model: Any, tokenizer: Any, folder: SentenceFolder) -> int:
    """The least of what the layout, the model's positions and the tokenizer allow."""
    limits = [folder.longest, tokenizer.model_max_length]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _first_position(model))
    return min(int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT)


def context_of(path: str) -> int:
    """How many tokens of a text an encoder takes, told without its weights. Raises as `Encoder.load` does."""
    refuse_pickles(Path(path))
    if is_head(Path(path)) and (longest := read_head_folder(Path(path)).longest) is not None:
        return longest
    folder = read_sentence_folder(Path(path))
    tokenizer = load_tokenizer(str(folder.transformer))
    with torch.device("meta"):
        model = AutoModel.from_config(read_encoder_config(folder.transformer), trust_remote_code=False)
    return context_length(model, tokenizer, folder)


def _first_position(model: Any) -> int:
    """RoBERTa and its kin count positions from the one after the padding token's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0


def read_auto_config(folder: Path) -> Any:
    """Raises UnsupportedModel for what no transformers has built in."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:
        raise UnsupportedModel(
            f"config.json of {str(folder)!r} is not understood: {exc}", param="path"
        ) from exc


def read_encoder_config(folder: Path) -> Any:
    """The configuration of an encoder, or of a decoder that serves as one. Raises UnsupportedModel for any other."""
    config = read_auto_config(folder)
    if type(config) not in MODEL_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{config.model_type!r} is no encoder that transformers has built in", param="path"
        )
    return config


def load_trunk(folder: Path, *, dtype: str, device: str) -> Any:
    config = read_encoder_config(folder)
    # A pooler of the library's own is not asked, and many folders have none.
    return load_weights(AutoModel, folder, config, dtype=dtype, device=device, needless=("pooler.",))
