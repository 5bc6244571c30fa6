"""The adapters of one base: put beside its layers, kept while they are pinned, evicted least recently used first.

Knows no request; pins tell it what must stay.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from services.inference.engine.adapter_folder import AdapterWeights, UnsupportedAdapter
from services.inference.engine.adapter_layer import LoraLayer, StepAdapters


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
        # By name the modules that it has matrices for.
        self._held: OrderedDict[str, list[str]] = OrderedDict()
        self._pins: dict[str, int] = {}
        self._layers: list[LoraLayer] = []
        # Its rows are the sampled ones only, not the step's tokens that are grouped by adapter.
        output = model.get_output_embeddings()  # type: ignore[operator]
        self._output = next(name for name, module in model.named_modules() if module is output)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def names(self) -> list[str]:
        return list(self._held)

    def bytes(self) -> int:
        """What the layers keep for adapters, room for others included."""
        return sum(layer.bytes() for layer in self._layers)

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
        self._held[name] = list(weights.matrices)

    def remove(self, name: str) -> None:
        for module in self._held.pop(name):
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
        self._layers.append(wrapped)
        return wrapped


def _features(layer: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear layer, packed or not; None for any other."""
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
    if type(layer).__name__ == "Conv1D" and isinstance(layer.weight, torch.Tensor):
        return layer.weight.shape[0], layer.weight.shape[1]
    return None
