"""What the engine is held against: transformers and PEFT, used as they are meant to be. Each gives tokens a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

BATCH = 16
PIECE = 1_024
PAD = 0


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_adapters(folder: Path, adapters: Sequence[Path]) -> Any:
    model = PeftModel.from_pretrained(load(folder), adapters[0], adapter_name="a0")
    for number, path in enumerate(adapters[1:], 1):
        model.load_adapter(path, adapter_name=f"a{number}")
    return model.eval()


# As much as the engine has.
ROOM = ContinuousBatchingConfig(num_blocks=256, page_size=32, max_batch_tokens=512)


def continuous(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    room: ContinuousBatchingConfig | None = None,
) -> float:
    """transformers' continuous batching, with `room` or as it comes."""
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=PAD)
    started = time.perf_counter()
    answers = model.generate_batch(
        [list(prompt) for prompt in prompts],
        generation_config=config,
        continuous_batching_config=room,
        warmup=False,
    )
    seconds = time.perf_counter() - started
    made = sum(len(answer.generated_tokens) for answer in answers.values())
    if made != tokens * len(prompts):
        raise RuntimeError(f"continuous batching made {made} tokens of {tokens * len(prompts)}")
    return made / seconds


@torch.inference_mode()
def static(
    model: Any, prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch: int = BATCH, **options: Any
) -> float:
    """`generate` in batches of `batch`, left-padded; each runs as long as its longest answer, as a batch must."""
    started = time.perf_counter()
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        longest = max(map(len, some))
        ids = torch.full((len(some), longest), PAD)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(some):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(lengths[start : start + batch]),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=PAD,
            **{name: value[start : start + batch] for name, value in options.items()},
        )
    return sum(lengths) / (time.perf_counter() - started)


def peft(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """`generate` of PEFT with an adapter for each row."""
    names = list(model.peft_config)
    rows = [names[index % len(names)] for index in range(len(prompts))]
    return static(model, prompts, [tokens] * len(prompts), len(prompts), adapter_names=rows)


@torch.inference_mode()
def matmuls(model: Any, rows: int, steps: int, prompt: int) -> float:
    """The model's matrix products for `rows` prompts of `prompt` tokens and `steps` decode steps, and nothing else.

    Prompts go through in pieces of PIECE tokens; of them only the last has logits, as everywhere.
    """
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    counts = [*[PIECE] * (rows * prompt // PIECE), rows * prompt % PIECE, *[rows] * steps]
    inputs = {
        (count, size): torch.randn(count, size)
        for count in set(counts)
        for size in {layer.in_features for layer in layers}
    }

    def run(counts: Sequence[int]) -> float:
        started = time.perf_counter()
        for number, count in enumerate(counts):
            for layer in layers:
                if layer is not head or number >= len(counts) - steps:
                    layer(inputs[count, layer.in_features])
        return time.perf_counter() - started

    run(counts[-1:])
    return rows * steps / run(counts)
