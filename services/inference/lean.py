"""What the engine's process does without, so that it is there sooner. Knows no engine.

Of five processor seconds that its imports took, three were for what it never uses: the compiler, which transformers
loads only to mark functions for it, parallel training, and packages that other parts of the library ask for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch
import torch.compiler
import torch.distributed

# The library looks whether these are installed, and loads them if they are.
NEEDLESS = ("accelerate", "peft", "scipy", "sklearn")
_COMPILER = "torch._dynamo"


def leave_out() -> None:
    """Call it once, before transformers is imported, in a process that neither compiles, distributes nor trains.

    A package left out cannot be imported there any more; the compiler still is, by whoever asks for more of it than
    its marks.
    """
    for name in NEEDLESS:
        # So the import system itself says that there is no such package.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # as the language's reference has it
    torch.distributed.is_available = lambda: False
    if _COMPILER not in sys.modules:
        marks = sys.modules[_COMPILER] = _Marks(_COMPILER)
        # One small module of the compiler's is asked for by every model, and does without the rest of it.
        marks.__path__ = [f"{folder}/_dynamo" for folder in torch.__path__]


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A mark for the compiler, which nobody will read: with a function or, as a decorator's maker, without."""
    return function if function is not None else _unmarked


class _Marks(ModuleType):
    """Stands for the compiler's module as long as nothing but its marks is asked for."""

    disable = staticmethod(_unmarked)
    allow_in_graph = staticmethod(_unmarked)
    disallow_in_graph = staticmethod(_unmarked)
    assume_constant_result = staticmethod(_unmarked)

    def __getattr__(self, name: str) -> Any:
        if name in ("__spec__", "__file__"):
            # What the import system and `inspect` look at in passing.
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)
