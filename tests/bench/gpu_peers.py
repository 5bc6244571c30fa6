"""transformers' `generate` and continuous batching on a device, as they come. Each gives tokens a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

PAD = 0


@torch.inference_mode()
def generate(
    model: Any, texts: Sequence[Sequence[int]], tokens: int, batch: int
) -> tuple[float, list[list[int]]]:
    """In batches of texts of one length: its best case, without any padding."""
    answers: list[list[int]] = []
    started = time.perf_counter()
    for start in range(0, len(texts), batch):
        ids = torch.tensor(texts[start : start + batch], device=model.device)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=PAD,
        )
        answers += out[:, ids.shape[1] :].tolist()
    return tokens * len(texts) / (time.perf_counter() - started), answers


def continuous(model: Any, texts: Sequence[Sequence[int]], tokens: int, room: dict[str, Any]) -> float:
    """`generate_batch`, twice: the first time it compiles and records, which does not count."""
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=PAD)
    for some in (texts[:2], texts):
        started = time.perf_counter()
        answers = model.generate_batch(
            [list(text) for text in some],
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(**room),
        )
        seconds = time.perf_counter() - started
    made = sum(len(answer.generated_tokens) for answer in answers.values())
    if made != tokens * len(texts):
        raise RuntimeError(f"continuous batching made {made} tokens of {tokens * len(texts)}")
    return made / seconds
