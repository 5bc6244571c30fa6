"""The weights of a run's best look at held-out rows: what is trained, in a file beside the run and in its checkpoints.

Of several processes the first has the file, and all take part. Knows no rows and no figures.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

from services.training import world

_FILE = "best.safetensors"


class BestWeights:
    """An adapter alone, or every weight: whatever is trained."""

    def __init__(self, workdir: Path, resumed: Path | None) -> None:
        """`resumed` is the checkpoint that a run goes on from."""
        self._own = workdir / _FILE
        self._own.unlink(missing_ok=True)
        self._path = resumed / _FILE if resumed is not None and (resumed / _FILE).is_file() else None

    def take(self, model: Any) -> None:
        """Those that the model has now."""
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if world.size() > 1:
            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            held: dict[str, Any] = get_model_state_dict(model, options=options)
        else:
            held = dict(model.named_parameters())
        if world.rank() > 0:
            return
        aside = self._own.with_suffix(".writing")
        save_file({name: held[name].detach().cpu().contiguous() for name in trained}, aside)
        aside.replace(self._own)
        self._path = self._own

    def give(self, model: Any) -> None:
        """Put them back into the model."""
        found = load_file(self._path) if self._path is not None else {}
        if world.size() > 1:
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
            set_model_state_dict(model, found if world.rank() == 0 else {}, options=options)
            return
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in found:
                    parameter.copy_(found[name])

    def join(self, folder: Path) -> None:
        """Put the file into a checkpoint's folder, which never changes: a better one is another file."""
        if self._path is None:
            return
        try:
            os.link(self._path.resolve(), folder / _FILE)
        except OSError:
            # Checkpoints that are resumed from may lie on another file system.
            shutil.copyfile(self._path, folder / _FILE)
