"""An LSTM over tokens as the trunk of a head: the cheap baseline, from scratch. Knows no head.

The engine has its own of the same names and numbers (they never import each other); a test holds both together.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers.modeling_outputs import BaseModelOutput

MODEL_TYPE = "heliu_lstm"


class Lstm(nn.Module):
    """Token ids and mask (texts, tokens) to states (texts, tokens, 2 x hidden_size), both directions together."""

    def __init__(
        self, vocab_size: int, embedding_size: int, hidden_size: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.shape = {
            "vocab_size": vocab_size,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "layers": layers,
        }
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, layers, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> BaseModelOutput:
        lengths = attention_mask.sum(1).cpu()
        embedded = self.dropout(self.embedding(input_ids))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1]
        )
        return BaseModelOutput(last_hidden_state=states)

    def save_pretrained(self, folder: Path) -> None:
        """As transformers' models do; config.json is ours."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / "model.safetensors"))
        config = {"architectures": ["Lstm"], "model_type": MODEL_TYPE, **self.shape}
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
