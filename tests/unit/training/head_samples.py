"""Rows for heads of every kind out of the dialogues that the project ships. Knows no trainer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.harness import ROOT

SAMPLES = ROOT / "deploy" / "samples" / "service_dialogues.jsonl"
INTENTS = ("refund_time", "card_lost", "invoice", "installment")


def dialogues(*, each: int, languages: tuple[str, ...] = ("zh", "en")) -> list[dict[str, str]]:
    """`each` sound dialogues of every intent and language: question, answer, intent, language."""
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for line in SAMPLES.read_bytes().splitlines():
        try:
            row = json.loads(line)
            question, answer = (turn["content"] for turn in row["messages"][:2])
        except (ValueError, KeyError, TypeError):
            continue
        if row["intent"] not in INTENTS or row["language"] not in languages:
            continue
        if question.strip() and answer.strip() and len(question) < 200:
            kept = found.setdefault((row["intent"], row["language"]), {})
            if len(kept) < each:
                kept.setdefault(
                    question,
                    {
                        "question": question,
                        "answer": answer,
                        "intent": row["intent"],
                        "language": row["language"],
                    },
                )
    return [row for _, rows in sorted(found.items()) for row in rows.values()]


def write(folder: Path, head: str, rows: list[dict[str, str]], *, seed: int = 1) -> Path:
    """A JSONL file of the rows, as a head of this kind wants them."""
    dice = random.Random(seed)
    out: list[dict[str, Any]] = []
    for row in rows:
        others = [one["answer"] for one in rows if one["intent"] != row["intent"]]
        question = row["question"]
        if head == "single_label":
            out.append({"text": question, "label": row["intent"]})
        elif head == "multi_label":
            out.append({"text": question, "labels": [row["intent"], row["language"]]})
        elif head == "regression":
            chinese = sum("\u4e00" <= c <= "\u9fff" for c in question)
            out.append({"text": question, "score": 50 + 100 * chinese / len(question)})
        elif head == "rank_pairwise":
            out += [
                {"query": question, "positive": row["answer"], "negative": other}
                for other in dice.sample(others, 3)
            ]
        else:
            out += [
                {"query": question, "document": text, "score": score}
                for text, score in ((row["answer"], 1.0), *((other, 0.0) for other in dice.sample(others, 3)))
            ]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{head}.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in out), encoding="utf-8")
    return file
