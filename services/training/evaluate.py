"""Scores a model on the answers of held-out conversations: greedy answers against references, and their loss.

Base and tuned model (`base_dir`, with `adapter_dir`) are asked the same questions in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.training.dataset import Message, conversations, read_rows
from services.training.hyperparameters import EvaluateHyperparameters, parse
from services.training.metrics import exact_match, token_f1
from services.training.model_folder import (
    context_length,
    end_token_ids,
    load_adapter,
    load_base,
    prepare_torch,
)
from services.training.run import Result, Run, Stopped
from services.training.spec import Spec
from services.training.tokenizer import encode_prompt, encode_text
from shared.errors import InvalidInput

SHOWN_SAMPLES = 10
_LONGEST_ANSWER = 256


@dataclass(frozen=True)
class Question:
    """A held-out conversation up to one answer: the prompt's ids, the reference answer and its ids with end."""

    turns: tuple[Message, ...]
    reference: str
    prompt: list[int]
    answer: list[int]


def run(spec: Spec, run: Run) -> Result:
    """Answer a seeded sample of the validation split; `data["score"]` is the mean token F1.

    Raises InvalidInput on bad data, model or hyperparameters; Stopped between batches (nothing is kept).
    """
    wanted = parse(EvaluateHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    assert spec.base_dir is not None
    with run.timed("load") as seen:
        model, tokenizer = load_base(spec.base_dir, device)
        if spec.adapter_dir is not None:
            model = load_adapter(model, spec.adapter_dir)
        model.eval()
        picked = _sample(spec, wanted.limit)
        seen["answers"] = len(picked)
    with run.timed("tokenise"):
        questions, most = _questions(tokenizer, picked, context_length(model), wanted.max_new_tokens)
    run.event(f"evaluating {len(questions)} held-out answers, at most {most} new tokens each")

    answers: list[str] = []
    loss, right, count = 0.0, 0, 0
    # Like lengths together: less padding, and the same groups for every model with this tokenizer.
    questions.sort(key=lambda q: len(q.prompt))
    with run.timed("eval", answers=len(questions)), torch.inference_mode():
        for start in range(0, len(questions), wanted.batch_size):
            if run.stop_reason:
                raise Stopped(run.stop_reason, start)
            batch = questions[start : start + wanted.batch_size]
            answers += _generate(model, tokenizer, batch, most)
            part, hits, number = _reference_loss(model, tokenizer, batch)
            loss, right, count = loss + part, right + hits, count + number
            run.progress(start + len(batch), len(questions))
    f1 = [token_f1(a, q.reference) for a, q in zip(answers, questions, strict=True)]
    exact = [exact_match(a, q.reference) for a, q in zip(answers, questions, strict=True)]
    data = {
        "score": float(np.mean(f1)),
        "token_f1": float(np.mean(f1)),
        "exact_match": float(np.mean(exact)),
        "loss": loss / count,
        "token_accuracy": right / count,
        "n": len(questions),
        "samples": _shown(questions, answers, spec.seed),
    }
    return Result(str(spec.output_dir), 0, data)


def _sample(spec: Spec, limit: int) -> list[tuple[Message, ...]]:
    """A seeded sample of all held-out answers, in file order: each a conversation cut after that answer."""
    rows = read_rows(spec.data.validation, "validation", "validation_file")
    everything = [turns for _, turns in conversations(rows, "validation_file")]
    if not everything:
        raise InvalidInput(
            "the validation split is empty", code="invalid_training_file", param="validation_file"
        )
    cuts = [t[: i + 1] for t in everything for i, m in enumerate(t) if i > 0 and m.role == "assistant"]
    if not cuts:
        raise InvalidInput(
            "no held-out conversation has a question before its answer",
            code="invalid_training_file",
            param="validation_file",
        )
    kept = sorted(np.random.default_rng(spec.seed).permutation(len(cuts))[:limit].tolist())
    return [cuts[index] for index in kept]


def _questions(
    tokenizer: PreTrainedTokenizerBase, picked: Sequence[tuple[Message, ...]], context: int, limit: int | None
) -> tuple[list[Question], int]:
    """The questions and the bound on new tokens: by the longest reference of the whole sample, and a little room."""
    answers = [[*encode_text(tokenizer, t[-1].content), tokenizer.eos_token_id] for t in picked]
    longest = max(len(a) for a in answers)
    most = min(limit or min(longest + longest // 4 + 4, _LONGEST_ANSWER), context // 2)
    questions = []
    for turns, answer in zip(picked, answers, strict=True):
        kept = answer[: context // 2]
        prompt = encode_prompt(tokenizer, turns[:-1], context - max(most, len(kept)))
        questions.append(Question(turns[:-1], turns[-1].content, prompt, kept))
    return questions, most


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Question], most: int
) -> list[str]:
    device = next(model.parameters()).device
    longest = max(len(q.prompt) for q in batch)
    ids = torch.full((len(batch), longest), tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, question in enumerate(batch):
        ids[place, longest - len(question.prompt) :] = torch.tensor(question.prompt)
        mask[place, longest - len(question.prompt) :] = 1
    out = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=most,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=end_token_ids(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in out[:, longest:]]


def _reference_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Question]
) -> tuple[float, int, int]:
    """Sum of the cross-entropy over the reference answers (their end included), tokens right, tokens."""
    device = next(model.parameters()).device
    longest = max(len(q.prompt) + len(q.answer) for q in batch)
    ids = torch.full((len(batch), longest), tokenizer.pad_token_id, dtype=torch.long)
    learned = torch.zeros((len(batch), longest), dtype=torch.bool)
    for place, question in enumerate(batch):
        whole = question.prompt + question.answer
        ids[place, : len(whole)] = torch.tensor(whole)
        learned[place, len(question.prompt) : len(whole)] = True
    ids, learned = ids.to(device), learned[:, 1:].to(device)
    # Right padding needs no mask under causal attention.
    logits = model(input_ids=ids).logits[:, :-1][learned].float()
    targets = ids[:, 1:][learned]
    loss = F.cross_entropy(logits, targets, reduction="sum").item()
    return loss, int((logits.argmax(-1) == targets).sum()), int(targets.numel())


def _shown(questions: Sequence[Question], answers: Sequence[str], seed: int) -> list[dict[str, Any]]:
    picked = np.random.default_rng(seed).permutation(len(questions))[:SHOWN_SAMPLES]
    return [
        {
            "prompt": [m.as_dict() for m in questions[i].turns],
            "reference": questions[i].reference,
            "answer": answers[i],
        }
        for i in picked
    ]
