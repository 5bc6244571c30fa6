"""Vectors of many texts by one engine: a few hundred at once, and a text that is too long cut until it fits.

Knows no SQL and no queue.
"""

from __future__ import annotations

import base64
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.inference import vectors
from services.inference.choices import index_of
from services.inference.engine_process import Call, EngineCrashed, EngineProcess
from services.inference.shard import Asked
from shared.contracts.inference import Embedding
from shared.errors import HeliuError
from shared.frames import Frame
from shared.stop import ChildCrashed, Stopped

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Texts that the engine has at once: enough to sort by length, few enough to be given up in a moment.
AT_ONCE = 256
TOO_LONG = "context_length_exceeded"
_SHORTEST = 8


@dataclass(frozen=True)
class Embedded:
    """`vectors` (texts, width) in the order of the texts; `cut` texts were longer than the model takes."""

    vectors: npt.NDArray[np.float32]
    tokens: int
    cut: int


class EmbedRun:
    """One attempt at the texts of a job."""

    def __init__(self, engine: EngineProcess, name: str, encoder: bool, common: Mapping[str, Any]) -> None:
        self._engine = engine
        self._name = name
        self._encoder = encoder
        self._common = common
        self._tokens = 0
        self._cut: set[int] = set()

    def embed(self, texts: Sequence[str], ctx: Asked, on_done: Callable[[int], None]) -> Embedded:
        """`on_done` hears how many have a vector. Raises Stopped when asked to, ChildCrashed when the engine died,
        HeliuError for a text that the model refuses."""
        # Here, as few workers are asked for vectors, and all of them start.
        import numpy as np

        found: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(texts), AT_ONCE):
            found += self._some(texts[start : start + AT_ONCE], start, ctx)
            on_done(len(found))
        return Embedded(np.stack(found), self._tokens, len(self._cut))

    def _some(self, texts: Sequence[str], start: int, ctx: Asked) -> list[npt.NDArray[np.float32]]:
        waiting = dict(enumerate(texts))
        import numpy as np

        made: dict[int, npt.NDArray[np.float32]] = {}
        attempt = 0
        while waiting:
            attempt += 1
            again: dict[int, str] = {}
            places = list(waiting)
            call, heard = self._submit(f"{self._name}.{start}.{attempt}", list(waiting.values()))
            for _ in places:
                frame = self._next(call, heard, ctx)
                place = places[index_of(frame["id"])]
                if frame["type"] == "done":
                    made[place] = np.frombuffer(base64.b64decode(frame["vector"]), dtype="<f4")
                    self._tokens += int(frame["usage"]["prompt_tokens"])
                elif frame["code"] == TOO_LONG and len(waiting[place]) > _SHORTEST:
                    self._cut.add(start + place)
                    again[place] = waiting[place][: len(waiting[place]) * 2 // 3]
                else:
                    call.cancel()
                    raise _failure(frame, start + place)
            waiting = again
        return [made[place] for place in range(len(texts))]

    def _submit(self, name: str, texts: list[str]) -> tuple[Call, queue.SimpleQueue[Frame]]:
        heard: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        frames = vectors.calls(name, Embedding(inputs=tuple(texts)), self._encoder, self._common)
        try:
            return self._engine.submit(frames, heard), heard
        except EngineCrashed as exc:
            raise ChildCrashed(exc.message) from exc

    def _next(self, call: Call, heard: queue.SimpleQueue[Frame], ctx: Asked) -> Frame:
        """What the engine says of the next text that ends, whichever that is."""
        while True:
            if ctx.asked.is_set():
                call.cancel()
                assert ctx.reason is not None
                raise Stopped(ctx.reason)
            try:
                frame = heard.get(timeout=0.2)
            except queue.Empty:
                continue
            if frame["type"] in ("done", "error"):
                return frame


def _failure(frame: Frame, place: int) -> Exception:
    if frame["code"] == "engine_crashed":
        return ChildCrashed(frame["message"])
    return HeliuError(
        f"text {place + 1}: {frame['message']}", code=frame["code"], retryable=frame["retryable"]
    )
