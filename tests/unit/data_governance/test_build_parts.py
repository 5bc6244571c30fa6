"""A build in parts and stages: the same version however the input was cut and however often it was stopped."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.build import InputFile, Progress, Stopped, VersionResult, build_version
from shared.contracts.recipe import Recipe
from shared.contracts.recipe_text import parse_recipe
from shared.errors import InvalidInput
from tests.bench.documents import Planted, write_documents

Build = Callable[..., VersionResult]
STEPS = [
    {"op": "normalize_text"},
    {"op": "drop_empty"},
    {"op": "conflicting_labels"},
    {"op": "exact_duplicates"},
    {"op": "near_duplicates"},
    {"op": "mask_pii"},
    {"op": "length_bounds", "params": {"min_chars": 5}},
]
RECIPE = parse_recipe({"input": {"text": "text", "id": "id", "label": "lang"}, "steps": STEPS})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    return path, write_documents(path, 1500)


def _rows(result: VersionResult) -> list[dict[str, Any]]:
    parts = sorted((result.folder / "data").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def _same(one: VersionResult, other: VersionResult) -> None:
    assert one.id == other.id
    assert one.report == other.report
    assert _rows(one) == _rows(other)


@pytest.mark.parametrize("part_bytes", [50_000, 333_333])
def test_a_file_cut_into_parts_gives_the_same_version_and_report(
    part_bytes: int, documents: tuple[Path, Planted], build: Build, tmp_path: Path
) -> None:
    one = build(documents[0], RECIPE, out_dir=tmp_path / "one")
    cut = build(documents[0], RECIPE, out_dir=tmp_path / "cut", part_bytes=part_bytes)
    assert len(list((cut.folder / "data").iterdir())) > 3
    _same(one, cut)


def _csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["id", "text", "lang", "source"])
        writer.writeheader()
        # Line ends and quotes within fields, and one record that is broken.
        writer.writerows(
            {**row, "text": row["text"].replace("。", '。\n"').replace(". ", '.\n"')} for row in rows
        )
        out.write('x,"a"b\n')
        writer.writerows(rows[:20])
    return path


def _parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    return path


def _gzip(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(
        gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    )
    return path


@pytest.mark.parametrize(("name", "write"), [("d.csv", _csv), ("d.parquet", _parquet), ("d.jsonl.gz", _gzip)])
def test_every_format_is_cut_without_losing_a_row_or_its_line(
    name: str, write: Any, documents: tuple[Path, Planted], build: Build, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in documents[0].read_text().split("\n") if line]
    path = write(tmp_path / name, rows)
    one = build(path, RECIPE, out_dir=tmp_path / "one", part_bytes=10**9)
    cut = build(path, RECIPE, out_dir=tmp_path / "cut", part_bytes=60_000)
    assert len(list((cut.folder / "data").iterdir())) > 3
    _same(one, cut)


def test_a_build_that_is_stopped_at_any_moment_goes_on_to_the_same_version(
    documents: tuple[Path, Planted], build: Build, tmp_path: Path
) -> None:
    whole = build(documents[0], RECIPE, out_dir=tmp_path / "whole", part_bytes=100_000)
    dice, stops = random.Random(5), 0
    work = tmp_path / "work"
    result = None
    while result is None:
        looks = iter(range(dice.randint(8, 30)))
        try:
            result = build(
                documents[0],
                RECIPE,
                out_dir=tmp_path / "stopped",
                work=work,
                part_bytes=100_000,
                batch_rows=50,
                should_stop=lambda looks=looks: next(looks, None) is None,
            )
        except Stopped:
            stops += 1
    assert stops >= 5
    _same(whole, result)


def test_near_duplicates_are_found_and_nothing_else_is(documents: tuple[Path, Planted], build: Build) -> None:
    path, planted = documents
    kept = {int(row["id"].removeprefix("doc-")) for row in _rows(build(path, RECIPE, part_bytes=200_000))}
    copies = planted.exact.keys() | planted.near.keys()
    assert len(copies & kept) <= 0.005 * len(copies)
    texts = [json.loads(line)["text"] for line in path.read_text().split("\n") if line]
    whole = {number for number, text in enumerate(texts) if len(text.strip()) >= 5}
    assert whole - copies <= kept


def test_rows_of_different_labels_are_no_near_duplicates(jsonl: Any, build: Build) -> None:
    text = "the order of last week has not come yet and nobody answers the phone in your shop"
    rows = [
        {"text": text, "lang": "a"},
        {"text": f"{text}!?", "lang": "a"},
        {"text": f"{text}.", "lang": "b"},
    ]
    steps = [{"op": "exact_duplicates"}, {"op": "near_duplicates"}]
    found = build(jsonl(rows), parse_recipe({"input": {"text": "text", "label": "lang"}, "steps": steps}))
    assert [(row["_source_line"], row["label"]) for row in _rows(found)] == [(1, "a"), (3, "b")]
    assert found.report["groups"]["near_duplicates"]["largest"][0]["size"] == 2


def _with_split(split: dict[str, Any]) -> Recipe:
    return parse_recipe({"input": {"text": "text"}, "steps": [{"op": "exact_duplicates"}], "split": split})


def test_a_split_by_time_tests_on_the_newest_rows(jsonl: Any, build: Build) -> None:
    days = random.Random(1).sample(range(100), 100)
    rows = [{"text": f"t{day}", "at": f"2026-01-01T00:00:{day % 60:02d}", "day": day} for day in days]
    split = {"by": "time", "field": "day", "validation": 0.2, "test": 0.1}
    result = build(jsonl(rows), _with_split(split), part_bytes=500)
    by_split: dict[str, list[int]] = {}
    for row in _rows(result):
        by_split.setdefault(row["split"], []).append(json.loads(row["meta"])["day"])
    assert sorted(by_split["test"]) == list(range(90, 100))
    assert sorted(by_split["validation"]) == list(range(70, 90))
    assert result.rows == {"total": 100, "train": 70, "validation": 20, "test": 10}


def test_a_split_by_field_keeps_a_customer_on_one_side(jsonl: Any, build: Build) -> None:
    rows = [{"text": f"text {n}", "customer": n % 40} for n in range(400)]
    result = build(
        jsonl(rows), _with_split({"by": "field", "field": "customer", "validation": 0.3, "test": 0.2})
    )
    sides: dict[int, set[str]] = {}
    for row in _rows(result):
        sides.setdefault(json.loads(row["meta"])["customer"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert {next(iter(side)) for side in sides.values()} == {"train", "validation", "test"}


def _build_all(
    files: list[InputFile], recipe: Recipe | None, tmp_path: Path, **options: Any
) -> VersionResult:
    def unheard(_: Progress) -> None:
        return None

    return build_version(
        files,
        recipe,
        tmp_path / "work",
        tmp_path / "out",
        on_progress=unheard,
        should_stop=lambda: False,
        **options,
    )


def test_several_files_make_one_version_each_by_its_own_mapping(jsonl: Any, tmp_path: Path) -> None:
    one = jsonl([{"q": "hello", "a": "hi"}, {"q": "same", "a": "same"}], name="one.jsonl")
    other = jsonl(
        [{"frage": "same", "antwort": "same"}, {"frage": "hallo", "antwort": "x"}], name="two.jsonl"
    )
    recipe = parse_recipe(
        {
            "input": {"prompt": "q", "completion": "a"},
            "inputs": {"two.jsonl": {"prompt": "frage", "completion": "antwort"}},
            "steps": [{"op": "exact_duplicates"}],
        }
    )
    files = [InputFile("one.jsonl", one, "1" * 64), InputFile("two.jsonl", other, "2" * 64)]
    result = _build_all(files, recipe, tmp_path)
    assert [(row["_source"], row["_source_line"]) for row in _rows(result)] == [(0, 1), (0, 2), (1, 2)]
    assert [source["name"] for source in result.manifest["sources"]] == ["one.jsonl", "two.jsonl"]
    assert result.report["samples"]["dropped"]["exact_duplicates"][0]["source"] == 1


def test_a_mapping_for_a_file_that_is_not_there_is_refused(jsonl: Any, tmp_path: Path) -> None:
    recipe = parse_recipe({"inputs": {"two.jsonl": {"text": "t"}}})
    with pytest.raises(InvalidInput, match=r"there are `one\.jsonl`"):
        _build_all([InputFile("one.jsonl", jsonl([{"t": "x"}]), "1" * 64)], recipe, tmp_path)


def test_erased_rows_stay_out_and_are_counted(jsonl: Any, build: Build, tmp_path: Path) -> None:
    path = jsonl([{"text": f"t{n}"} for n in range(10)])
    recipe = parse_recipe({"input": {"text": "text"}})
    first = build(path, recipe, out_dir=tmp_path / "a")
    gone = [row["_row_id"] for row in _rows(first)][3:5]
    second = build(path, recipe, out_dir=tmp_path / "b", erased=gone)
    assert second.report["dropped"] == {"erased": 2}
    assert not {row["_row_id"] for row in _rows(second)} & set(gone)
    assert first.id != second.id


def test_a_row_of_a_source_is_the_same_row_in_each_of_its_states(tmp_path: Path, build: Build) -> None:
    def state(name: str, keys: list[int], changed: int = -1) -> list[str]:
        rows = [
            {
                "text": f"text {key}{'!' if key == changed else ''}",
                "_origin": {"source": "src-1", "key": str(key), "synced_at": name},
            }
            for key in keys
        ]
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        recipe = parse_recipe({"input": {"text": "text"}})
        return [row["_row_id"] for row in _rows(build(path, recipe, out_dir=tmp_path / name))]

    before, after = state("before", [2, 3, 5]), state("after", [1, 2, 3, 5], changed=3)
    assert after[1] == before[0]
    assert after[3] == before[2]
    assert after[2] != before[1]
