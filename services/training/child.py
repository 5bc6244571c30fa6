"""The training process: reads its spec from stdin, runs it, writes frames to stdout, dies with its worker.

Knows the pipe and nothing of what a run does. Started with `python -m services.training.child`.
"""

from __future__ import annotations

import errno
import importlib
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from services.training.run import Result, Run, Stopped
from services.training.spec import Spec, parse_spec
from shared.errors import HeliuError
from shared.frames import Frame, FrameWriter, claim_stdout, read_frames

EXIT_DONE, EXIT_FAILED, EXIT_ORPHANED = 0, 1, 3
# Those whose version a result may depend on; each is distributed under the name of its module.
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "numpy")
# Imported when asked for: each costs seconds (TRL up to 14), and a run needs only its own.
_RUNNERS = {
    "pretrain": "services.training.pretrain",
    "sft": "services.training.ranks.launch",
    "dpo": "services.training.ranks.launch",
    "evaluate": "services.training.evaluate",
    "likelihood": "services.training.likelihood",
    "head": "services.training.heads.run",
    "encoder": "services.training.encoders.run",
    "multi_task": "services.training.multitask.run",
}
_FIT = "services.training.fit"


def main() -> None:
    """One run from first frame to result, error or stopped frame; never returns."""
    emit = _Emitter(claim_stdout())
    frames = read_frames(sys.stdin.buffer)
    first = next(frames, None)
    if first is None:
        os._exit(EXIT_ORPHANED)
    run = Run(emit)
    signal.signal(signal.SIGTERM, lambda _number, _frame: run.request_stop("drain"))
    threading.Thread(target=_listen, args=(frames, run), name="stdin", daemon=True).start()
    code = _answer(emit, lambda: _work(first, run))
    sys.stderr.flush()
    # Not sys.exit: the reader thread sits in a read that would hold up the interpreter's shutdown.
    os._exit(code)


def _work(frame: Frame, run: Run) -> Result:
    spec = parse_spec(frame)
    _set_environment(spec)
    start: Callable[[Spec, Run], Result] = importlib.import_module(_RUNNERS[spec.kind]).run
    importlib.import_module(_FIT).watch(run)
    if run.stop_reason:
        raise Stopped(run.stop_reason, 0)
    return start(spec, run)


def _answer(emit: Callable[[Frame], None], work: Callable[[], Result]) -> int:
    try:
        result = work()
    except Stopped as stopped:
        emit({"type": "stopped", "reason": stopped.reason, "step": stopped.step})
        return EXIT_DONE
    except HeliuError as exc:
        emit(_error(exc.code, exc.message, exc.param, exc.retryable))
        return EXIT_FAILED
    except MemoryError:
        emit(
            _error(
                "out_of_memory", "out of memory; a smaller batch_size or max_length needs less", None, False
            )
        )
        return EXIT_FAILED
    except OSError as exc:
        traceback.print_exc()
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        emit(_error("disk_full" if full else "io_error", f"{type(exc).__name__}: {exc}", None, True))
        return EXIT_FAILED
    except Exception as exc:  # noqa: BLE001 - the process boundary: whatever it was, the worker must hear of it
        traceback.print_exc()
        # torch's own type, known by name because torch may never have been imported here; on a CPU it has none.
        if type(exc).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(exc):
            emit(
                _error("out_of_memory", f"{exc}; a smaller batch_size or max_length needs less", None, False)
            )
        else:
            emit(_error("internal_error", f"{type(exc).__name__}: {exc}", None, True))
        return EXIT_FAILED
    peaks = result.peaks or (importlib.import_module(_FIT).peak(),)
    emit(
        {
            "type": "result",
            "output_dir": result.output_dir,
            "trained_tokens": result.trained_tokens,
            "data": result.data,
            "libraries": result.libraries or _libraries(),
            # Together; the processes of one run may stand on one machine, or have a GPU each.
            "peak_memory_bytes": sum(peaks),
            **({"peak_memory_by_process": list(peaks)} if len(peaks) > 1 else {}),
        }
    )
    return EXIT_DONE


def _libraries() -> dict[str, str]:
    """Versions of the libraries that this run used, and of Python."""
    found = {name: version(name) for name in LIBRARIES if name in sys.modules}
    return {"python": platform.python_version(), **found}


class _Emitter:
    """Writes frames; a broken pipe means that nobody is left to work for."""

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer

    def __call__(self, frame: Frame) -> None:
        try:
            self._writer(frame)
        except BrokenPipeError:
            os._exit(EXIT_ORPHANED)


def _listen(frames: Iterator[Frame], run: Run) -> None:
    try:
        for frame in frames:
            if frame.get("op") != "stop":
                raise HeliuError(f"unknown frame on stdin: op is {frame.get('op')!r}, expected 'stop'")
            run.request_stop(str(frame.get("reason")))
    except Exception:  # noqa: BLE001 - a worker that talks nonsense is as good as gone
        traceback.print_exc()
    os._exit(EXIT_ORPHANED)


def _set_environment(spec: Spec) -> None:
    """Before torch and the Hugging Face libraries load: threads, nothing from or to the network, caches in workdir."""
    spec.workdir.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        {
            "OMP_NUM_THREADS": str(spec.threads),
            # Threads that spin at a barrier starve each other on a shared machine: 650 tokens/s instead of 3,900.
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(spec.workdir / "huggingface"),
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            # Read by cuBLAS when it starts; without it some GPU sums are not repeatable.
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }
    )


def _error(code: str, message: str, param: str | None, retryable: bool) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": message, "param": param, "retryable": retryable}


if __name__ == "__main__":
    main()
