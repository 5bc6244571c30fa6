"""A trunk with a last layer: its forward, its folder, and the check that what is saved is what was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from services.training.heads.lstm import Lstm
from services.training.heads.trunk import Trunk
from services.training.parity import TOLERANCE, read_back
from shared.errors import HeliuError

HEAD_FORMAT = 1
_PARITY_TEXTS = ("你好，我的订单 20417 到哪里了？ Where is my order?", "退款")


@dataclass(frozen=True)
class Encoding:
    """A text's or a pair's tokens; the last `second` of them are the second text's."""

    ids: list[int]
    second: int = 0


class HeadModel(nn.Module):
    """Logits (texts, outputs) of texts; `trunk.model` may be frozen or wrapped by PEFT."""

    def __init__(self, trunk: Trunk, outputs: int, dropout: float, device: torch.device) -> None:
        super().__init__()
        self.trunk = trunk
        self.body = trunk.model
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(trunk.width, outputs)
        nn.init.normal_(self.layer.weight, std=0.02)
        nn.init.zeros_(self.layer.bias)
        self._device = device
        self.to(device)

    def forward(self, texts: Sequence[Encoding]) -> torch.Tensor:
        return self.of_features(self.features(texts))

    def of_features(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(self.dropout(features))
        return logits

    def features(self, texts: Sequence[Encoding]) -> torch.Tensor:
        """(texts, width): the trunk's token vectors, pooled."""
        longest = max(len(text.ids) for text in texts)
        ids = torch.full((len(texts), longest), self.trunk.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, text in enumerate(texts):
            count = len(text.ids)
            ids[row, :count] = torch.tensor(text.ids)
            mask[row, :count] = 1
            types[row, count - text.second : count] = 1
        inputs = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        if self.trunk.typed and types.any():
            inputs["token_type_ids"] = types.to(self._device)
        hidden = self.body(**inputs).last_hidden_state
        return _pool(hidden, inputs["attention_mask"], self.trunk.pooling)


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def save_head(model: HeadModel, folder: Path, facts: dict[str, Any], scale: float, shift: float) -> None:
    """A transformers folder (or an LSTM's) with the head beside it; logits x scale + shift are what it answers."""
    trunk = model.trunk
    model.body.save_pretrained(folder)  # type: ignore[operator]
    trunk.tokenizer.save_pretrained(folder)
    weight = (model.layer.weight.detach() * scale).cpu().contiguous()
    bias = (model.layer.bias.detach() * scale + shift).cpu().contiguous()
    save_file({"weight": weight, "bias": bias}, folder / "head.safetensors")
    told = {
        "format": HEAD_FORMAT,
        **facts,
        "pooling": trunk.pooling,
        "max_length": trunk.longest,
        "prompt": trunk.prompt,
        "lower": trunk.lower,
    }
    (folder / "head.json").write_text(json.dumps(told, ensure_ascii=False, indent=1), encoding="utf-8")


def check_parity(model: HeadModel, folder: Path, scale: float, shift: float) -> dict[str, Any]:
    """Read the folder back and compare its answers on fixed texts; returns what `info.parity` says.

    Raises HeliuError `parity_check_failed` above the tolerance, or when the tokenizers differ.
    """
    trunk, device = model.trunk, model.layer.weight.device
    if isinstance(trunk.model, Lstm):
        body: Any = Lstm(**trunk.model.shape, dropout=0.0)
        body.load_state_dict(load_file(folder / "model.safetensors"))
    else:
        body = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    saved_trunk = Trunk(body, tokenizer, trunk.pooling, trunk.width, trunk.longest, trunk.prompt, trunk.lower)
    saved = HeadModel(saved_trunk, model.layer.out_features, 0.0, device)
    saved.layer.load_state_dict(load_file(folder / "head.safetensors"))
    texts = [trunk.encode(text) for text in _PARITY_TEXTS]
    if [saved_trunk.encode(text) for text in _PARITY_TEXTS] != texts:
        raise HeliuError("the saved tokenizer differs from the one trained with", code="parity_check_failed")
    model.eval()
    saved.eval()
    batch = [Encoding(*text) for text in texts]
    with torch.no_grad():
        difference = float((model(batch) * scale + shift - saved(batch)).abs().max())
    # A regression's numbers may be of any size.
    tolerance = TOLERANCE["float32"] * max(1.0, abs(scale))
    if not difference <= tolerance:
        raise HeliuError(
            f"the saved model's answers differ from the trained model's by {difference:g}, more than "
            f"{tolerance:g}",
            code="parity_check_failed",
        )
    return read_back(difference, tolerance, len(texts))
