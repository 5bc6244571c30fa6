"""What a head stands on: a base, an adapter on one, a sentence encoder, another head's trunk, or a new LSTM.

Safetensors only, never code of the folder. Tokens are made here exactly as the engine makes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from services.training.heads.lstm import MODEL_TYPE, Lstm
from services.training.hyperparameters import HeadHyperparameters
from services.training.model_folder import load_adapter
from services.training.tokenizer import train_tokenizer
from shared.errors import InvalidInput

LONGEST = 512
LSTM_LONGEST = 256
# As sentence-transformers calls them.
POOLINGS = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "lasttoken": "lasttoken",
    "mean": "mean",
    "cls": "cls",
}
_NO_LIMIT = 10**9


@dataclass
class Trunk:
    """`width` numbers a text; `longest` tokens of one at most; `prompt` stands before every text."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    pooling: str
    width: int
    longest: int
    prompt: str = ""
    lower: bool = False

    @property
    def typed(self) -> bool:
        """Whether the model is told which tokens are a second text's."""
        return (getattr(getattr(self.model, "config", None), "type_vocab_size", None) or 0) > 1

    def encode(self, text: str, second: str | None = None) -> tuple[list[int], int]:
        """Tokens of a text or a pair, cut to `longest`, and how many of the last are the second one's."""
        tokenizer = self.tokenizer
        first = self.prompt + self._cased(text)
        second = second and self._cased(second)
        # A causal model's tokenizer knows nothing between two texts.
        pairs = tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add()
        if second is not None and not pairs:
            first, second = f"{first}\n{second}", None
        read = tokenizer(first, second, truncation=True, max_length=self.longest, verbose=False)
        ids = [int(token) for token in read["input_ids"]]
        if not ids:
            raise InvalidInput("the model's tokenizer makes no token of a text", code="invalid_training_file")
        return ids, sum(read.get("token_type_ids") or ())

    def _cased(self, text: str) -> str:
        return text.lower() if self.lower else text


def load_trunk(base: Path, adapter: Path | None, wanted: HeadHyperparameters, device: torch.device) -> Trunk:
    """Raises InvalidInput `invalid_model`."""
    inner, pooling, longest, prompt, lower = _layout(base)
    try:
        config = AutoConfig.from_pretrained(inner, trust_remote_code=False, local_files_only=True)
        model = _model(inner, adapter, config, device)
        tokenizer = AutoTokenizer.from_pretrained(
            adapter if adapter is not None and (adapter / "tokenizer.json").exists() else inner,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as exc:
        raise InvalidInput(f"the model cannot be loaded: {exc}", code="invalid_model", param="model") from exc
    text = model.config.get_text_config()
    limits = [longest, int(tokenizer.model_max_length), _positions(model), wanted.max_length or LONGEST]
    return Trunk(
        model,
        tokenizer,
        pooling
        or ("lasttoken" if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and _is_causal(inner) else "mean"),
        int(text.hidden_size),
        min(limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT),
        prompt,
        lower,
    )


def new_lstm(
    texts: Sequence[str], wanted: HeadHyperparameters, tokenizer: PreTrainedTokenizerBase | None
) -> Trunk:
    """With a tokenizer trained on `texts`, where none is given; weights from torch's current seed."""
    longest = wanted.max_length or LSTM_LONGEST
    found = tokenizer or train_tokenizer(texts, wanted.vocab_size, longest)
    model = Lstm(len(found), wanted.embedding_size, wanted.hidden_size, wanted.layers, wanted.dropout)
    return Trunk(model, found, "mean", 2 * wanted.hidden_size, longest)


def _model(inner: Path, adapter: Path | None, config: Any, device: torch.device) -> Any:
    options = {
        "dtype": torch.float32,
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
    }
    if adapter is None:
        return AutoModel.from_pretrained(inner, config=config, **options).to(device)
    whole = AutoModelForCausalLM.from_pretrained(inner, config=config, **options)
    # What the adapter has learned is part of the trunk from here on.
    merged: Any = load_adapter(whole, adapter)
    return merged.merge_and_unload().base_model.to(device)


def _layout(base: Path) -> tuple[Path, str | None, int | None, str, bool]:
    """(transformers folder, pooling or None, tokens or None, prompt, lower-cased) of a folder that was checked when it
    was added: a sentence encoder's, a head's, or a plain one."""
    head = _json(base / "head.json")
    if head:
        if _json(base / "config.json").get("model_type") == MODEL_TYPE:
            raise InvalidInput(
                "the model is an LSTM of its own labels; train a new one from scratch with the method 'lstm'",
                code="invalid_model",
                param="model",
            )
        return (
            base,
            str(head["pooling"]),
            int(head["max_length"]),
            str(head.get("prompt") or ""),
            bool(head.get("lower")),
        )
    steps = json.loads((base / "modules.json").read_bytes()) if (base / "modules.json").exists() else []
    if not steps:
        return base, None, None, "", False
    places = {step["type"].rpartition(".")[2]: base / step["path"] for step in steps}
    inner = places["Transformer"]
    told = _json(places["Pooling"] / "config.json")
    modes = [
        name.removeprefix("pooling_mode_")
        for name, on in told.items()
        if name.startswith("pooling_") and on is True
    ]
    options: dict[str, Any] = next(map(_json, sorted(inner.glob("sentence_*_config.json"))), {})
    prompts = _json(base / "config_sentence_transformers.json")
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
    mode = told.get("pooling_mode") or modes[0]
    return (
        inner,
        POOLINGS[mode],
        options.get("max_seq_length"),
        str(prompt),
        bool(options.get("do_lower_case")),
    )


def _is_causal(inner: Path) -> bool:
    """By the architecture that config.json names: an encoder may share its kind of config with a decoder."""
    named = [str(name) for name in _json(inner / "config.json").get("architectures") or ()]
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named)


def _positions(model: Any) -> int | None:
    """How many positions the model has; RoBERTa and its kin count them from the one after the padding token's."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return positions - int(module.padding_idx) - 1
    return positions


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}
