"""The Triton kernels compute what plain attention does, for any shape; in Triton's interpreter, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from services.inference.engine.paged_decode import Decodes, decode, write
from tests.harness import ROOT

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Cache:
    """A layer's cache, NaN where nothing was written, and sequences of random tokens in blocks of random order."""

    def __init__(
        self, lengths: list[int], *, heads: int, size: int, widths: tuple[int, int], dtype: torch.dtype
    ) -> None:
        counts = [-(-length // size) for length in lengths]
        order = (torch.randperm(sum(counts) + 2) + 1).tolist()
        self.lengths = lengths
        self.tables = [[order.pop() for _ in range(count)] for count in counts]
        self.keys = torch.full((sum(counts) + 3, heads, size, widths[0]), float("nan"), dtype=dtype)
        self.values = torch.full((sum(counts) + 3, heads, size, widths[1]), float("nan"), dtype=dtype)
        self.texts = [
            (torch.randn(length, heads, widths[0]).to(dtype), torch.randn(length, heads, widths[1]).to(dtype))
            for length in lengths
        ]
        slots = [
            table[place // size] * size + place % size
            for table, length in zip(self.tables, lengths, strict=True)
            for place in range(length)
        ]
        if slots:
            new_keys, new_values = (torch.cat(parts) for parts in zip(*self.texts, strict=True))
            # As models give them: heads outside tokens.
            new_keys = new_keys.transpose(0, 1).contiguous().transpose(0, 1)
            write(self.keys, self.values, new_keys, new_values, torch.tensor(slots))

    def rows(self) -> Decodes:
        flat: list[int] = []
        starts = []
        for table in self.tables:
            starts.append(len(flat))
            flat += table
        return Decodes(torch.tensor(self.lengths), torch.tensor(starts), torch.tensor(flat or [0]))


def reference(cache: Cache, query: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
    out = torch.zeros(*query.shape[:2], cache.values.shape[3])
    for row, (keys, values) in enumerate(cache.texts):
        first = max(0, len(keys) - window) if window else 0
        if len(keys):
            out[row] = scaled_dot_product_attention(
                query[row].float().unsqueeze(1),
                keys[first:].float().transpose(0, 1),
                values[first:].float().transpose(0, 1),
                scale=scale,
                enable_gqa=True,
            )[:, 0]
    return out


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=3),
    heads=st.integers(1, 2),
    group=st.sampled_from([1, 2, 3, 4, 7, 16, 20]),
    size=st.sampled_from([1, 5, 8, 16, 32]),
    width=st.sampled_from([16, 20, 32, 64, 80, 96, 128, 192, 256]),
    value_width=st.sampled_from([None, 16, 48]),
    window=st.sampled_from([None, 1, 7, 24, 100]),
    splits=st.sampled_from([None, 1, 2, 8]),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_decoding_equals_plain_attention(
    lengths: list[int],
    heads: int,
    group: int,
    size: int,
    width: int,
    value_width: int | None,
    window: int | None,
    splits: int | None,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(len(lengths) + width)
    cache = Cache(lengths, heads=heads, size=size, widths=(width, value_width or width), dtype=dtype)
    # As models give it: heads outside tokens.
    query = torch.randn(heads * group, len(lengths), width).to(dtype).transpose(0, 1)
    found = decode(query, cache.keys, cache.values, cache.rows(), 0.17, window, splits)
    expected = reference(cache, query, 0.17, window)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_padding_gets_zeros_and_reads_nothing() -> None:
    cache = Cache([0, 5, 0], heads=2, size=4, widths=(16, 16), dtype=torch.float32)
    query = torch.randn(3, 4, 16)
    for splits in (1, 4):
        found = decode(query, cache.keys, cache.values, cache.rows(), 1.0, None, splits)
        assert torch.equal(found[0], torch.zeros(4, 16))
        assert torch.equal(found[2], torch.zeros(4, 16))
        assert torch.isfinite(found[1]).all()


def test_writing_leaves_every_other_slot_alone() -> None:
    keys, values = torch.zeros(4, 2, 3, 20), torch.zeros(4, 2, 3, 7)
    new_keys, new_values = torch.randn(2, 2, 20), torch.randn(2, 2, 7)
    write(keys, values, new_keys, new_values, torch.tensor([2 * 3 + 1, 3 * 3]))
    for store, new in ((keys, new_keys), (values, new_values)):
        assert torch.equal(store[2, :, 1], new[0])
        assert torch.equal(store[3, :, 0], new[1])
        store[2, :, 1] = store[3, :, 0] = 0
        assert not store.any()


@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [
        ("90", ["bfloat16"]),
        pytest.param("80", ["bfloat16", "float16", "float32"], marks=pytest.mark.long),
    ],
)
def test_launches_compile_for_gpus_once_a_shape_however_many_rows(
    capability: str, dtypes: list[str], tmp_path: Path
) -> None:
    """By a process of its own: here Triton interprets. H100 and A100; 8B Llama-3's shape, and one query head each."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), capability, *dtypes],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = [f"write_kernel {2 * len(dtypes)}", f"decode_kernel {2 * len(dtypes)}"]
    assert done.stdout.splitlines() == [*counts, f"join_kernel {2 * len(dtypes)}"]
