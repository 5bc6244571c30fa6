"""Random models of real shapes on a device, and the engine over one of them, with nothing of the platform around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from services.inference.engine.codec import Codec
from services.inference.engine.events import Failed, Finished
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request, Sampling
from services.inference.engine.runner import ModelRunner
from services.inference.engine.runtime import Runtime

_ENDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHAPES: dict[str, Any] = {
    "llama3-8b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        **_ENDS,
    ),
    "qwen3-0.6b": Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        **_ENDS,
    ),
    "tiny": LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        **_ENDS,
    ),
}


def build(shape: str, device: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        # Its configuration is changed with the model.
        model = AutoModelForCausalLM.from_config(
            deepcopy(SHAPES[shape]), dtype=dtype, attn_implementation="sdpa"
        )
    return model.eval()


def prompts(number: int, length: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (number, length), generator=generator).tolist()


@dataclass(frozen=True)
class Lap:
    """What a run took: `seconds` of all, `steps` of those alone in which every row was one token of an answer."""

    tokens: int
    seconds: float
    steps: list[float]


class Served:
    """The engine's runtime over one model, given token ids and driven step by step."""

    def __init__(self, model: Any, config: EngineConfig) -> None:
        self.runner = ModelRunner(model, config)
        self._runtime = Runtime(self.runner, Codec(None, 0, frozenset(), None), config, time.monotonic)
        self._order = count()

    def run(self, texts: Sequence[Sequence[int]], tokens: int) -> tuple[Lap, list[list[int]]]:
        """Answer all of them greedily, `tokens` each; nothing is found in the cache of an earlier run."""
        sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        tenant = str(time.perf_counter_ns())
        for place, text in enumerate(texts):
            request = Request(
                str(place),
                ModelRef("model", ""),
                tenant=tenant,
                priority=Priority.BATCH,
                prompt_ids=tuple(text),
                sampling=sampling,
                stream=False,
            )
            self._runtime.submit(
                request, order=next(self._order), seed=place, received=time.monotonic(), received_ns=0
            )
        answers: dict[int, list[int]] = {}
        steps: list[float] = []
        started = time.perf_counter()
        while not self._runtime.idle:
            prompt_tokens = self._runtime.prompt_tokens
            began = time.perf_counter()
            events = self._runtime.step()
            if self._runtime.prompt_tokens == prompt_tokens:
                steps.append(time.perf_counter() - began)
            for event in events:
                if isinstance(event, Failed):
                    raise RuntimeError(f"a request failed: {event.message}")
                if isinstance(event, Finished):
                    answers[int(event.request_id)] = list(event.token_ids)
        seconds = time.perf_counter() - started
        found = [answers[place] for place in range(len(texts))]
        return Lap(sum(map(len, found)), seconds, steps), found
