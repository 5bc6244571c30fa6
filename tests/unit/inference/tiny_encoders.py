"""Tiny random sentence encoders on disk, in the layout of sentence-transformers. Knows no engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.unit.inference.tiny_models import VOCABULARY, build_tokenizer

# Positions of RoBERTa and its kin begin after the padding token's.
POSITIONS = 66
KINDS: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertModel),
    "roberta": (RobertaConfig, RobertaModel),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel),
    "qwen2": (Qwen2Config, Qwen2Model),
}


def save_encoder(
    folder: Path,
    kind: str = "bert",
    *,
    pooling: str = "mean_tokens",
    normalize: bool = True,
    longest: int | None = None,
    seed: int = 0,
    modules: bool = True,
) -> Path:
    """A random encoder of 32 numbers; `modules` writes the files that say how its token vectors become one."""
    torch.manual_seed(seed)
    config_class, model_class = KINDS[kind]
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        pad_token_id=0,
        **({"num_key_value_heads": 2} if kind == "qwen2" else {"type_vocab_size": 2}),
    )
    model_class(config).save_pretrained(folder)
    build_tokenizer(chat=False).save_pretrained(folder)
    if modules:
        write_modules(folder, pooling=pooling, normalize=normalize, longest=longest)
    return folder


def write_modules(folder: Path, *, pooling: str, normalize: bool, longest: int | None) -> None:
    names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    steps = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{n}" if i else "",
            "type": f"sentence_transformers.models.{n}",
        }
        for i, n in enumerate(names)
    ]
    write(folder / "modules.json", steps)
    modes = {"mean_tokens": False, "cls_token": False, "lasttoken": False, "max_tokens": False, pooling: True}
    flags = {f"pooling_mode_{name}": on for name, on in modes.items()}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})
    write(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


@torch.inference_mode()
def plain(folder: Path, text: str, pooling: str = "mean_tokens", *, normalize: bool = True) -> torch.Tensor:
    """The oracle: transformers' own forward of one text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    hidden = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    vector = {"mean_tokens": hidden.mean(0), "cls_token": hidden[0], "lasttoken": hidden[-1]}[pooling]
    return vector / vector.norm() if normalize else vector
