"""An LSTM as the trunk of a head: the trainer's own, of the same names and numbers. Knows no head.

Trainer and engine never import each other; a test holds both against each other.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.loading import BrokenModel, read_json

MODEL_TYPE = "heliu_lstm"
# Far beyond what the trainer makes; a forged number costs no memory.
MOST = {"vocab_size": 200_000, "embedding_size": 4096, "hidden_size": 4096, "layers": 8}


class Lstm(nn.Module):
    """Token ids and mask (texts, tokens) to states (texts, tokens, 2 x hidden_size), both directions together."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.lstm = nn.LSTM(
            config.embedding_size, config.hidden_size, config.layers, batch_first=True, bidirectional=True
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> BaseModelOutput:
        lengths = attention_mask.sum(1).cpu()
        packed = pack_padded_sequence(
            self.embedding(input_ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1]
        )
        return BaseModelOutput(last_hidden_state=states)


def is_lstm(folder: Path) -> bool:
    return bool(read_json(folder / "config.json").get("model_type") == MODEL_TYPE)


def load_lstm(folder: Path, *, dtype: str, device: str) -> Lstm:
    """Raises UnsupportedModel for sizes out of bounds, BrokenModel for weights that are not there."""
    options = read_json(folder / "config.json")
    for name, most in MOST.items():
        value = options.get(name)
        if type(value) is not int or not 0 < value <= most:
            raise UnsupportedModel(
                f"config.json has {name}={value!r}; from 1 to {most} is believed", param=name
            )
    model = Lstm(PretrainedConfig(**options))
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as exc:
        raise BrokenModel(
            f"{str(folder)!r} cannot be loaded: {type(exc).__name__}: {exc}", param="path"
        ) from exc
    return model.to(device, getattr(torch, dtype)).eval()
