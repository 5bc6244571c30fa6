"""LoRA adapters of one base: read from PEFT folders, several of them and none at all in the same batch.

Per layer, the adapters of a step are put side by side (true ranks, no padding): two dense products and one
0/1 mask serve every row, without a loop over adapters. Knows no request; pins tell it what must stay.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from services.inference.engine.loading import BrokenModel, check_folder, read_json
from shared.errors import HeliuError

WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight$")
# Options that change the computation beyond y = Wx + s BAx, with the values that leave it alone.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "arrow_config": (None,),
    # The others start from a base of changed weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA).
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


class UnsupportedAdapter(HeliuError):
    """The adapter needs something that is not served, or does not belong to this base."""

    code = "adapter_unsupported"


@dataclass(frozen=True)
class AdapterWeights:
    """By module name: A (rank, in) and B (out, rank) with the scaling already in B."""

    matrices: dict[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.matrices.values())


def read_adapter(path: str, *, dtype: str, device: str) -> AdapterWeights:
    """Read a PEFT LoRA folder. Raises UnsafeModel, BrokenModel or UnsupportedAdapter."""
    folder = check_folder(path)
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise UnsupportedAdapter(
            f"peft_type of {path!r} is {config.get('peft_type')!r}; only 'LORA' is served"
        )
    for name, neutral in _NEUTRAL.items():
        if name in config and config[name] not in neutral:
            raise UnsupportedAdapter(f"{name}={config[name]!r} of {path!r} is not served", param=name)
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as exc:
        raise BrokenModel(f"{WEIGHTS} of {path!r} cannot be read: {exc}", param="path") from exc
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise UnsupportedAdapter(f"tensor {key!r} of {path!r} is no LoRA matrix of a linear layer")
        if not torch.isfinite(tensor).all():
            raise BrokenModel(f"tensor {key!r} of {path!r} has values that are not finite", param="path")
        found.setdefault(match["module"], {})[match["part"]] = tensor.to(device, getattr(torch, dtype))
    matrices = {}
    for module, parts in found.items():
        if len(parts) != 2:
            raise BrokenModel(f"{module!r} of {path!r} has only lora_{next(iter(parts))}", param="path")
        matrices[module] = (parts["A"], parts["B"] * _scaling(config, module, parts["A"].shape[0]))
    return AdapterWeights(matrices)


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA (https://arxiv.org/abs/2312.03732)."""
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


@dataclass
class StepAdapters:
    """Shared by all layers of one base, and set before each forward pass: which adapter each token uses.

    `active` are the adapters of the step by name; `owner` is (T), the place in `active` or -1 for none;
    `alone` says that every token has the same adapter, so that no mask is needed.
    """

    active: tuple[str, ...] = ()
    owner: torch.Tensor | None = None
    alone: bool = False
    _masks: dict[tuple[tuple[str, int], ...], torch.Tensor] = field(default_factory=dict)

    def set(self, names: list[str | None], counts: list[int], device: torch.device) -> None:
        self._masks.clear()
        self.active = tuple(sorted({name for name in names if name is not None}))
        self.owner = None
        if self.active:
            place: dict[str | None, int] = {name: index for index, name in enumerate(self.active)}
            owners = [place.get(name, -1) for name in names]
            self.owner = torch.tensor(owners, device=device).repeat_interleave(
                torch.tensor(counts, device=device)
            )
        self.alone = len(self.active) == 1 and None not in names

    def mask(self, layout: tuple[tuple[str, int], ...], dtype: torch.dtype) -> torch.Tensor:
        """(T, columns) of 0 and 1 for columns laid out as (adapter, rank) in order."""
        if layout not in self._masks:
            assert self.owner is not None
            place = {name: index for index, name in enumerate(self.active)}
            columns = [place.get(name, -2) for name, rank in layout for _ in range(rank)]
            wanted = torch.tensor(columns, device=self.owner.device)
            self._masks[layout] = (self.owner.unsqueeze(1) == wanted).to(dtype)
        return self._masks[layout]


@dataclass(frozen=True)
class _Pack:
    """Adapters side by side: `a` (columns, in), `b` (columns, out)."""

    layout: tuple[tuple[str, int], ...]
    a: torch.Tensor
    b: torch.Tensor


class LoraLayer(nn.Module):
    """A linear layer plus the low-rank products of whichever adapters its rows use."""

    def __init__(self, base: nn.Module, step: StepAdapters) -> None:
        super().__init__()
        self.base = base
        self.step = step
        self.matrices: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pack: _Pack | None = None

    def install(self, name: str, matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.matrices[name] = matrices
        self._pack = None

    def remove(self, name: str) -> None:
        self.matrices.pop(name, None)
        self._pack = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        if not self.step.active:
            return out
        wanted = [name for name in self.step.active if name in self.matrices]
        if not wanted:
            return out
        pack = self._packed(wanted)
        hidden = torch.nn.functional.linear(x.flatten(0, -2), pack.a)
        if not (self.step.alone and len(pack.layout) == 1):
            hidden *= self.step.mask(pack.layout, hidden.dtype)
        return torch.addmm(out.flatten(0, -2), hidden, pack.b).view_as(out)

    def _packed(self, wanted: list[str]) -> _Pack:
        """The cached pack if it holds what is wanted and not much more: masked columns cost less than copying."""
        pack = self._pack
        if pack is not None:
            held = {name for name, _ in pack.layout}
            if held.issuperset(wanted) and len(held) <= 2 * len(wanted):
                return pack
        a = [self.matrices[name][0] for name in wanted]
        b = [self.matrices[name][1].t() for name in wanted]
        layout = tuple((name, matrix.shape[0]) for name, matrix in zip(wanted, a, strict=True))
        self._pack = _Pack(layout, torch.cat(a), torch.cat(b).contiguous())
        return self._pack


class AdapterStore:
    """The adapters of one base, least recently used first; a pinned one is never evicted."""

    def __init__(self, model: nn.Module, step: StepAdapters, limit: int) -> None:
        self._model = model
        self._step = step
        self._limit = limit
        self._held: OrderedDict[str, AdapterWeights] = OrderedDict()
        self._pins: dict[str, int] = {}
        # Its rows are the sampled ones only, not the step's tokens that the masks are made for.
        output = model.get_output_embeddings()  # type: ignore[operator]
        self._output = next(name for name, module in model.named_modules() if module is output)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def names(self) -> list[str]:
        return list(self._held)

    def bytes(self) -> int:
        return sum(weights.bytes for weights in self._held.values())

    def make_room(self) -> bool:
        """Evict until one more fits; False when every one that is held is pinned."""
        for name in list(self._held):
            if len(self._held) < self._limit:
                break
            if not self._pins.get(name):
                self.remove(name)
        return len(self._held) < self._limit

    def install(self, name: str, weights: AdapterWeights) -> None:
        """Put the matrices beside their layers. Raises UnsupportedAdapter when they do not fit this base."""
        layers = {module: self._layer(module, matrices) for module, matrices in weights.matrices.items()}
        for module, matrices in weights.matrices.items():
            self._wrap(module, layers[module]).install(name, matrices)
        self._held[name] = weights

    def remove(self, name: str) -> None:
        for module in self._held.pop(name).matrices:
            layer = self._model.get_submodule(module)
            assert isinstance(layer, LoraLayer)
            layer.remove(name)

    def pin(self, name: str) -> None:
        self._pins[name] = self._pins.get(name, 0) + 1
        self._held.move_to_end(name)

    def unpin(self, name: str) -> None:
        self._pins[name] -= 1
        if not self._pins[name]:
            del self._pins[name]

    def pinned(self, name: str) -> bool:
        return name in self._pins

    def _layer(self, module: str, matrices: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
        try:
            layer = self._model.get_submodule(module)
        except AttributeError as exc:
            raise UnsupportedAdapter(
                f"the adapter targets {module!r}, which this base does not have"
            ) from exc
        inner = layer.base if isinstance(layer, LoraLayer) else layer
        if module == self._output:
            raise UnsupportedAdapter(f"the adapter targets {module!r}, the output layer, which is not served")
        needs = (matrices[0].shape[1], matrices[1].shape[0])
        has = _features(inner)
        if has is None:
            raise UnsupportedAdapter(
                f"the adapter targets {module!r}, a {type(inner).__name__}: not a linear layer"
            )
        if needs != has:
            raise UnsupportedAdapter(
                f"the adapter's {module!r} maps {needs[0]} to {needs[1]} features, the base's {has[0]} to {has[1]}: "
                "it was trained on another base"
            )
        return layer

    def _wrap(self, module: str, layer: nn.Module) -> LoraLayer:
        if isinstance(layer, LoraLayer):
            return layer
        wrapped = LoraLayer(layer, self._step)
        parent, _, name = module.rpartition(".")
        setattr(self._model.get_submodule(parent), name, wrapped)
        return wrapped


def _features(layer: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear layer, packed or not; None for any other."""
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
    if type(layer).__name__ == "Conv1D" and isinstance(layer.weight, torch.Tensor):
        return layer.weight.shape[0], layer.weight.shape[1]
    return None
