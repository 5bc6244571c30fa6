"""Models in and out of ordinary transformers and PEFT folders. Knows no training."""

from __future__ import annotations

import ctypes
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from services.training.hyperparameters import PretrainHyperparameters
from shared.contracts.generation_config import Settings, over, pinned, written
from shared.errors import InvalidInput


def prepare_torch(threads: int, seed: int) -> torch.device:
    """Threads, seeds and the device of this process; must run before the first tensor."""
    if platform.libc_ver()[0] == "glibc":
        # Without this every large temporary is a fresh mmap: a third of a small model's CPU time goes to page faults.
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        # One of several processes of a run has a GPU of its own.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cuda")
    return torch.device("cpu")


def new_model(shape: PretrainHyperparameters, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama-shaped model with tied embeddings and random weights from torch's current seed."""
    ends: dict[str, Any] = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=3 * shape.hidden_size,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=True,
        **ends,
    )
    model = LlamaForCausalLM(config)
    # The usual 0.02 suits wide models; tied to a narrow one's head it makes every logit near 0 for the first epochs.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=shape.hidden_size**-0.5)
    model.generation_config = GenerationConfig(**ends)
    return model


def load_base(
    folder: Path, device: torch.device, *, chats: bool = True, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base model and tokenizer of a transformers folder: safetensors only, never code from the folder.

    `chats` asks for a chat template. Float32 on a CPU, the stored type on a GPU, or as `options` of `from_pretrained`
    say (`dtype`, `quantization_config`). Raises InvalidInput `invalid_model`.
    """
    placed = {"device_map": {"": device}} if "quantization_config" in options else {}
    given = {"dtype": torch.float32 if device.type == "cpu" else "auto"} | options | placed
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **given,
        )
    except (OSError, ValueError, KeyError) as exc:
        raise _unloadable(exc) from exc
    return model if placed else model.to(device), load_tokenizer(folder, chats=chats)


def outline_base(folder: Path) -> PreTrainedModel:
    """The base of a folder without its weights, which stand on no device; buffers are what they are in the base."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as exc:
        raise _unloadable(exc) from exc
    # Parameters that stood on no device each for itself are one again where the model ties them.
    model.tie_weights()
    return model.eval()


def load_tokenizer(folder: Path, *, chats: bool = True) -> PreTrainedTokenizerBase:
    """A base's tokenizer, which can pad and end. Raises InvalidInput `invalid_model`."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as exc:
        raise _unloadable(exc) from exc
    if chats and tokenizer.chat_template is None:
        raise InvalidInput(
            "the base model has no chat template; it must have one to be tuned",
            code="invalid_model",
            param="model",
        )
    if tokenizer.eos_token_id is None:
        raise InvalidInput("the base model's tokenizer has no end token", code="invalid_model", param="model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _unloadable(why: Exception) -> InvalidInput:
    return InvalidInput(f"the base model cannot be loaded: {why}", code="invalid_model", param="model")


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model` with the PEFT adapter of `folder` on it. Raises InvalidInput `invalid_model`."""
    from peft import PeftModel  # costs seconds, and only a tuned model needs it

    try:
        return PeftModel.from_pretrained(model, folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        raise InvalidInput(
            f"the adapter cannot be loaded: {exc}", code="invalid_model", param="model"
        ) from exc


def context_length(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().max_position_embeddings)


def linear_layers(model: PreTrainedModel) -> dict[str, int]:
    """The least of inputs and outputs by the last name of each linear layer; the output layer is none of them."""
    output = model.get_output_embeddings()
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        width = _width(module)
        if width is None or module is output:
            continue
        last = name.rpartition(".")[2]
        found[last] = min(width, found.get(last, width))
    return found


def _width(module: torch.nn.Module) -> int | None:
    if isinstance(module, torch.nn.Linear):
        return min(module.in_features, module.out_features)
    if type(module).__name__ == "Conv1D" and isinstance(module.weight, torch.Tensor):
        return min(module.weight.shape)
    return None


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer, by generation config and tokenizer."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    found = {ids} if isinstance(ids, int) else set(ids or ())
    return sorted(found | {tokenizer.eos_token_id})


def pin_decoding(model: PreTrainedModel, settings: Settings) -> None:
    """Have every folder that this model is saved to say how it answers where a request does not; what `settings` leave
    out stays as it was. Raises InvalidInput for a model whose own settings have no meaning."""
    own = pinned_decoding(model)
    if settings:
        for name, value in written(over(own, settings)).items():
            setattr(model.generation_config, name, value)


def pinned_decoding(model: Any) -> Settings:
    """What its folder says, or will say. Raises InvalidInput."""
    config = model.generation_config
    return pinned(config.to_diff_dict()) if config is not None else {}


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole transformers folder: config, safetensors, generation config, tokenizer with chat template."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a PEFT folder with the tokenizer beside it, free of this machine's paths and of a model card."""
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    # What ends an answer of the base ends those of the adapter, wherever it is taken.
    model.generation_config.to_json_file(folder / "generation_config.json")
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
