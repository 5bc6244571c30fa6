"""One new token a sequence attends to what plain attention would, wherever keys and values lie."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from services.inference.engine.decode_rows import DecodeGroup, decode
from services.inference.engine.paged_cache import PagedCache

SIZE, HEADS = 4, 2
LENGTHS = (3, 9, 10)
TABLES = ([5, 0, 0], [2, 7, 1], [3, 4, 6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("window", [None, 4])
def test_a_group_attends_as_plain_attention_does(
    dtype: torch.dtype, width: int, queries: int, window: int | None
) -> None:
    torch.manual_seed(1)
    cache = PagedCache(8, SIZE)
    keys, values = torch.randn(2, 8, HEADS, SIZE, width).to(dtype)
    # Values may be wider than keys.
    values = torch.cat([values, values[..., :2]], -1)
    cache.keys[0], cache.values[0] = keys, values
    # The first decode of the step belongs to another group.
    group = DecodeGroup(
        1, 4, torch.tensor(LENGTHS), max(LENGTHS), len(TABLES[0]) * SIZE, torch.tensor(TABLES)
    )
    asked = torch.randn(4, HEADS * queries, width).to(dtype)
    got = decode(cache, 0, group, asked, 0.3, window)
    assert got.shape == (3, HEADS * queries, width + 2)
    for row, (length, table) in enumerate(zip(LENGTHS, TABLES, strict=True)):
        first = 0 if window is None else max(0, length - window)
        k, v = (
            store[table].transpose(0, 1).flatten(1, 2)[:, first:length].repeat_interleave(queries, 0)
            for store in (keys, values)
        )
        expected = scaled_dot_product_attention(asked[row + 1].unsqueeze(1), k, v, scale=0.3)
        close = 2e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(got[row], expected.squeeze(1), atol=close, rtol=close)
