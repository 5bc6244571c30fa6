"""Tiny random heads on disk, in transformers' layout of sequence classification. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests.unit.inference.tiny_models import VOCABULARY, build_tokenizer

POSITIONS = 66
FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
    "llama": (LlamaConfig, LlamaForSequenceClassification),
}


def save_head(
    folder: Path, family: str = "bert", *, labels: Sequence[str] = (), problem: str | None = None
) -> Path:
    """A random head of these labels, or of one number; its tokenizer puts a sign between the texts of a pair."""
    torch.manual_seed(0)
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        pad_token_id=0,
        id2label=dict(enumerate(labels or ["LABEL_0"])),
        problem_type=problem,
        **({} if family == "llama" else {"type_vocab_size": 2 if family == "bert" else 1}),
    )
    model_class(config).save_pretrained(folder)
    tokenizer = build_tokenizer(chat=False)
    if family != "llama":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="$A <sep>", pair="$A <sep> $B:1 <sep>:1", special_tokens=[("<sep>", 1)]
        )
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder


@torch.inference_mode()
def plain_logits(folder: Path, *texts: str) -> torch.Tensor:
    """The oracle: transformers' own forward of one text, or of a pair, alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")
    if model.config.model_type != "bert":
        given.pop("token_type_ids", None)
    logits: torch.Tensor = model(**given).logits[0]
    return logits
