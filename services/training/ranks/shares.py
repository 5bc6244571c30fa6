"""A model that several processes will share: the first loads it, the others have its outline until it is sharded.

So that eight processes hold a large model once, and not eight times. Knows no trainer.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.training import world
from services.training.spec import Spec
from services.training.start import load_start, outline_start
from shared.errors import HeliuError


def load_once(
    spec: Spec, device: torch.device, *, merge: bool, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What `load_start` returns where one process trains. Of several the first has it on the CPU, and the others
    an outline without weights; each has all of it where the model cannot be handed out.

    Raises InvalidInput `invalid_model`.
    """
    if world.size() == 1:
        return load_start(spec, device, merge=merge, **options)
    world.join(device)
    # It goes to the GPUs in pieces, so that it need not fit into one.
    options = {"dtype": torch.float32 if device.type == "cpu" else "auto"} | options
    whole = (spec, torch.device("cpu"))
    if world.rank() > 0:
        model, tokenizer = outline_start(spec)
        return (model, tokenizer) if handed_out(model) else load_start(*whole, merge=merge, **options)
    return load_start(*whole, merge=merge, **options)


def handed_out(model: PreTrainedModel) -> bool:
    """Whether the first process can hand out all that the model is: accelerate hands out parameters, no buffers."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return parameters == set(model.state_dict())


def held(model: PreTrainedModel) -> dict[str, int]:
    """How many parameters the model has, and in how many bytes this process holds them."""
    here = (p for p in model.parameters() if not p.is_meta)
    return {
        "parameters": model.num_parameters(),
        "weights_bytes": sum(p.numel() * p.element_size() for p in here),
    }


def settle(model: Any) -> None:
    """Make an outline ready to be sharded: types as the first process has them, and a place for each parameter that
    is trained, since accelerate tells those of an optimizer apart by where they are. A place takes no memory until
    something is written there."""
    if world.size() == 1:
        return
    first = world.told({name: _kind(parameter) for name, parameter in model.named_parameters()})
    if world.rank() == 0:
        return
    mine = dict(model.named_parameters())
    if {name: _kind(one)[:2] for name, one in mine.items()} != {name: one[:2] for name, one in first.items()}:
        raise HeliuError(f"process {world.rank() + 1} has made another model than the first of its run")
    for name, parameter in mine.items():
        parameter.data = parameter.data.to(first[name][2])
    places: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.requires_grad or not parameter.is_meta:
                continue
            if id(parameter) not in places:
                places[id(parameter)] = torch.nn.Parameter(torch.empty_like(parameter, device="cpu"))
            module._parameters[name] = places[id(parameter)]


def _kind(parameter: torch.nn.Parameter) -> tuple[tuple[int, ...], bool, torch.dtype]:
    return tuple(parameter.shape), parameter.requires_grad, parameter.dtype
