"""LoRA adapters of one base: read from PEFT folders, several of them and none at all in the same batch.

Per layer, the adapters of a step are stacked. Decodes, one token a row, are gathered by adapter: two batched products
serve them all, each at the cost of its own rank. Prefill chunks lie in one piece an adapter, which is added to where
it lies. Knows no request; pins tell it what must stay.
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


@dataclass(frozen=True)
class Groups:
    """A step's tokens for one stack of adapters.

    `gather` is (adapters, most decodes), None without decodes; where an adapter has fewer it holds token 0, and `keep`
    (adapters, most decodes, 1) is 0 there, None where nothing is padded. `back` (decodes) are the places in `gather` of
    the step's decodes, which are its first tokens; None where one has no adapter. `runs` are (adapter, start, end) of
    prefill chunks.
    """

    gather: torch.Tensor | None
    keep: torch.Tensor | None
    back: torch.Tensor | None
    runs: tuple[tuple[int, int, int], ...]


@dataclass
class StepAdapters:
    """Shared by all layers of one base, and set before each forward pass: which adapter each token uses.

    `active` are the adapters of the step by name; `alone` says that every token has the same one.
    """

    active: tuple[str, ...] = ()
    alone: bool = False
    _device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _decodes: dict[str, list[int]] = field(default_factory=dict)
    _decoding: int = 0
    _runs: list[tuple[str, int, int]] = field(default_factory=list)
    _groups: dict[tuple[str, ...], Groups] = field(default_factory=dict)
    _last: tuple[torch.Tensor, tuple[str, ...], torch.Tensor] | None = None

    def set(self, names: list[str | None], counts: list[int], device: torch.device) -> None:
        """One name a row, and how many tokens the row has."""
        self._groups.clear()
        self._last = None
        self._decodes, self._runs, self._device = {}, [], device
        self._decoding = counts.count(1)
        start = 0
        for name, count in zip(names, counts, strict=True):
            end = start + count
            if name is not None and count == 1:
                self._decodes.setdefault(name, []).append(start)
            elif name is not None and self._runs and self._runs[-1][0] == name and self._runs[-1][2] == start:
                self._runs[-1] = (name, self._runs[-1][1], end)
            elif name is not None:
                self._runs.append((name, start, end))
            start = end
        self.active = tuple(sorted({*self._decodes, *(name for name, _, _ in self._runs)}))
        self.alone = len(self.active) == 1 and None not in names

    def forget(self, name: str) -> None:
        """An adapter has left all layers. Nothing is kept of it here."""

    def groups(self, layout: tuple[str, ...]) -> Groups:
        """The step's tokens for adapters that are stacked as in `layout`."""
        if layout not in self._groups:
            self._groups[layout] = self._group(layout)
        return self._groups[layout]

    def _group(self, layout: tuple[str, ...]) -> Groups:
        rows = [self._decodes.get(name, []) for name in layout]
        width = max(map(len, rows))
        padded = [row + [0] * (width - len(row)) for row in rows]
        keep = [[1.0] * len(row) + [0.0] * (width - len(row)) for row in rows]
        number = {name: n for n, name in enumerate(layout)}
        back = {token: n * width + place for n, row in enumerate(rows) for place, token in enumerate(row)}
        whole = sorted(back) == list(range(self._decoding))
        return Groups(
            torch.tensor(padded, device=self._device) if width else None,
            torch.tensor(keep, device=self._device).unsqueeze(2) if any(0.0 in row for row in keep) else None,
            torch.tensor([back[token] for token in sorted(back)], device=self._device) if whole else None,
            tuple((number[name], start, end) for name, start, end in self._runs if name in number),
        )

    def gathered(self, x: torch.Tensor, layout: tuple[str, ...], gather: torch.Tensor) -> torch.Tensor:
        """(adapters, most decodes, features) of `x` (tokens, features), zeros where padded.

        Layers that read the same input (query, key and value; gate and up) share what is gathered of it.
        """
        if self._last is not None and self._last[0] is x and self._last[1] == layout:
            return self._last[2]
        # More than twice as fast as an index of two dimensions.
        found = x.flatten(0, -2).index_select(0, gather.flatten()).view(*gather.shape, -1)
        keep = self.groups(layout).keep
        if keep is not None:
            found *= keep.to(found.dtype)
        self._last = (x, layout, found)
        return found


@dataclass(frozen=True)
class _Stack:
    """Adapters in order: `a` (adapters, in, rank), `b` (adapters, rank, out), zeros past an adapter's own rank."""

    layout: tuple[str, ...]
    a: torch.Tensor
    b: torch.Tensor


class LoraLayer(nn.Module):
    """A linear layer plus the low-rank products of whichever adapters its rows use."""

    def __init__(self, base: nn.Module, step: StepAdapters) -> None:
        super().__init__()
        self.base = base
        self.step = step
        self.matrices: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._stack: _Stack | None = None

    def install(self, name: str, matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.matrices[name] = matrices
        self._stack = None

    def remove(self, name: str) -> None:
        self.matrices.pop(name, None)
        self._stack = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        wanted = [name for name in self.step.active if name in self.matrices]
        if not wanted:
            return out
        flat, added = x.flatten(0, -2), out.flatten(0, -2)
        if self.step.alone:
            a, b = self.matrices[wanted[0]]
            return torch.addmm(added, nn.functional.linear(flat, a), b.t()).view_as(out)
        stack = self._stacked(wanted)
        groups = self.step.groups(stack.layout)
        for number, start, end in groups.runs:
            added[start:end].addmm_(flat[start:end] @ stack.a[number], stack.b[number])
        if groups.gather is not None:
            gathered = self.step.gathered(x, stack.layout, groups.gather)
            products = torch.bmm(torch.bmm(gathered, stack.a), stack.b).flatten(0, 1)
            if groups.back is not None:
                added[: len(groups.back)].add_(products.index_select(0, groups.back))
            else:
                added.index_add_(0, groups.gather.flatten(), products)
        return added.view_as(out)

    def _stacked(self, wanted: list[str]) -> _Stack:
        """The cached stack if it holds what is wanted and not much more: padding costs less than copying."""
        stack = self._stack
        if (
            stack is not None
            and set(stack.layout).issuperset(wanted)
            and len(stack.layout) <= 2 * len(wanted)
        ):
            return stack
        pairs = [self.matrices[name] for name in wanted]
        rank = max(a.shape[0] for a, _ in pairs)
        first_a, first_b = pairs[0]
        a = first_a.new_zeros(len(pairs), first_a.shape[1], rank)
        b = first_b.new_zeros(len(pairs), rank, first_b.shape[0])
        for number, (down, up) in enumerate(pairs):
            a[number, :, : down.shape[0]] = down.t()
            b[number, : down.shape[0]] = up.t()
        self._stack = _Stack(tuple(wanted), a, b)
        return self._stack


class AdapterStore:
    """The adapters of one base, least recently used first; a pinned one is never evicted."""

    def __init__(
        self, model: nn.Module, step: StepAdapters, limit: int, layer: type[LoraLayer] = LoraLayer
    ) -> None:
        """`layer` is what linear layers are wrapped in."""
        self._model = model
        self._step = step
        self._limit = limit
        self._layer_type = layer
        self._held: OrderedDict[str, AdapterWeights] = OrderedDict()
        self._pins: dict[str, int] = {}
        # Its rows are the sampled ones only, not the step's tokens that are grouped by adapter.
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
        self._step.forget(name)

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
        wrapped = self._layer_type(layer, self._step)
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
