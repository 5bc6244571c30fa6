"""A small character-level BERT with mean pooling: its vocabulary, its forward and its folder. Knows no training.

The folder has the layout of sentence-transformers, so that the engine serves it like any other encoder.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from services.training.hyperparameters import EncoderHyperparameters
from services.training.parity import TOLERANCE, read_back
from shared.errors import HeliuError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_PARITY_TEXTS = ("你好，我的订单 20417 到哪里了？ Where is my order?", "退款")


def hanzi() -> list[str]:
    """The 6,763 characters of GB 2312: one that no training text has still has a vector of its own, so that it is
    like itself and like nothing else."""
    codes = (bytes((row, cell)) for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF))
    return [char for char in (code.decode("gb2312", "ignore") for code in codes) if char]


def new_tokenizer(texts: Iterable[str], longest: int) -> PreTrainedTokenizerFast:
    """A token for each character, whatever the script; width and case are folded."""
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer(lowercase=True)])
    seen = {char for text in texts for char in normalizer.normalize_str(text) if not char.isspace()}
    chars = sorted(seen | set(hanzi()) | set(string.ascii_lowercase + string.digits + string.punctuation))
    # Inside a word of letters or digits; the others are words by themselves.
    inner = [f"##{char}" for char in chars if char.isalnum() and not "\u3400" <= char <= "\u9fff"]
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *chars, *inner))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=longest))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=longest,
    )


class EncoderModel(nn.Module):
    """(texts, width) of length 1 from tokenized texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, body: Any, device: torch.device) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.body = body
        self._device = device
        self.to(device)

    @classmethod
    def new(
        cls, tokenizer: PreTrainedTokenizerFast, wanted: EncoderHyperparameters, device: torch.device
    ) -> EncoderModel:
        """Weights from torch's current seed."""
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=wanted.hidden_size,
            num_hidden_layers=wanted.layers,
            num_attention_heads=wanted.heads,
            intermediate_size=2 * wanted.hidden_size,
            max_position_embeddings=wanted.max_length,
            hidden_dropout_prob=wanted.dropout,
            attention_probs_dropout_prob=wanted.dropout,
            type_vocab_size=1,
            pad_token_id=0,
        )
        return cls(tokenizer, BertModel(config, add_pooling_layer=False), device)

    def encode(self, text: str) -> list[int]:
        """Its tokens, cut to what the model takes."""
        return list(self.tokenizer(text, truncation=True)["input_ids"])

    def forward(self, texts: Sequence[list[int]]) -> torch.Tensor:
        longest = max(map(len, texts))
        ids = torch.zeros((len(texts), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)

    def vectors(self, texts: Sequence[list[int]], at_once: int = 256) -> torch.Tensor:
        """The same without gradients, in parts, on the CPU."""
        self.eval()
        with torch.no_grad():
            parts = [self(texts[at : at + at_once]).cpu() for at in range(0, len(texts), at_once)]
        return torch.cat(parts)


def save_encoder(model: EncoderModel, folder: Path) -> None:
    """Transformer, mean pooling and normalizing, as sentence-transformers lays them out."""
    model.body.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(steps)
    ]
    pooling = {"word_embedding_dimension": model.body.config.hidden_size, "pooling_mode_mean_tokens": True}
    limits = {"max_seq_length": model.tokenizer.model_max_length, "do_lower_case": False}
    (folder / "1_Pooling").mkdir()
    for name, told in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", limits),
    ):
        (folder / name).write_text(json.dumps(told, indent=1), encoding="utf-8")


def check_parity(model: EncoderModel, folder: Path, device: torch.device) -> dict[str, Any]:
    """Read the folder back and compare its vectors of fixed texts; returns what `info.parity` says.

    Raises HeliuError `parity_check_failed` above the tolerance, or when the tokenizers differ.
    """
    body = AutoModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    saved = EncoderModel(AutoTokenizer.from_pretrained(folder, local_files_only=True), body, device)
    texts = [model.encode(text) for text in _PARITY_TEXTS]
    if [saved.encode(text) for text in _PARITY_TEXTS] != texts:
        raise HeliuError("the saved tokenizer differs from the one trained with", code="parity_check_failed")
    difference = float((model.vectors(texts) - saved.vectors(texts)).abs().max())
    tolerance = TOLERANCE["float32"]
    if not difference <= tolerance:
        raise HeliuError(
            f"the saved encoder's vectors differ by {difference:g}, more than {tolerance:g}",
            code="parity_check_failed",
        )
    return read_back(difference, tolerance, len(texts))
