"""`python -m tests.bench.generation FOLDER [--quick]`: the engine against its peers, in one process, as JSON figures.

FOLDER is a model of `make_model`. Peers are transformers' `generate` and continuous batching and PEFT's mixed batches,
on the same model, prompts and cores, in turns. It runs with nothing of the platform around it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from services.inference.engine.engine import Engine
from services.inference.engine.events import Finished, TokenDelta
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request, Sampling
from shared.contracts.structured import json_schema
from tests.bench import make_model, peers
from tests.unit.inference.tiny_models import prompts, save_adapter

SLOTS = 64
GREEDY = Sampling(temperature=0.0, ignore_eos=True)
Prompts = Sequence[Sequence[int]]
FORM = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "good": {"type": "boolean"}},
        "required": ["name", "count", "good"],
        "additionalProperties": False,
    },
    "minItems": 50,
}


class Bench:
    """One engine, one model, and what is measured on them."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.base = ModelRef("bench", str(folder))
        config = EngineConfig(max_slots=SLOTS, kv_tokens=32_768, max_adapters=64, step_tokens=1_024)
        self.engine = Engine(config)
        self.count = 8 if quick else 64
        self.answer = 4 if quick else 64
        self.repeats = 1 if quick else 3
        self.run(prompts(2, shortest=16, longest=17), 2)

    def requests(self, texts: Prompts, tokens: int, **options: Any) -> list[Request]:
        adapters: Sequence[ModelRef | None] = options.pop("adapters", [None])
        sampling = replace(options.pop("sampling", GREEDY), max_tokens=tokens)
        tenant = str(time.perf_counter_ns())  # nothing that an earlier run has cached is this one's
        given: dict[str, Any] = {"stream": False, "priority": Priority.BATCH, "tenant": tenant, **options}
        return [
            Request(
                str(index),
                self.base,
                adapters[index % len(adapters)],
                prompt_ids=tuple(text),
                sampling=sampling,
                **given,
            )
            for index, text in enumerate(texts)
        ]

    def run(self, texts: Prompts, tokens: int, **options: Any) -> float:
        """Tokens a second of the whole batch."""
        started = time.perf_counter()
        ends = self.engine.generate(self.requests(texts, tokens, **options))
        seconds = time.perf_counter() - started
        bad = [end for end in ends if not isinstance(end, Finished)]
        if bad:
            raise RuntimeError(f"a request failed: {bad[0]}")
        return sum(end.usage.completion_tokens for end in ends if isinstance(end, Finished)) / seconds

    def in_turns(self, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
        """Medians of both, measured one after the other: whatever else the machine does falls on both."""
        pairs = [(ours(), theirs()) for _ in range(self.repeats)]
        return median(a for a, _ in pairs), median(b for _, b in pairs)


def figure(name: str, pair: tuple[float, float], unit: str, peer: str, how: str) -> dict[str, Any]:
    return {"name": name, "value": pair[0], "unit": unit, "peer": peer, "peer_value": pair[1], "how": how}


def against_peers(bench: Bench) -> list[dict[str, Any]]:
    mixed = prompts(bench.count, shortest=16, longest=63, seed=1)
    uniform = prompts(bench.count, shortest=40, longest=40, seed=2)
    model = peers.load(bench.folder)
    # Continuous batching changes its model.
    peer, by_defaults = peers.load(bench.folder), peers.load(bench.folder)
    shape = f"{bench.count} prompts of 16 to 63 tokens, {bench.answer} tokens each, fp32"

    def pair(texts: Prompts, other: Callable[[], float]) -> tuple[float, float]:
        return bench.in_turns(partial(bench.run, texts, bench.answer), other)

    lengths = [bench.answer // 4 + (index * 37) % bench.answer for index in range(bench.count)]
    return [
        figure(
            "engine_vs_continuous_batching",
            pair(mixed, partial(peers.continuous, peer, mixed, bench.answer, peers.ROOM)),
            "tokens/s",
            "transformers' continuous batching, as much room",
            f"{shape}; floor 5, goal 8",
        ),
        figure(
            "engine_vs_continuous_batching_as_it_comes",
            pair(mixed, partial(peers.continuous, by_defaults, mixed, bench.answer)),
            "tokens/s",
            "transformers' continuous batching, its defaults",
            shape,
        ),
        figure(
            "engine_vs_generate_mixed",
            bench.in_turns(
                partial(mixed_answers, bench, mixed, lengths), partial(peers.static, model, mixed, lengths)
            ),
            "tokens/s",
            "generate, static batches of 16",
            f"{bench.count} prompts of 16 to 63 tokens, {min(lengths)} to {max(lengths)} tokens of answer; "
            "floor 1.5, goal 2.5",
        ),
        figure(
            "engine_vs_generate_uniform",
            pair(uniform, partial(peers.static, model, uniform, [bench.answer] * bench.count, bench.count)),
            "tokens/s",
            "generate, one uniform batch",
            f"its own best case: {bench.count} prompts of 40 tokens, {bench.answer} each; floor 1",
        ),
        figure(
            "engine_vs_matmuls",
            pair(uniform, partial(peers.matmuls, model, bench.count, bench.answer, len(uniform[0]))),
            "tokens/s",
            "the model's own matrix products alone",
            f"as many prompt tokens and steps of {bench.count} rows through its linear layers and nothing else; "
            "floor 0.35, goal 0.60",
        ),
    ]


def mixed_answers(bench: Bench, texts: Prompts, lengths: Sequence[int]) -> float:
    asked = [
        replace(request, sampling=replace(request.sampling, max_tokens=length))
        for request, length in zip(bench.requests(texts, 1), lengths, strict=True)
    ]
    started = time.perf_counter()
    ends = bench.engine.generate(asked)
    seconds = time.perf_counter() - started
    return sum(end.usage.completion_tokens for end in ends if isinstance(end, Finished)) / seconds


def adapters(narrow: Bench) -> list[dict[str, Any]]:
    """On a wider model: on a narrow one eight adapters of rank 16 have as many weights as the base itself."""
    many, hidden = (4, 64) if narrow.quick else (64, 1024)
    with TemporaryDirectory(prefix="heliu-adapters-") as folder:
        base = Path(folder) / "base"
        make_model.make(base, 2, hidden)
        bench = Bench(base, quick=narrow.quick)
        texts = prompts(bench.count, shortest=16, longest=63, seed=3)
        paths = [
            save_adapter(Path(folder) / str(n), base, "qwen2", seed=n, r=16, lora_alpha=32)
            for n in range(many)
        ]
        refs = [ModelRef(f"a{n}", str(path)) for n, path in enumerate(paths)]
        bench.run(texts, 1, adapters=refs)  # load them
        eight = bench.in_turns(
            partial(bench.run, texts, bench.answer, adapters=refs[:8]),
            partial(bench.run, texts, bench.answer),
        )
        model = peers.load_adapters(base, paths)
        mixed = bench.in_turns(
            partial(bench.run, texts, bench.answer, adapters=refs),
            partial(peers.peft, model, texts, bench.answer),
        )
        bench.engine.close()
    shape = f"hidden size {hidden}, 2 layers, {bench.count} prompts of 16 to 63 tokens, rank 16 on all linear layers"
    return [
        figure("adapters_8_vs_base", eight, "tokens/s", "no adapter", f"{shape}; floor 0.85, goal 0.93"),
        figure(
            "adapters_many_vs_peft",
            mixed,
            "tokens/s",
            "PEFT's mixed batch",
            f"{many} of them, {bench.answer} tokens each; floor 5, goal 10",
        ),
    ]


def grammar(bench: Bench) -> list[dict[str, Any]]:
    texts = prompts(bench.count, shortest=16, longest=63, seed=4)
    shaped = replace(GREEDY, grammar=json_schema(FORM, "schema"))
    pair = bench.in_turns(
        partial(bench.run, texts, bench.answer, sampling=shaped), partial(bench.run, texts, bench.answer)
    )
    return [
        figure(
            "grammar_on_vs_off", pair, "tokens/s", "no grammar", "a JSON schema each; floor 0.90, goal 0.98"
        )
    ]


def streaming(bench: Bench) -> list[dict[str, Any]]:
    texts = prompts(bench.count, shortest=16, longest=63, seed=5)
    pair = bench.in_turns(
        partial(bench.run, texts, bench.answer, stream=True), partial(bench.run, texts, bench.answer)
    )
    return [
        figure(
            "streaming_on_vs_off", pair, "tokens/s", "not streamed", "text decoded as it comes; floor 0.95"
        )
    ]


def prefix(bench: Bench) -> list[dict[str, Any]]:
    """First token of a prompt that begins with what was asked before."""
    length = 64 if bench.quick else 4096
    shared = prompts(1, shortest=length, longest=length, seed=6)[0]

    def first_token(tenant: str, last: int) -> float:
        request = replace(bench.requests([[*shared, last]], 1)[0], tenant=tenant)
        started = time.perf_counter()
        bench.engine.generate([request])
        return (time.perf_counter() - started) * 1000

    cold, warm = [], []
    for turn in range(bench.repeats):
        cold.append(first_token(f"prefix {turn}", 5))
        warm.append(first_token(f"prefix {turn}", 6))
    return [
        figure(
            "first_token_prefix_cold_vs_warm",
            (median(cold), median(warm)),
            "ms",
            "prefix in the cache",
            f"a prefix of {length} tokens; the ratio is how much sooner; floor 5, goal 10",
        )
    ]


def smoothness(bench: Bench) -> list[dict[str, Any]]:
    """Gaps between the tokens of 16 streams while long prompts keep arriving."""
    streams = prompts(16, shortest=16, longest=40, seed=7)
    arriving = prompts(16, shortest=200, longest=300, seed=8)
    tokens = 8 if bench.quick else 128
    engine, gaps, last = bench.engine, [], dict[str, float]()
    for request in bench.requests(streams, tokens, stream=True, priority=Priority.LIVE):
        engine.add(replace(request, id=f"stream {request.id}"))
    waiting = bench.requests(arriving, 4)
    steps = 0
    while engine.has_work:
        if waiting and steps % 8 == 4:
            request = waiting.pop()
            engine.add(replace(request, id=f"late {request.id}"))
        events, now = engine.step(), time.perf_counter()
        steps += 1
        for event in events:
            # The last piece of a text may come without a token of its own.
            if isinstance(event, TokenDelta) and event.tokens and event.request_id.startswith("stream"):
                if event.request_id in last:
                    gaps.append((now - last[event.request_id]) * 1000 / event.tokens)
                last[event.request_id] = now
    gaps.sort()
    pair = gaps[int(0.99 * (len(gaps) - 1))], median(gaps)
    how = "16 streams while prompts of 200 to 300 tokens arrive; the ratio is p99 over p50; 3 is good, goal 2"
    return [figure("inter_token_p99_vs_p50", pair, "ms", "the median", how)]


PARTS: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "peers": against_peers,
    "adapters": adapters,
    "grammar": grammar,
    "streaming": streaming,
    "prefix": prefix,
    "smoothness": smoothness,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.generation", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=PARTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    bench = Bench(options.folder, quick=options.quick)
    figures = []
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        began = time.monotonic()
        figures += part(bench)
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
    bench.engine.close()
    json.dump(figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
