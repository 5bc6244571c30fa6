"""What the machine under a run can do, as far as choices depend on it."""

from __future__ import annotations

import shutil

import psutil
import torch
from transformers import PreTrainedModel

from services.training import world
from services.training.tuning.choices import Machine, Shape

# Other processes work on a CPU's memory, too, and allocators fragment a GPU's.
_OF_RAM, _OF_GPU = 0.5, 0.85
# AdamW: the gradient and two running means of each number that is trained, in float32.
_TRAINED_BYTES = 12


def this_machine(device: torch.device, trainable: int, model: PreTrainedModel) -> Machine:
    """Once the model is loaded: what of its memory is left for activations, and what it computes."""
    processes = world.size()
    trained = trainable * _TRAINED_BYTES / processes
    if device.type == "cuda":
        free = torch.cuda.mem_get_info()[0] * _OF_GPU
        if processes > 1:
            # Each GPU has yet to get its share.
            free -= sum(p.numel() * p.element_size() for p in model.parameters()) / processes
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        free, bf16 = psutil.virtual_memory().available * _OF_RAM / processes, False
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    return Machine(device.type, bf16, max(1.0, free - trained), compiler, processes)


def shape_of(model: PreTrainedModel) -> Shape:
    config = model.config.get_text_config()
    hidden = int(config.hidden_size)
    return Shape(
        int(config.num_hidden_layers), hidden, int(getattr(config, "intermediate_size", None) or 4 * hidden)
    )
