"""Texts that a causal model is trained on, and those that are held out, in pieces of tokens. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from services.training.dataset import is_version, read_rows
from services.training.pretrainer import Documents
from services.training.spec import Spec
from services.training.tokenizer import encode_text
from shared.contracts.training import PretrainParameters, check_context
from shared.errors import InvalidInput

VALIDATION_DOCUMENTS = 128
# Of a file's texts where no others are held out, and the longest piece of a text where nothing is asked for.
HELD_OUT_SHARE = 0.1
PIECE = 1024


def read_texts(spec: Spec) -> tuple[list[str], list[str]]:
    """(training, held out); of a file without another one a share of the texts is held out."""
    texts = [row.plain_text() for row in read_rows(spec.data.train, "train")]
    if not texts:
        raise InvalidInput("the training split is empty", code="invalid_training_file", param="training_file")
    if spec.data.validation or any(is_version(path, "training_file") for path in spec.data.train):
        return texts, [
            row.plain_text() for row in read_rows(spec.data.validation, "validation", "validation_file")
        ]
    dice = np.random.default_rng(spec.seed).permutation(len(texts))
    cut = min(VALIDATION_DOCUMENTS, int(HELD_OUT_SHARE * len(texts)))
    return [texts[i] for i in sorted(dice[cut:])], [texts[i] for i in sorted(dice[:cut])]


def piece_length(spec: Spec, context: int) -> int:
    asked = spec.hyperparameters.get("context_length", "auto")
    if asked in ("auto", None):
        return min(PIECE, context)
    check_context(PretrainParameters(context_length=asked), context)
    return int(asked)


def cut_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int
) -> list[npt.NDArray[np.int32]]:
    """Each text with the end sign, in pieces of at most `length` tokens; a piece of one token is left out."""
    end = tokenizer.eos_token_id
    out = []
    for text in texts:
        ids = np.asarray([*encode_text(tokenizer, text), end], dtype=np.int32)
        out += [ids[i : i + length] for i in range(0, len(ids), length)]
    return [d for d in out if len(d) > 1]


def watched(documents: Documents, seed: int) -> list[npt.NDArray[np.int32]]:
    picked = np.random.default_rng(seed).permutation(len(documents))[:VALIDATION_DOCUMENTS]
    return sorted((documents[i] for i in picked), key=len)
