"""Whether a folder is a model that can be served, and what it is. Runs in a process of its own.

What is small enough is loaded as the engine will; of what is larger the shapes are laid over each other without
reading the weights. A template is tried in transformers' sandbox, with a time limit.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateSyntaxError
from jinja2.exceptions import SecurityError
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from services.inference.engine.adapter_folder import UnsupportedAdapter, read_adapter
from services.inference.engine.adapter_layer import StepAdapters
from services.inference.engine.adapters import AdapterStore
from services.inference.engine.attention import IMPLEMENTATION, UnsupportedModel
from services.inference.engine.encoder import Encoder, read_auto_config
from services.inference.engine.head import Head
from services.inference.engine.head_folder import is_head, read_head_folder
from services.inference.engine.loading import (
    BrokenModel,
    check_folder,
    load_tokenizer,
    own_decoding,
    read_config,
    read_json,
    refuse_pickles,
)
from services.inference.engine.lstm import is_lstm
from services.inference.engine.request import EngineConfig
from services.inference.engine.runner import ModelRunner
from services.inference.engine.sentence_folder import read_sentence_folder
from services.inference.weights import Weights, read_weights
from shared.contracts.generation_config import FILE, unapplied

# Weights up to here are really loaded; in float32 they may take twice as much memory as on the disk.
REAL_BYTES = 2 * 1024**3
TEMPLATE_S = 20.0
# Far beyond what anybody has trained, near enough that a forged number costs neither memory nor hours.
MOST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_attention_heads": 10_000,
    "vocab_size": 10_000_000,
    "num_experts": 10_000,
    "num_local_experts": 10_000,
}
TRIED = [{"role": "user", "content": "你好 Hello"}]


def inspect(
    folder: str, *, kind: str | None, base: str | None, real_bytes: int = REAL_BYTES
) -> dict[str, Any]:
    """{"kind", "info", "warnings"}. Raises a HeliuError with the reason for what cannot be served."""
    disable_progress_bar()
    path = Path(folder)
    refuse_pickles(path)
    weights = read_weights(path)
    kind = kind or infer_kind(path)
    if kind != "encoder":
        # An encoder's own way in checks each of its folders.
        check_folder(folder)
    warnings: list[str] = []
    if kind == "adapter":
        info = _adapter(path, base)
    elif kind == "encoder":
        info = _encoder(path)
    elif kind in ("classifier", "ranker"):
        info = _head(path, kind)
    else:
        info = _base(path, weights, real_bytes, warnings)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "kind": kind,
        "info": {"dtype": weights.dtype, "bytes": size, **info},
        "warnings": warnings,
    }


def infer_kind(folder: Path) -> str:
    """By what lies in the folder, and by the architecture that config.json names."""
    if (folder / "adapter_config.json").exists():
        return "adapter"
    if is_head(folder):
        return read_head_folder(folder).kind
    if (folder / "modules.json").exists():
        return "encoder"
    named = [str(name) for name in read_json(folder / "config.json").get("architectures") or ()]
    return "encoder" if named and all(name.endswith("Model") for name in named) else "base"


def _base(folder: Path, weights: Weights, real_bytes: int, warnings: list[str]) -> dict[str, Any]:
    if (folder / "adapter_config.json").exists():
        raise BrokenModel("the folder is an adapter; add it as one, with the name of its base", param="kind")
    config = read_config(folder)
    _check_numbers(config)
    model = _on_meta(config)
    embeddings = model.get_input_embeddings().weight.shape[0]
    if weights.bytes <= real_bytes:
        # The engine's own way in: paged attention must give what the model gives by itself.
        ModelRunner.load(str(folder), EngineConfig(kv_tokens=256, max_slots=1))
    else:
        _lay_over(folder, model)
        warnings.append(
            f"its weights have {weights.bytes} bytes, too many to try it here: only their shapes were checked"
        )
    decoding = own_decoding(str(folder)) or {}
    if others := unapplied(read_json(folder / FILE)):
        warnings.append(f"{FILE} sets {', '.join(others)}, which this platform does not apply")
    tokenizer = load_tokenizer(str(folder))
    if tokenizer is None:
        warnings.append("the folder has no tokenizer: only prompts of token ids can be answered")
    elif len(tokenizer) > embeddings:
        raise BrokenModel(
            f"the tokenizer has {len(tokenizer)} tokens, but the model embeds {embeddings}", param="path"
        )
    text = config.get_text_config()
    return {
        "architecture": type(model).__name__,
        "family": config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "context_length": getattr(text, "max_position_embeddings", None),
        "vocabulary": len(tokenizer) if tokenizer is not None else embeddings,
        "tokenizer": tokenizer is not None,
        "chat_template": _has_template(tokenizer, warnings),
        "decoding": decoding,
    }


def _adapter(folder: Path, base: str | None) -> dict[str, Any]:
    if base is None:
        raise UnsupportedAdapter("an adapter needs the name of the base that it was trained on", param="base")
    adapter = read_adapter(str(folder), dtype="float32", device="cpu")
    config = read_config(check_folder(base))
    model = _on_meta(config)
    AdapterStore(model, StepAdapters(), 1).install("checked", adapter)
    tokenizer = load_tokenizer(str(folder))
    embeddings = model.get_input_embeddings().weight.shape[0]
    if tokenizer is not None and len(tokenizer) > embeddings:
        raise UnsupportedAdapter(
            f"the adapter's tokenizer has {len(tokenizer)} tokens, its base embeds {embeddings}: it was trained on "
            "another base"
        )
    options = read_json(folder / "adapter_config.json")
    own = own_decoding(str(folder))
    return {
        "architecture": f"LoRA on {type(model).__name__}",
        "family": config.model_type,
        "parameters": sum(a.numel() + b.numel() for a, b in adapter.matrices.values()),
        "rank": max((a.shape[0] for a, _ in adapter.matrices.values()), default=0),
        "targets": sorted({module.rpartition(".")[2] for module in adapter.matrices}),
        "context_length": getattr(config.get_text_config(), "max_position_embeddings", None),
        "vocabulary": len(tokenizer) if tokenizer is not None else None,
        "tokenizer": tokenizer is not None,
        "chat_template": _has_template(tokenizer, []) if tokenizer is not None else None,
        "alpha": options.get("lora_alpha"),
        "decoding": own if own is not None else own_decoding(base) or {},
    }


def _encoder(folder: Path) -> dict[str, Any]:
    inner = read_sentence_folder(folder).transformer
    config = read_auto_config(inner)
    _check_numbers(config)
    # The engine's own way in: a text must get the same vector alone and beside a longer one.
    encoder = Encoder.load(str(folder), dtype="float32", device="cpu")
    return {**_told(encoder), "family": config.model_type, "dimensions": encoder.width}


def _head(folder: Path, kind: str) -> dict[str, Any]:
    if not is_head(folder):
        raise UnsupportedModel(
            f"the folder is no {kind}: it has no head.json, and its config.json names no ...ForSequenceClassification",
            param="kind",
        )
    told = read_head_folder(folder)
    if told.kind != kind:
        raise UnsupportedModel(
            f"the folder is a {told.kind} (its head is {told.head}), and no {kind}", param="kind"
        )
    if not is_lstm(folder):
        _check_numbers(read_auto_config(folder))
    head = Head.load(str(folder), dtype="float32", device="cpu")
    family = read_json(folder / "config.json").get("model_type")
    return {**_told(head), "family": family, "head": told.head, "labels": list(told.labels)}


def _told(encoder: Encoder) -> dict[str, Any]:
    return {
        "architecture": encoder.architecture,
        "parameters": encoder.parameters,
        "context_length": encoder.context,
        "vocabulary": encoder.known_tokens,
        "tokenizer": True,
        "chat_template": False,
    }


def _check_numbers(config: Any) -> None:
    text = config.get_text_config()
    for name, most in MOST.items():
        value = getattr(text, name, None)
        if value is not None and not (isinstance(value, int) and 0 < value <= most):
            raise UnsupportedModel(
                f"config.json has {name}={value!r}; from 1 to {most} is believed", param=name
            )


def _on_meta(config: Any) -> Any:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as exc:
        raise UnsupportedModel(
            f"no model can be made of config.json: {type(exc).__name__}: {exc}", param="path"
        ) from exc


def _lay_over(folder: Path, model: Any) -> None:
    """Names and shapes of the weights against the model's, and whether it takes our attention; reads no weights."""
    try:
        loaded, found = AutoModelForCausalLM.from_pretrained(
            folder,
            output_loading_info=True,
            device_map="meta",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        loaded.set_attn_implementation(IMPLEMENTATION)
    except Exception as exc:
        raise BrokenModel(
            f"{type(model).__name__} cannot be laid over the weights: {type(exc).__name__}: {exc}",
            param="path",
        ) from exc
    if found["missing_keys"]:
        raise BrokenModel(
            f"the folder lacks {len(found['missing_keys'])} weights, {min(found['missing_keys'])!r} for one",
            param="path",
        )


def _has_template(tokenizer: Any | None, warnings: list[str]) -> bool:
    """Whether it has a chat template; raises BrokenModel for one that can never work."""
    if tokenizer is None or tokenizer.chat_template is None:
        if tokenizer is not None:
            warnings.append("the tokenizer has no chat template: completions work, chat does not")
        return False
    try:
        with _time_limit(TEMPLATE_S):
            tokenizer.apply_chat_template(TRIED, add_generation_prompt=True, tokenize=False)
    except TemplateSyntaxError as exc:
        raise BrokenModel(
            f"the chat template is no valid Jinja: {exc} (line {exc.lineno})", param="path"
        ) from exc
    except (SecurityError, TimeoutError, OverflowError, MemoryError) as exc:
        raise BrokenModel(
            f"the chat template wants what the sandbox refuses: {exc or type(exc).__name__}", param="path"
        ) from exc
    except Exception as exc:  # noqa: BLE001 - a template may raise whatever it likes; some want a system message first
        warnings.append(f"the chat template refuses a plain user message: {exc}")
    return True


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after `seconds`."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
