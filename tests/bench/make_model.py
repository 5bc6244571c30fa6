"""`python -m tests.bench.make_model FOLDER LAYERS`: a random Qwen2-shaped model, by default of about a million
weights a layer.

It never ends an answer by itself, so that every answer has the length that was asked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.unit.inference.tiny_models import build_model, build_tokenizer

CONTEXT = 8192


def make(folder: Path, layers: int, hidden: int = 256) -> None:
    tokenizer = build_tokenizer()
    model = build_model(
        "qwen2",
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=4 * hidden,
        max_position_embeddings=CONTEXT,
        initializer_range=0.02,
        tie_word_embeddings=False,
    )
    with torch.no_grad():
        # Its end tokens get a logit of zero, and of hundreds of random ones the greatest is above that.
        for name in ("<|im_end|>", "<|endoftext|>"):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(name)] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> int:
    make(Path(sys.argv[1]), int(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
