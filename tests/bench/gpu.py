"""`python -m tests.bench.gpu`: the engine on one GPU against the card's own limits and against transformers.

Needs torch and transformers alone (Triton comes with torch for CUDA), no network and no platform: models are random,
of real shapes. First it checks that the card computes what it should. `--json FILE` writes the figures, in the same
form as `python -m tests.bench`; `--quick` proves in seconds that the script runs, on a CPU too. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from services.inference.engine.paged_decode import Decodes, decode
from services.inference.engine.request import EngineConfig
from tests.bench import gpu_check, gpu_model, gpu_peers, gpu_training
from tests.bench.figures import Figure, write
from tests.bench.gpu_limits import Limits, Needs, seconds_of


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    requests: int
    slots: int
    prompt: int
    answer: int
    rows: int
    context: int
    decoded: int
    sequences: int
    packed: int


FULL = Size(
    requests=256,
    slots=128,
    prompt=256,
    answer=256,
    rows=64,
    context=1024,
    decoded=128,
    sequences=192,
    packed=8192,
)
QUICK = Size(requests=6, slots=4, prompt=24, answer=6, rows=4, context=64, decoded=6, sequences=24, packed=96)


class Bench:
    """One model's shape on one device, and what is known of both."""

    def __init__(self, name: str, device: str, dtype: str, size: Size, limits: Limits) -> None:
        self.name, self.device, self.dtype, self.size, self.limits = name, device, dtype, size, limits
        self.config = gpu_model.SHAPES[name]
        self.needs = Needs.of(self.model())

    def model(self) -> Any:
        """A fresh one: the engine changes what it takes over."""
        self.free()
        return gpu_model.build(self.name, self.device, getattr(torch, self.dtype))

    def served(self, slots: int, length: int) -> gpu_model.Served:
        """The engine, with a cache for `slots` sequences of `length` tokens."""
        config = EngineConfig(
            max_slots=slots,
            kv_tokens=(slots + 1) * (length + 16),
            step_tokens=4096,
            device=self.device,
            dtype=self.dtype,
            max_adapters=1,
        )
        served = gpu_model.Served(self.model(), config)
        gpu_check.check_uses_the_card(served, self.device)
        return served

    def texts(self, number: int, length: int) -> list[list[int]]:
        return gpu_model.prompts(number, length, self.config.vocab_size)

    def free(self) -> None:
        """Let the last model, its cache and its recordings go before the next is made."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def decode_one(bench: Bench) -> list[Figure]:
    """Row 1."""
    context, tokens = min(128, bench.size.context), bench.size.decoded
    lap, _ = bench.served(1, context + tokens).run(bench.texts(1, context), tokens)
    least = bench.needs.step(bench.limits, 1, context + tokens / 2)
    how = f"{tokens} tokens after {context}; good 0.70, goal 0.88"
    return [_against_limit(f"{bench.name}_decode_batch_1", 1 / median(lap.steps), 1 / least, how)]


def decode_many(bench: Bench) -> list[Figure]:
    """Row 2."""
    rows, context, tokens = bench.size.rows, bench.size.context, bench.size.decoded
    lap, _ = bench.served(rows, context + tokens).run(bench.texts(rows, context), tokens)
    least = bench.needs.step(bench.limits, rows, context + tokens / 2)
    # The last steps, when some may have ended, are not among the full ones.
    full = lap.steps[: tokens - tokens // 4]
    how = f"{rows} rows, {context} tokens of context each; good 0.55, goal 0.80"
    return [_against_limit(f"{bench.name}_decode_batch_{rows}", rows / median(full), rows / least, how)]


def mixed(bench: Bench) -> list[Figure]:
    """Rows 3 and 4: the same requests to the engine and to transformers."""
    size, needs, limits = bench.size, bench.needs, bench.limits
    texts = bench.texts(size.requests, size.prompt)
    served = bench.served(size.slots, size.prompt + size.answer)
    served.run(texts[: size.slots], 2)
    lap, _ = served.run(texts, size.answer)
    ours = lap.tokens / lap.seconds
    del served
    rounds = size.requests / size.slots
    least = needs.prefill(limits, size.requests * size.prompt) + rounds * size.answer * needs.step(
        limits, size.slots, size.prompt + size.answer / 2
    )
    shape = f"{size.requests} requests of {size.prompt} in, {size.answer} out, {size.slots} at once"
    figures = [
        _against_limit(
            f"{bench.name}_mixed", ours, size.requests * size.answer / least, f"{shape}; good 0.55, goal 0.85"
        )
    ]
    model = bench.model()
    gpu_peers.generate(model, texts[: size.slots], 2, size.slots)
    static, _ = gpu_peers.generate(model, texts, size.answer, size.slots)
    figures.append(
        Figure(
            f"{bench.name}_vs_generate",
            ours,
            "tokens/s",
            f"generate, uniform batches of {size.slots}",
            static,
            f"{shape}; its best case",
        )
    )
    bench.free()
    room = {} if bench.device == "cuda" else {"num_blocks": 64, "page_size": 32, "max_batch_tokens": 128}
    figures.append(
        Figure(
            f"{bench.name}_vs_continuous_batching",
            ours,
            "tokens/s",
            "transformers' continuous batching",
            gpu_peers.continuous(model, texts, size.answer, room),
            f"{shape}; good 3, goal 8",
        )
    )
    return figures


def kernel(bench: Bench) -> list[Figure]:
    """The decode kernel alone, over the cache of one layer; nothing of the model is used but its shape."""
    if bench.device != "cuda":
        return []
    config, size = bench.config, 16
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, rows, context = config.num_key_value_heads, bench.size.rows, 4 * bench.size.context
    count = context // size
    dtype = getattr(torch, bench.dtype)
    keys = torch.randn(rows * count + 1, heads, size, width, device="cuda").to(dtype)
    values = keys.clone()
    query = torch.randn(rows, config.num_attention_heads, width, device="cuda").to(dtype)
    given = Decodes(
        torch.full((rows,), context, device="cuda"),
        torch.arange(rows, device="cuda") * count,
        torch.randperm(rows * count, device="cuda") + 1,
    )
    seconds = seconds_of(lambda: decode(query, keys, values, given, width**-0.5, None), "cuda", 30)
    moved = keys.nbytes + values.nbytes
    how = f"{rows} rows of {context} tokens; launches included"
    return [
        Figure(
            f"{bench.name}_decode_kernel",
            moved / seconds / 1e9,
            "GB/s",
            "measured bandwidth",
            bench.limits.bandwidth / 1e9,
            how,
        )
    ]


PARTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "decode_one": decode_one,
    "decode_many": decode_many,
    "kernel": kernel,
    "mixed": mixed,
    "training": gpu_training.training,
}


def _against_limit(name: str, value: float, limit: float, how: str) -> Figure:
    return Figure(name, value, "tokens/s", "what bandwidth and products allow", limit, how)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def table(figures: list[Figure]) -> str:
    """Aligned columns; there may be nothing here to draw a finer one."""
    rows = [("name", "value", "peer value", "ratio", "unit", "peer", "how")]
    rows += [
        (f.name, f"{f.value:,.1f}", f"{f.peer_value:,.1f}", f"{f.ratio:.2f}", f.unit, f.peer, f.how)
        for f in figures
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = (1, 2, 3)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def measured(options: argparse.Namespace, device: str, figures: list[Figure]) -> None:
    """All parts of all models, onto `figures`. Raises gpu_check.Wrong before any where the card computes wrongly."""
    if device == "cuda":
        say("checking the kernels, which are compiled now: some minutes")
        say(f"{gpu_check.kernels()} cases of kernels are right")
    say(f"{gpu_check.answers(device)} answers are those of generate")
    dtype = "bfloat16" if device == "cuda" else "float32"
    limits = Limits.measured(device, getattr(torch, dtype), quick=options.quick)
    say(f"limits: {limits.bandwidth / 1e9:,.0f} GB/s, {limits.flops / 1e12:,.1f} TFLOP/s in {dtype}")
    for name in ["tiny"] if options.quick else options.model or ["qwen3-0.6b", "llama3-8b"]:
        bench = Bench(name, device, dtype, QUICK if options.quick else FULL, limits)
        for part, run in PARTS.items():
            if options.only and part not in options.only:
                continue
            began = time.monotonic()
            figures += run(bench)
            say(f"{name} {part}: {time.monotonic() - began:.0f} s")
        bench.free()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="a tiny model: the figures mean nothing")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--model", action="append", choices=list(gpu_model.SHAPES), help="default: all but tiny"
    )
    options = parser.parse_args()
    if options.quick:
        torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        parser.error("torch sees no GPU here; --quick runs on a CPU")
    warnings.simplefilter("ignore")
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    figures: list[Figure] = []
    try:
        measured(options, device, figures)
    except gpu_check.Wrong as wrong:
        say(f"WRONG: {wrong}")
        return 1
    finally:
        # What was measured before one failed is still worth a look.
        print(table(figures))
    card = torch.cuda.get_device_name() if device == "cuda" else "a CPU"
    print(
        f"on {card}, torch {torch.__version__}"
        + ("; quick: the figures mean nothing" if options.quick else "")
    )
    if options.json:
        write(figures, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
