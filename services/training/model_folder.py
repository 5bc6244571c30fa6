"""Models in and out of ordinary transformers and PEFT folders, and the check that what is saved is what was trained."""

from __future__ import annotations

import ctypes
import json
import platform
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from services.training.dataset import Message
from services.training.hyperparameters import PretrainHyperparameters
from services.training.tokenizer import encode_rendered, render
from shared.errors import HeliuError, InvalidInput

# Largest absolute difference of a logit between the model in memory and the one read back, both in float32.
PARITY_TOLERANCE = 1e-4
_PARITY_TURNS = (Message("user", "你好，我的订单 20417 到哪里了？ Where is my order?"),)


def prepare_torch(threads: int, seed: int) -> torch.device:
    """Threads, seeds and the device of this process; must run before the first tensor."""
    if platform.libc_ver()[0] == "glibc":
        # Without this every large temporary is a fresh mmap: a third of a small model's CPU time goes to page faults.
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    folder: Path, device: torch.device, *, chats: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base model and tokenizer of a transformers folder: safetensors only, never code from the folder.

    `chats` asks for a chat template. Float32 on a CPU, the stored type on a GPU. Raises InvalidInput `invalid_model`.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if device.type == "cpu" else "auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as exc:
        raise InvalidInput(
            f"the base model cannot be loaded: {exc}", code="invalid_model", param="model"
        ) from exc
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
    return model.to(device), tokenizer


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


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer, by generation config and tokenizer."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    found = {ids} if isinstance(ids, int) else set(ids or ())
    return sorted(found | {tokenizer.eos_token_id})


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole transformers folder: config, safetensors, generation config, tokenizer with chat template."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_adapter(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a PEFT folder with the tokenizer beside it, free of this machine's paths and of a model card."""
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def check_parity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: Path, adapter: Path | None = None
) -> float:
    """Read the saved folder back and compare logits on a fixed prompt; returns the largest difference.

    Raises HeliuError `parity_check_failed` above PARITY_TOLERANCE, or when the tokenizers differ.
    """
    device = next(model.parameters()).device
    saved, saved_tokenizer = load_base(base, device)
    if adapter is not None:
        saved = load_adapter(saved, adapter)
        saved_tokenizer = AutoTokenizer.from_pretrained(
            adapter, trust_remote_code=False, local_files_only=True
        )
    text = render(tokenizer, _PARITY_TURNS, prompt=True)
    ids = encode_rendered(tokenizer, text)
    if (
        render(saved_tokenizer, _PARITY_TURNS, prompt=True) != text
        or encode_rendered(saved_tokenizer, text) != ids
    ):
        raise HeliuError("the saved tokenizer differs from the one trained with", code="parity_check_failed")
    was_training = model.training
    model.eval()
    saved.eval()
    batch = torch.tensor([ids], device=device)
    with torch.no_grad():
        difference = (
            (model(input_ids=batch).logits.float() - saved(input_ids=batch).logits.float()).abs().max().item()
        )
    model.train(was_training)
    if not difference <= PARITY_TOLERANCE:
        raise HeliuError(
            f"the saved model's logits differ from the trained model's by {difference:g}, "
            f"more than {PARITY_TOLERANCE:g}",
            code="parity_check_failed",
        )
    return float(difference)
