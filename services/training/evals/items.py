"""Items of a run out of a file, of what came with the request, or of a governed version; each with its key. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from shared.contracts.eval_items import MAX_ITEMS, Config
from shared.errors import HeliuError, InvalidInput
from shared.task.eval_check import LANGUAGE, LONGEST_ITEM, SHORT, check_item, sliced
from shared.task.item_template import look_up
from shared.text.language import script_of

CODE = "invalid_eval_data"
LONGEST_SLICE = 64
KEYS = frozenset({"item", "sample"})
NO_TEXT = (*SHORT, "role", "id", "model", "metadata", "finish_reason")
Raw = tuple[dict[str, Any], dict[str, Any] | None]


@dataclass(frozen=True)
class Item:
    """One row of a run. `key` is the same wherever the same item stands; `cluster` is its own key where nothing else
    says what it belongs to; `sample` is an answer that came with it."""

    number: int
    item: dict[str, Any]
    sample: dict[str, Any] | None
    key: str
    cluster: str
    slices: dict[str, str]

    def line(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Item:
        return cls(**json.loads(line))


def of_lines(source: BinaryIO) -> Iterator[Raw]:
    """(item, sample) of each line of an evals file. Raises InvalidInput with the line."""
    number = 0
    while raw := source.readline(LONGEST_ITEM + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if len(raw) > LONGEST_ITEM:
            raise _bad(number, f"it is longer than {LONGEST_ITEM} bytes")
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as exc:
            raise _bad(number, f"it is no JSON: {exc}") from exc
        if not isinstance(row, dict) or not isinstance(row.get("item"), dict):
            raise _bad(number, 'a line is {"item": {...}}, with "sample": {...} where an answer is given')
        for key in row.keys() - KEYS:
            raise _bad(number, f"it has the key {key[:80]!r}; a line has item, and sample where one is given")
        sample = row.get("sample")
        if sample is not None and not isinstance(sample, dict):
            raise _bad(number, 'sample must be an object such as {"output_text": "..."}')
        if not all(map(_is_text, _texts(row))):
            raise _bad(number, "a string holds a NUL character or half of a surrogate pair")
        yield row["item"], sample


def of_version(paths: Sequence[Path], split: str) -> Iterator[Raw]:
    """(row, None) of a governed version's split (`all` for both); columns without a value are left out."""
    for path in paths:
        try:
            file = pq.ParquetFile(path)
            names = [name for name in file.schema_arrow.names if not name.startswith("_")]
            for batch in file.iter_batches(batch_size=256, columns=names):
                for row in batch.to_pylist():
                    if split == "all" or row.get("split") == split:
                        yield {k: v for k, v in row.items() if v is not None and k != "split"}, None
        except pa.ArrowException as exc:
            raise InvalidInput(f"{path.name} is broken Parquet: {exc}", code=CODE) from exc


def items_of(
    rows: Iterable[Raw],
    config: Config,
    *,
    slices: Sequence[str],
    cluster: str | None,
    limit: int | None = None,
) -> Iterator[Item]:
    """The items, checked against their schema. Raises InvalidInput with the number (from 1) of what does not fit."""
    seen: Counter[str] = Counter()
    for number, (item, sample) in enumerate(rows):
        if limit is not None and number >= limit:
            return
        if number >= MAX_ITEMS:
            raise InvalidInput(f"there are over {MAX_ITEMS} items; a run has {MAX_ITEMS} at most", code=CODE)
        try:
            check_item(config, item, f"item {number + 1}")
            canonical = json.dumps(item, sort_keys=True, ensure_ascii=False)
            key = hashlib.sha256(canonical.encode()).hexdigest()
            seen[key] += 1
            if seen[key] > 1:
                # The same item once more is another one to be paired, with its like in another run.
                key = hashlib.sha256(f"{key} {seen[key]}".encode()).hexdigest()
            named = str(look_up(cluster, item, f"item {number + 1}")) if cluster else key
        except HeliuError as exc:
            raise InvalidInput(exc.message, code=CODE, param="data_source") from exc
        yield Item(number, item, sample, key, named[:256], _slices(item, slices, cluster))


def _slices(item: Mapping[str, Any], named: Sequence[str], cluster: str | None) -> dict[str, str]:
    # Labels and ids are of no language, and would outweigh a short question of Chinese.
    passed_over = {*NO_TEXT, *(sliced(name).rpartition(".")[2] for name in named)}
    passed_over |= {cluster.rpartition(".")[2]} if cluster else set()
    found = {LANGUAGE: script_of(tuple(_texts(item, passed_over)))}
    for name in dict.fromkeys((*SHORT, *named)):
        if name == LANGUAGE:
            continue
        try:
            value = look_up(sliced(name), item, name)
        except InvalidInput:
            if name in named:
                found[name] = "(none)"
            continue
        if isinstance(value, str | int | float | bool):
            text = value if isinstance(value, str) else json.dumps(value)
            found[name] = text[:LONGEST_SLICE] or "(empty)"
        elif name in named:
            found[name] = "(no text)"
    return found


def _texts(value: Any, passed_over: Container[str] = frozenset()) -> Iterator[str]:
    """Every string in a value, but for those of the keys that are passed over."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in passed_over:
                yield from _texts(one, passed_over)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, passed_over)


def _is_text(text: str) -> bool:
    """Whether Postgres takes it: JSON can spell what is no Unicode text."""
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _bad(number: int, why: str) -> InvalidInput:
    return InvalidInput(f"line {number}: {why}", code=CODE, param="data_source.source")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
