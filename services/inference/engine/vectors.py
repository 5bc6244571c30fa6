"""From a model's numbers for each token to one vector a text, as bytes. Knows torch, and no model."""

from __future__ import annotations

from enum import StrEnum

import torch

from shared.errors import InvalidInput


class Pooling(StrEnum):
    """Which token vectors make a text's: their mean, the first one or the last one."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "lasttoken"


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(texts, width) of `hidden` (texts, tokens, width), where `mask` (texts, tokens) is 1; padding is at the end."""
    if pooling is Pooling.CLS:
        return hidden[:, 0]
    if pooling is Pooling.LAST:
        last = mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def check_dimensions(dimensions: int | None, width: int) -> None:
    """Raise InvalidInput for more numbers than the model's vectors have."""
    if dimensions is not None and not 1 <= dimensions <= width:
        raise InvalidInput(
            f"dimensions is {dimensions}; the vectors of this model have {width}, and can be cut to 1 or more",
            param="dimensions",
        )


def packed(vector: torch.Tensor, *, dimensions: int | None, normalize: bool) -> bytes:
    """One vector (width) as float32, little endian; cut to `dimensions`, which are brought to length 1 again."""
    kept = vector.to("cpu", torch.float32)
    if dimensions is not None and dimensions < len(kept):
        kept, normalize = kept[:dimensions], True
    if normalize:
        kept = torch.nn.functional.normalize(kept, dim=0)
    return kept.numpy().astype("<f4").tobytes()
