"""What a run starts from: a base, or an adapter on one, that is trained on or becomes a part of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from services.training.checkpoint import file_sha256, fingerprint
from services.training.model_folder import (
    load_adapter,
    load_base,
    load_tokenizer,
    outline_base,
    pin_decoding,
)
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
    if spec.adapter_dir is not None and merge:
        # PEFT has frozen the base.
        model = load_adapter(model, spec.adapter_dir).merge_and_unload().requires_grad_(True)
    pin_decoding(model, spec.decoding)
    return model, _tokenizer_of(spec, tokenizer)


def outline_start(spec: Spec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same without weights, for a process that gets its share of them from another: an adapter that is added to
    them changes no shape."""
    assert spec.base_dir is not None
    return outline_base(spec.base_dir), _tokenizer_of(spec, load_tokenizer(spec.base_dir))


def _tokenizer_of(spec: Spec, base: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if spec.adapter_dir is None or not (spec.adapter_dir / "tokenizer_config.json").exists():
        return base
    return _tokenizer(spec.adapter_dir, base)


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
    if model.device.type == "meta":
        # Its matrices come with the base's, from the process that has both.
        config.inference_mode = False
        return get_peft_model(model, config, low_cpu_mem_usage=True)
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


def mark_of(spec: Spec, hyperparameters: Mapping[str, Any]) -> str:
    """The fingerprint of a run that tunes a model: what decides it, for its checkpoints."""
    facts = {
        "kind": spec.kind,
        "seed": spec.seed,
        "hyperparameters": dict(hyperparameters),
        "base": weights_of(spec),
    }
    return fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})


def weights_of(spec: Spec) -> dict[str, str]:
    """The hash of each weight file that the run starts from, for its fingerprint."""
    folders = {"": spec.base_dir, "adapter/": spec.adapter_dir}
    return {
        f"{prefix}{path.name}": file_sha256(path)
        for prefix, folder in folders.items()
        if folder is not None
        for path in sorted(folder.glob("*.safetensors"))
    }
