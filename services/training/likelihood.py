"""How likely a model finds given answers: the cross-entropy of each, written line by line. Trains nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.training.dataset import Message
from services.training.model_folder import context_length, load_adapter, load_base, prepare_torch
from services.training.run import Result, Run, Stopped
from services.training.spec import Spec
from services.training.tokenizer import encode_prompt, encode_text

AT_ONCE = 8
OUTPUT = "likelihood.jsonl"
# Read together and sorted by length, so that little of a batch is padding.
WINDOW = 256

Pair = tuple[list[int], list[int]]


def run(spec: Spec, run: Run) -> Result:
    """One line {"loss", "tokens"} for each line of the file, in its order. Raises InvalidInput, and Stopped between
    batches (nothing is kept)."""
    device = prepare_torch(spec.threads, spec.seed)
    assert spec.base_dir is not None
    with run.timed("load"):
        model, tokenizer = load_base(spec.base_dir, device)
        if spec.adapter_dir is not None:
            model = load_adapter(model, spec.adapter_dir)
        model.eval()
    spec.output_dir.mkdir(parents=True, exist_ok=True)
    (path,) = spec.data.validation
    total = int(spec.hyperparameters["count"])
    done = 0
    with (
        run.timed("eval", answers=total),
        torch.inference_mode(),
        (spec.output_dir / OUTPUT).open("w", encoding="utf-8") as target,
    ):
        rows = _pairs(path, tokenizer, context_length(model))
        while window := list(islice(rows, WINDOW)):
            found: dict[int, tuple[float, int]] = {}
            order = sorted(range(len(window)), key=lambda at: len(window[at][0]) + len(window[at][1]))
            for start in range(0, len(order), AT_ONCE):
                if run.stop_reason:
                    raise Stopped(run.stop_reason, done)
                places = order[start : start + AT_ONCE]
                found |= zip(places, losses(model, tokenizer, [window[at] for at in places]), strict=True)
                done += len(places)
                run.progress(done, total)
            for at in range(len(window)):
                loss, tokens = found[at]
                target.write(json.dumps({"loss": loss, "tokens": tokens}) + "\n")
    return Result(str(spec.output_dir), 0, {"answers": done})


def _pairs(path: Path, tokenizer: PreTrainedTokenizerBase, context: int) -> Iterator[Pair]:
    """(ids of the prompt, ids of the answer with its end) of each line; what does not fit is cut as a chat's is."""
    with path.open(encoding="utf-8") as source:
        for line in source:
            row = json.loads(line)
            turns = tuple(Message(one["role"], one["content"]) for one in row["messages"])
            answer = [*encode_text(tokenizer, row["reference"]), tokenizer.eos_token_id][: context // 2]
            yield encode_prompt(tokenizer, turns, context - len(answer)), answer


def losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> list[tuple[float, int]]:
    """(sum of the cross-entropy in nats, tokens) of each answer."""
    device = next(model.parameters()).device
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), longest), tokenizer.pad_token_id, dtype=torch.long)
    counted = torch.zeros((len(pairs), longest), dtype=torch.bool)
    for place, (prompt, answer) in enumerate(pairs):
        whole = prompt + answer
        ids[place, : len(whole)] = torch.tensor(whole)
        counted[place, len(prompt) : len(whole)] = True
    ids, counted = ids.to(device), counted[:, 1:].to(device)
    # Right padding needs no mask under causal attention.
    logits = model(input_ids=ids).logits[:, :-1].float()
    each = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    sums = (each * counted).double().sum(1).tolist()
    return [(float(total), len(answer)) for total, (_, answer) in zip(sums, pairs, strict=True)]
