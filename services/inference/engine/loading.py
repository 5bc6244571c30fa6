"""Reads models, adapters' tensors and tokenizers from local folders: safetensors only, never remote code.

Every refusal comes before anything of the folder is executed or unpickled. Knows nothing of batching.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from services.inference.engine.attention import UnsupportedModel
from shared.contracts.generation_config import FILE, Settings, pinned
from shared.errors import HeliuError, InvalidInput

PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
# Trainers leave it beside the weights; nothing here ever opens it.
IGNORED = frozenset({"training_args.bin"})
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
CONFIG_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json")
# These rescale every position by the longest sequence of the batch, so rows would change each other.
BATCH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


class UnsafeModel(HeliuError):
    """The folder holds pickled weights or code of its own."""

    code = "model_unsafe"


class BrokenModel(HeliuError):
    """The folder is missing, incomplete or unreadable."""

    code = "model_unreadable"


def check_folder(path: str) -> Path:
    """The folder, if it can be loaded without running anything from it. Raises UnsafeModel or BrokenModel."""
    folder = Path(path)
    refuse_pickles(folder)
    for name in CONFIG_FILES:
        if _mentions(read_json(folder / name), "auto_map"):
            raise UnsafeModel(
                f"{name} in {path!r} has an auto_map: it wants to run code of its own, which is never done; "
                "use an architecture that transformers has built in",
                param="path",
            )
    if not any(folder.glob("*.safetensors")):
        raise BrokenModel(f"{path!r} has no .safetensors file", param="path")
    return folder


def refuse_pickles(folder: Path) -> None:
    """Raises UnsafeModel for a pickle at any depth, BrokenModel where there is no folder."""
    if not folder.is_dir():
        raise BrokenModel(f"there is no model folder {str(folder)!r}", param="path")
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in PICKLED and file.name not in IGNORED:
            raise UnsafeModel(
                f"{file.name} in {str(folder)!r} is a pickle, which can run code when read; convert it to "
                ".safetensors",
                param="path",
            )


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; {} when there is no such file. Raises BrokenModel for anything else."""
    if not file.exists():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise BrokenModel(f"{file} is not readable JSON: {exc}", param="path") from exc
    if not isinstance(value, dict):
        raise BrokenModel(f"{file} must hold a JSON object, got {type(value).__name__}", param="path")
    return value


def load_model(path: str, *, dtype: str, device: str) -> Any:
    """A causal language model in evaluation mode. Raises UnsafeModel, BrokenModel or UnsupportedModel."""
    disable_progress_bar()
    folder = check_folder(path)
    if (folder / "adapter_config.json").exists():
        raise BrokenModel(f"{path!r} is an adapter; give the folder of its base", param="path")
    config = read_config(folder)
    return load_weights(AutoModelForCausalLM, folder, config, dtype=dtype, device=device)


def load_weights(
    auto: Any, folder: Path, config: Any, *, dtype: str, device: str, needless: tuple[str, ...] = ()
) -> Any:
    """A model of the library's class `auto` in evaluation mode, from safetensors that have all of its weights.

    Those whose names begin as one of `needless` may be missing. Raises BrokenModel.
    """
    try:
        model, info = auto.from_pretrained(
            folder,
            output_loading_info=True,
            config=config,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except Exception as exc:
        raise BrokenModel(
            f"{str(folder)!r} cannot be loaded: {type(exc).__name__}: {exc}", param="path"
        ) from exc
    missing = [name for name in info["missing_keys"] if not name.startswith(needless)]
    if missing:
        # The library would go on with random ones.
        raise BrokenModel(
            f"{str(folder)!r} lacks {len(missing)} weights, {min(missing)!r} for one", param="path"
        )
    return model.to(device).eval()


def load_tokenizer(path: str) -> Any | None:
    """The folder's tokenizer, or None when it has no tokenizer files. Raises UnsafeModel or BrokenModel."""
    folder = Path(path)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:
        raise BrokenModel(
            f"the tokenizer of {path!r} cannot be loaded: {type(exc).__name__}: {exc}", param="path"
        ) from exc


def end_tokens(path: str, tokenizer: Any | None) -> frozenset[int]:
    """The ids that end an answer: of generation_config.json, config.json and the tokenizer together."""
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json(Path(path) / name).get("eos_token_id")
        ends.update(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int))
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(ends)


def own_decoding(path: str) -> Settings | None:
    """The decoding settings that the folder pins; None where it has no file for them. Raises BrokenModel."""
    file = Path(path) / FILE
    if not file.exists():
        return None
    try:
        return pinned(read_json(file))
    except InvalidInput as exc:
        raise BrokenModel(exc.message, param=exc.param) from exc


def weight_bytes(path: str) -> int:
    """What a folder's weights take on disk, about what they take in memory."""
    return sum(file.stat().st_size for file in Path(path).rglob("*.safetensors"))


def read_config(folder: Path) -> Any:
    """The configuration of a causal language model. Raises BrokenModel, or UnsupportedModel for any other."""
    if not (folder / "config.json").exists():
        raise BrokenModel(f"{str(folder)!r} has no config.json", param="path")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:
        raise UnsupportedModel(
            f"config.json of {str(folder)!r} is not understood: {exc}", param="path"
        ) from exc
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{config.model_type!r} is not a causal language model that transformers has built in",
            param="path",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in BATCH_DEPENDENT_ROPE:
        raise UnsupportedModel(f"rope type {rope['rope_type']!r} depends on the whole batch", param="path")
    return config


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return bool(value.get(key)) or any(_mentions(item, key) for item in value.values())
    if isinstance(value, list):
        return any(_mentions(item, key) for item in value)
    return False
