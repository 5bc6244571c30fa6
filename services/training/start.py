"""What a run starts from: a base, or an adapter on one, that is trained on or becomes a part of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from services.training.checkpoint import file_sha256
from services.training.model_folder import load_adapter, load_base, pin_decoding
from services.training.spec import Spec
from shared.errors import InvalidInput

# An adapter's shape is given by what it starts from: our name of a setting, and PEFT's.
_SHAPE = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "target_modules": "target_modules",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}


def load_start(
    spec: Spec, device: torch.device, *, merge: bool, chats: bool = True, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base of `spec` and the tokenizer of what is started from; with `merge`, an adapter added to its weights.

    `chats` asks for a chat template; `options` are those of `load_base`. Raises InvalidInput `invalid_model`.
    """
    assert spec.base_dir is not None
    model, tokenizer = load_base(spec.base_dir, device, chats=chats, **options)
    if spec.adapter_dir is None:
        pin_decoding(model, spec.decoding)
        return model, tokenizer
    if (spec.adapter_dir / "tokenizer_config.json").exists():
        tokenizer = _tokenizer(spec.adapter_dir, tokenizer)
    if merge:
        # PEFT has frozen the base.
        model = load_adapter(model, spec.adapter_dir).merge_and_unload().requires_grad_(True)
    pin_decoding(model, spec.decoding)
    return model, tokenizer


def _tokenizer(folder: Path, base: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    own: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if own.chat_template is None:
        own.chat_template = base.chat_template
    if own.pad_token_id is None:
        own.pad_token = own.eos_token
    return own


def trained_on(model: PreTrainedModel, folder: Path, given: Mapping[str, Any], dropout: float) -> PeftModel:
    """`model` with the adapter of `folder`, whose own matrices are trained further.

    `given` are the settings of the shape that somebody asked for. Raises InvalidInput where they differ from the
    adapter's, and for an adapter that is no LoRA.
    """
    config = _config(folder)
    for ours, theirs in _SHAPE.items():
        wanted, has = given.get(ours), getattr(config, theirs)
        if isinstance(wanted, list | tuple):
            wanted, has = sorted(wanted), sorted(has) if not isinstance(has, str) else has
        if wanted not in (None, "auto", has):
            raise InvalidInput(
                f"{ours} is {wanted}, but the adapter that this run starts from has {has}; leave it out, or start "
                "from the adapter's base",
                param=f"hyperparameters.{ours}",
            )
    config.lora_dropout = dropout
    try:
        return PeftModel.from_pretrained(
            model, folder, is_trainable=True, config=config, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        raise _unusable(f"it cannot be loaded on its base: {exc}") from exc


def _config(folder: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise _unusable(f"its adapter_config.json cannot be read: {exc}") from exc
    if not isinstance(config, LoraConfig):
        raise _unusable(f"it is of the kind {config.peft_type}; LoRA adapters are trained on")
    return config


def _unusable(why: str) -> InvalidInput:
    return InvalidInput(f"the adapter cannot be started from: {why}", code="invalid_model", param="model")


def weights_of(spec: Spec) -> dict[str, str]:
    """The hash of each weight file that the run starts from, for its fingerprint."""
    folders = {"": spec.base_dir, "adapter/": spec.adapter_dir}
    return {
        f"{prefix}{path.name}": file_sha256(path)
        for prefix, folder in folders.items()
        if folder is not None
        for path in sorted(folder.glob("*.safetensors"))
    }
