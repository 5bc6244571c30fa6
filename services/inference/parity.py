"""Whether the engine computes what a trainer did: tokens, logits and ends of sample rows, on a folder as it is served.

The samples are a folder that the trainer left: `samples.json` says what each row is, and `logits.safetensors` has the
trainer's logits (positions, vocabulary) of row N as the tensor `N`. Knows no job and no trainer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file

from services.inference.engine.adapter_folder import read_adapter
from services.inference.engine.blocks import PADDING_BLOCK
from services.inference.engine.codec import Codec
from services.inference.engine.request import EngineConfig, Priority
from services.inference.engine.runner import ModelRunner
from services.inference.engine.scheduler import Row, Sequence
from services.inference.prompt import render
from shared.contracts.generation_config import Settings, shown_settings
from shared.errors import HeliuError

SAMPLES, LOGITS = "samples.json", "logits.safetensors"
_ADAPTER = "checked"


class SampleRow(BaseModel):
    """One row: what a client would send (`messages`, or a plain `text`), and all tokens of it and its answer.

    The trainer's logits are those after the token `first` and after each that follows; `prompt` is how many tokens
    what is sent has, where it is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[dict[str, str]] | None = None
    text: str | None = None
    prompt: int | None = None
    ids: list[int] = Field(min_length=1)
    first: int = Field(ge=0)


class Samples(BaseModel):
    """What the trainer had: rows, the tokens that end an answer, the decoding settings that the model is to have by
    itself, its template's hash, the type of its weights.

    `tolerance` is the largest difference of a logit that passes, as a share of the largest logit (at least of 1).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: list[SampleRow] = Field(min_length=1)
    ends: list[int]
    decoding: Settings
    template: str | None
    dtype: str
    device: str
    tolerance: float = Field(gt=0)


class ParityFailed(HeliuError):
    """What would be served is not what was trained."""

    code = "parity_check_failed"


def compare(folder: Path, base: Path | None, samples: Path) -> dict[str, Any]:
    """{"parity", "pinned"} of a model folder; of an adapter with its `base`. Raises ParityFailed, or what loading
    raises."""
    told = _read(samples)
    codec = Codec.load(str(folder), {})
    below = Codec.load(str(base), {}) if base is not None else codec
    home = codec.on(below)
    _same_words(told, home)
    ends = sorted(home.ends | below.ends)
    if ends != sorted(told.ends):
        raise ParityFailed(
            f"answers would end at the tokens {ends}, and ended in training at {sorted(told.ends)}"
        )
    decoding = home.decoding or {}
    if decoding != told.decoding:
        raise ParityFailed(
            f"answers would be decoded by {_shown(decoding)}, and the job pins {_shown(told.decoding)}"
        )
    difference, allowed = _largest_difference(told, folder, base, load_file(samples / LOGITS))
    parity = {
        "max_abs_difference": difference,
        "tolerance": allowed,
        "rows": len(told.rows),
        "passed": difference <= allowed,
    }
    if not parity["passed"]:
        raise ParityFailed(
            f"the engine's logits differ from the trainer's by {difference:.3g} on {len(told.rows)} rows, more than "
            f"{allowed:.3g}"
        )
    return {"parity": parity, "pinned": {**_hashes(folder), "stop_tokens": ends, "decoding": decoding}}


def _read(samples: Path) -> Samples:
    try:
        return Samples.model_validate_json((samples / SAMPLES).read_bytes())
    except (OSError, ValidationError) as exc:
        raise HeliuError(f"the trainer's samples cannot be read: {exc}", code="internal_error") from exc


def _same_words(told: Samples, codec: Codec) -> None:
    """The template and the tokenizer make the same tokens of what a client sends."""
    if template_hash(codec.tokenizer) != told.template:
        raise ParityFailed("the chat template that would be served is not the one trained with")
    for number, row in enumerate(told.rows):
        if row.prompt is None:
            continue
        found = render(codec.tokenizer, messages=row.messages, prompt=row.text, special=False)
        if found != row.ids[: row.prompt]:
            raise ParityFailed(
                f"row {number} of the sample is {len(found)} tokens as served and {row.prompt} as trained, or others: "
                "the tokenizer or the template has changed"
            )


def template_hash(tokenizer: Any | None) -> str | None:
    """sha256 of the chat template; None without one."""
    template = None if tokenizer is None else tokenizer.chat_template
    return None if template is None else hashlib.sha256(str(template).encode()).hexdigest()


def _largest_difference(
    told: Samples, folder: Path, base: Path | None, wanted: dict[str, torch.Tensor]
) -> tuple[float, float]:
    """(difference, what is allowed) over all rows: each prompt in one piece, then all rows token by token together."""
    size = EngineConfig.block_size
    tables, last = [], PADDING_BLOCK
    for sample in told.rows:
        count = -(-len(sample.ids) // size)
        tables.append(list(range(last + 1, last + 1 + count)))
        last += count
    config = EngineConfig(
        max_slots=len(told.rows),
        kv_tokens=max(2, last) * size,
        device=told.device,
        dtype=told.dtype,
    )
    runner = ModelRunner.load(str(base or folder), config)
    adapter = None
    if base is not None:
        runner.adapters.install(_ADAPTER, read_adapter(str(folder), dtype=config.dtype, device=config.device))
        adapter = _ADAPTER
    sequences = [
        Sequence(str(n), "", Priority.BATCH, n, one.ids, one.first + 1, adapter=adapter, blocks=blocks)
        for n, (one, blocks) in enumerate(zip(told.rows, tables, strict=True))
    ]
    step = [Row(s, 0, s.prompt_length, samples=True) for s in sequences]
    worst, largest = 0.0, 1.0
    while step:
        rows, logits = runner.forward(step)
        for row, found in zip(rows, logits, strict=True):
            at = row.start + row.count - row.sequence.prompt_length
            expected = wanted[row.sequence.id][at].to(found.device)
            worst = max(worst, float((found.float() - expected.float()).abs().max()))
            largest = max(largest, float(expected.float().abs().max()))
            row.sequence.computed = row.start + row.count
        step = [Row(s, s.computed, 1, samples=True) for s in sequences if s.computed < len(s.tokens)]
    return worst, told.tolerance * largest


def _shown(decoding: Settings) -> str:
    return shown_settings(decoding) or "nothing of the model's own"


def _hashes(folder: Path) -> dict[str, Any]:
    """sha256 of each file that says how the model is talked to."""
    names = (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
        "adapter_config.json",
    )
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in names
        if (folder / name).exists()
    }
