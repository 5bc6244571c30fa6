"""What governance is held against: data-juicer and datatrove, each run by a Python that has it, on the same documents.

Neither is a dependency; their pins do not go together with ours or with each other's. Both run what they have of the
same steps, in two processes: less than the platform does (no languages, no blocked words, no report, no lineage).
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.bench.documents import Planted

SCRIPT = Path(__file__).with_name("datatrove_peer.py")
PROCESSES = 2
PATIENCE_S = 3600
STEPS: list[dict[str, dict[str, Any]]] = [
    {"clean_html_mapper": {}},
    {"fix_unicode_mapper": {}},
    {"whitespace_normalization_mapper": {}},
    {"chinese_convert_mapper": {"mode": "t2s"}},
    {"alphanumeric_filter": {}},
    {"special_characters_filter": {}},
    {"character_repetition_filter": {}},
    {"document_deduplicator": {}},
    {
        "document_minhash_deduplicator": {
            "tokenization": "character",
            "window_size": 5,
            "num_permutations": 128,
            "jaccard_threshold": 0.7,
        }
    },
    {"clean_email_mapper": {}},
    {"clean_ip_mapper": {}},
    {"text_length_filter": {"min_len": 5}},
]


@dataclass(frozen=True)
class PeerRun:
    """A peer's wall time, its start included, and the numbers of the documents that it kept."""

    name: str
    seconds: float
    kept: frozenset[int]

    def recall(self, planted: Planted) -> float:
        """The share of planted near duplicates that are gone."""
        return 1 - len(planted.near.keys() & self.kept) / max(1, len(planted.near))


def data_juicer(python: Path, documents: Path, folder: Path) -> PeerRun:
    """`dj-process` beside `python`, with its cache off. Raises CalledProcessError with what it said."""
    recipe = folder / "recipe.yaml"
    out = folder / "kept" / "documents.jsonl"
    told = {
        "project_name": "peer",
        "dataset_path": str(documents),
        "export_path": str(out),
        "np": PROCESSES,
        "text_keys": "text",
        "use_cache": False,
        "open_tracer": False,
        "process": STEPS,
    }
    recipe.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    seconds = _timed([str(python.with_name("dj-process")), "--config", str(recipe)], folder)
    return PeerRun("data-juicer", seconds, _numbers([out]))


def datatrove(python: Path, documents: Path, folder: Path) -> PeerRun:
    """The script beside this one. Its readers take a file each, so the documents are cut in two first."""
    source = folder / "in"
    source.mkdir()
    lines = documents.read_bytes().splitlines(keepends=True)
    size = -(-len(lines) // PROCESSES)
    for part in range(PROCESSES):
        (source / f"{part}.jsonl").write_bytes(b"".join(lines[part * size : (part + 1) * size]))
    seconds = _timed([str(python), str(SCRIPT), str(source), str(folder / "out")], folder)
    return PeerRun("datatrove", seconds, _numbers(sorted((folder / "out" / "kept").glob("*.jsonl"))))


def _timed(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=PATIENCE_S)
    return time.perf_counter() - started


def _numbers(paths: list[Path]) -> frozenset[int]:
    return frozenset(
        int(json.loads(line)["id"].removeprefix("doc-"))
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
    )
