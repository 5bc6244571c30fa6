"""`python -m tests.bench.bare_engine`: the engine called directly, in a process of its own, with no platform around.

The first frame names the model and the engine's room; each later one holds `rows` (texts) and `max_tokens`, and is
answered with the seconds that `Engine.generate` took and the tokens that it gave.
"""

from __future__ import annotations

import os
import sys
import time

from services.inference.engine.engine import Engine
from services.inference.engine.events import Failed
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request, Sampling
from shared.frames import Frame, claim_stdout, read_frames


def generate(engine: Engine, base: ModelRef, frame: Frame) -> Frame:
    sampling = Sampling(max_tokens=frame["max_tokens"], temperature=0.0)
    started = time.perf_counter()
    ends = engine.generate(
        Request(
            id=str(index),
            base=base,
            priority=Priority.BATCH,
            messages=({"role": "user", "content": text},),
            sampling=sampling,
            stream=False,
        )
        for index, text in enumerate(frame["rows"])
    )
    seconds = time.perf_counter() - started
    tokens = 0
    for end in ends:
        if isinstance(end, Failed):
            raise RuntimeError(f"row {end.request_id} failed: {end.message}")
        tokens += end.usage.completion_tokens
    return {"seconds": seconds, "tokens": tokens}


def main() -> int:
    write = claim_stdout()
    frames = read_frames(sys.stdin.buffer)
    opened = next(frames)
    engine = Engine(EngineConfig(max_slots=opened["slots"], kv_tokens=opened["kv_tokens"]))
    base = ModelRef("bench-base", opened["model"])
    generate(engine, base, {"rows": ["hello"], "max_tokens": 2})
    write({"ready": True})
    for frame in frames:
        write(generate(engine, base, frame))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
