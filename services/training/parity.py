"""What the trainer computes on sample rows, left in a folder for the engine to be held against. Knows no engine.

The files are described where they are read, in `services/inference/parity.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from services.training.dataset import Message, read_rows
from services.training.model_folder import context_length, end_token_ids, pinned_decoding
from services.training.spec import Spec
from services.training.tokenizer import encode_rendered, encode_text, render

ROWS = 6
# Tokens of a row, and how many of them are looked at one by one behind the prompt.
LONGEST, ANSWER = 256, 8
# Largest difference of a logit, as a share of the largest one: sums in another order, and in 16 bits rounding too.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
_ASKED = (Message("user", "你好，我的订单 20417 到哪里了？ Where is my order?"),)


@dataclass(frozen=True)
class Sample:
    """A conversation that ends with an answer, or a plain text."""

    turns: tuple[Message, ...] = ()
    text: str = ""


def sample_rows(spec: Spec, *, plain: bool = False) -> list[Sample]:
    """The first rows of the held-out split, or of the training one where nothing is held out; `plain` as texts."""
    found = list(islice(read_rows(spec.data.validation, "validation", "validation_file"), ROWS))
    if not found:
        found = list(islice(read_rows(spec.data.train, "train"), ROWS))
    out = []
    for row in found:
        turns = None if plain else row.conversation()
        last = max((n for n, m in enumerate(turns or ()) if m.role == "assistant"), default=None)
        if turns is None or last is None:
            out.append(Sample(text=row.plain_text()))
        else:
            out.append(Sample(turns[: last + 1]))
    return out


def leave_samples(
    model: Any, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], workdir: Path
) -> None:
    """Write tokens and logits of a fixed question and of some `samples` under `workdir`, for the engine's check."""
    folder = workdir / "parity"
    folder.mkdir(parents=True, exist_ok=True)
    room = min(LONGEST, context_length(model))
    asked = [Sample(_ASKED)] if tokenizer.chat_template is not None else []
    rows = [row for one in (*asked, *samples) if (row := _row(tokenizer, one, room)) is not None][:ROWS]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    logits: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for number, row in enumerate(rows):
            ids = torch.tensor([row["ids"]], device=device)
            # Not by calling it: a trainer puts its own precision around the call.
            found = type(model).forward(model, input_ids=ids, use_cache=False).logits[0, row["first"] :]
            logits[str(number)] = found.float().cpu().contiguous()
    model.train(training)
    dtype = str(model.dtype).removeprefix("torch.")
    told = {
        "rows": rows,
        "ends": end_token_ids(model, tokenizer),
        "decoding": pinned_decoding(model),
        "template": _template(tokenizer),
        "dtype": dtype,
        "device": device.type,
        "tolerance": TOLERANCE[dtype],
    }
    save_file(logits, folder / "logits.safetensors")
    (folder / "samples.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def _row(tokenizer: PreTrainedTokenizerBase, sample: Sample, room: int) -> dict[str, Any] | None:
    """None for a row that is too long, or holds a sign of the template, which the engine takes for plain text."""
    special = set(tokenizer.all_special_tokens)
    if any(sign in text for text in (sample.text, *(m.content for m in sample.turns)) for sign in special):
        return None
    if not sample.turns:
        text = sample.text[:LONGEST]
        ids = encode_text(tokenizer, text)
        fits, ids = len(ids) <= room, ids[:room]
        first = max(0, len(ids) - 1 - ANSWER)
        return (
            {"text": text, "prompt": len(ids) if fits else None, "ids": ids, "first": first} if ids else None
        )
    answered = sample.turns[-1].role == "assistant"
    before = sample.turns[:-1] if answered else sample.turns
    if not before:
        return None
    ids = encode_rendered(tokenizer, render(tokenizer, before, prompt=True))
    if len(ids) > room:
        return None
    answer = (
        encode_text(tokenizer, sample.turns[-1].content)[: min(ANSWER, room - len(ids))] if answered else []
    )
    return {
        "messages": [m.as_dict() for m in before],
        "prompt": len(ids),
        "ids": [*ids, *answer],
        "first": len(ids) - 1,
    }


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = tokenizer.chat_template
    return None if template is None else hashlib.sha256(str(template).encode()).hexdigest()


def read_back(difference: float, tolerance: float, rows: int) -> dict[str, Any]:
    """The same figures of a model that was read back and passed, as heads and encoders are."""
    return {"max_abs_difference": difference, "tolerance": tolerance, "rows": rows, "passed": True}
