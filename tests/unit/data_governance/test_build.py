"""The whole build: ids that depend on content alone, exact counts, splits without leakage, gates, stopping."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from services.data_governance.build import Progress, StepFailed, Stopped, VersionResult
from services.data_governance.ingest import peek
from services.data_governance.rows import normalise_key
from services.data_governance.versions import SCHEMA
from shared.contracts.recipe_infer import default_recipe
from shared.contracts.recipe_text import parse_recipe
from shared.errors import InvalidInput

Build = Callable[..., VersionResult]
Write = Callable[..., Path]
REAL = os.environ.get("HELIU_REAL_DATA")


def _dirty(count: int = 120) -> list[Any]:
    rows: list[Any] = [
        {
            "id": f"d{i}",
            "intent": "x",
            "question": f"问题 {i % 90}？",
            "answer": f"答案{i % 90}，电话13800138000",
        }
        for i in range(count)
    ]
    rows[5] = b'{"question": "\xff"}'
    rows[9] = b"{cut"
    rows[11] = {"id": "d11", "question": " ", "answer": "x", "intent": "x"}
    rows[13] = {"id": "d13", "question": "坏\ufffd", "answer": "x", "intent": "x"}
    rows[17] = {**rows[16], "intent": "y"}
    return rows


def _table(result: VersionResult) -> list[dict[str, Any]]:
    parts = sorted((result.folder / "data").iterdir())
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_a_build_writes_the_canonical_columns_and_a_manifest_that_fits(jsonl: Write, build: Build) -> None:
    result = build(jsonl(_dirty()))
    names = sorted(p.name for p in result.folder.iterdir())
    assert names == ["bad_rows.parquet", "data", "manifest.json", "report.json"]
    assert pq.read_schema(result.folder / "data/part-00000.parquet").equals(SCHEMA)
    manifest = json.loads((result.folder / "manifest.json").read_text(encoding="utf-8"))
    report = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    assert manifest == result.manifest
    assert report == {"version_id": result.id, **result.report}
    for file in manifest["files"]:
        assert hashlib.sha256((result.folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    rows = _table(result)
    assert len(rows) == result.rows["total"] == result.rows["train"] + result.rows["validation"]
    assert rows[0]["messages"][0] == {"role": "user", "content": "问题 0？"}
    assert (rows[0]["_source_line"], rows[0]["id"], rows[0]["label"], rows[0]["meta"]) == (1, "d0", "x", "{}")
    assert manifest["recipe"]["input"]["prompt"] == "question"


def test_rows_in_is_kept_plus_every_drop_by_rule(jsonl: Write, build: Build) -> None:
    report = build(jsonl(_dirty())).report
    assert report["dropped"] == {
        "exact_duplicates": 25, "conflicting_labels": 1, "empty_message": 1, "encoding_damage": 1, "invalid_utf8": 1,
        "not_json": 1,
    }  # fmt: skip
    assert report["rows_in"] == 120 == report["rows_kept"] + sum(report["dropped"].values())
    assert [(note["line"], note["code"]) for note in report["bad_rows"]["listed"]] == [
        (6, "invalid_utf8"),
        (10, "not_json"),
    ]
    for before, after in pairwise(report["steps"]):
        assert before["rows_kept"] == after["rows_in"]
    assert report["pii"]["left"] == {}
    assert report["pii"]["masked"]["phone"] == report["changed"]["pii_phone"]


def test_every_bad_row_is_listed_with_its_place_however_many_there_are(jsonl: Write, build: Build) -> None:
    lines: list[Any] = [b"{bad" if i % 3 else {"question": f"q{i}", "answer": "a"} for i in range(30_000)]
    path = jsonl(lines)
    result = build(path)
    table = pq.read_table(result.folder / "bad_rows.parquet")
    assert table.column("line").to_pylist() == [i + 1 for i in range(30_000) if i % 3]
    assert set(table.column("code").to_pylist()) == {"not_json"}
    with path.open("rb") as source:
        source.seek(table.column("byte")[-1].as_py())
        assert source.readline() == b"{bad\n"
    assert len(result.report["bad_rows"]["listed"]) < result.report["bad_rows"]["total"] == table.num_rows
    assert {"path": "bad_rows.parquet", "rows": 20_000}.items() <= result.manifest["files"][-2].items()


def test_a_source_without_bad_rows_has_no_list_of_them(jsonl: Write, build: Build) -> None:
    result = build(jsonl([{"text": "a"}]), parse_recipe({"input": {"text": "text"}}))
    assert sorted(p.name for p in result.folder.iterdir()) == ["data", "manifest.json", "report.json"]


@pytest.mark.parametrize("recipe", [None, {"input": {"text": "t"}}])
def test_a_file_without_one_good_row_can_be_stopped_while_it_is_read(
    recipe: dict[str, Any] | None, tmp_path: Path, build: Build
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"{bad\n" * 1000 + b"x" * 20_000_000)
    seen: list[Progress] = []
    stops = iter([False] * 3)
    with pytest.raises(Stopped):
        build(
            path,
            recipe and parse_recipe(recipe),
            source_sha256="0" * 64,
            on_progress=seen.append,
            should_stop=lambda: next(stops, True),
        )
    assert len(seen) == 3


def test_labels_that_are_whole_texts_do_not_swell_the_report(jsonl: Write, build: Build) -> None:
    recipe = parse_recipe({"input": {"text": "text", "label": "label"}})
    path = jsonl([{"text": f"t{i}", "label": f"{i}" + "x" * 10_000} for i in range(30)])
    assert len(json.dumps(build(path, recipe).report["labels"])) < 20_000


def test_samples_are_capped_repeatable_and_hide_personal_data(jsonl: Write, build: Build) -> None:
    result = build(jsonl(_dirty()))
    samples = result.report["samples"]
    assert len(samples["dropped"]["exact_duplicates"]) == 20
    assert len(samples["changed"]["pii_phone"]) == 20
    assert "13800138000" not in json.dumps(result.report)
    assert "13800138000" not in json.dumps(result.manifest)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 200))
def test_the_id_and_every_file_are_the_same_whatever_the_batch(
    batch: int, jsonl: Write, build: Build, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = jsonl(_dirty())
    one = build(path, out_dir=tmp_path_factory.mktemp("one"))
    other = build(path, out_dir=tmp_path_factory.mktemp("other"), batch_rows=batch)
    assert one.id == other.id
    for file in (*one.manifest["files"], {"path": "manifest.json"}):
        assert (one.folder / file["path"]).read_bytes() == (other.folder / file["path"]).read_bytes()


def test_the_id_changes_with_recipe_seed_and_source(jsonl: Write, build: Build) -> None:
    path = jsonl(_dirty())
    base = {"steps": [{"op": "drop_empty"}]}
    ids = {
        build(path, parse_recipe(base)).id,
        build(path, parse_recipe({**base, "seed": 1})).id,
        build(path, parse_recipe({**base, "split": {"validation": 0.2}})).id,
        build(path, parse_recipe({"steps": []})).id,
        build(path, parse_recipe(base), source_sha256="f" * 64).id,
    }
    assert len(ids) == 5
    assert build(path, parse_recipe(base), source_name="other.jsonl").id in ids


def test_another_row_gives_another_logical_hash(jsonl: Write, build: Build) -> None:
    first = build(jsonl([{"text": "a"}, {"text": "b"}]), parse_recipe({"input": {"text": "text"}}))
    second = build(jsonl([{"text": "a"}, {"text": "c"}]), parse_recipe({"input": {"text": "text"}}))
    assert first.manifest["logical_hash"] != second.manifest["logical_hash"]


def test_building_again_keeps_the_published_folder(jsonl: Write, build: Build, tmp_path: Path) -> None:
    path = jsonl(_dirty())
    first = build(path)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert build(path).folder == first.folder
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "out").iterdir()] == [first.id]


def test_questions_that_read_the_same_are_in_one_split(jsonl: Write, build: Build) -> None:
    rows = [
        {"question": q.format(i), "answer": f"{i}-{q}"}
        for i in range(200)
        for q in ("Where is {}?", "where is {}", "ＷＨＥＲＥ is {}！")
    ]
    result = build(
        jsonl(rows), parse_recipe({"split": {"validation": 0.3}, "gates": {"max_leaked_questions": 0}})
    )
    sides: dict[str, set[str]] = {}
    for row in _table(result):
        sides.setdefault(normalise_key(row["messages"][0]["content"]), set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert 0.2 < result.rows["validation"] / result.rows["total"] < 0.4
    assert result.report["gate"]["passed"]


def test_a_split_by_id_that_leaks_questions_fails_its_gate(jsonl: Write, build: Build) -> None:
    rows = [{"id": f"{i}", "question": "same", "answer": f"{i}"} for i in range(100)]
    recipe = {
        "steps": [{"op": "exact_duplicates"}],
        "split": {"by": "id", "validation": 0.5},
        "gates": {"max_leaked_questions": 0},
    }
    gate = build(jsonl(rows), parse_recipe(recipe)).report["gate"]
    assert not gate["passed"]
    assert gate["reasons"] == ["max_leaked_questions: leaked questions is 1, at most 0 is asked for"]


@pytest.mark.parametrize(
    ("gates", "failing"),
    [
        ({"min_rows": 1000}, ["min_rows"]),
        ({"min_rows": 10, "max_dropped_ratio": 0.5}, []),
        ({"max_dropped_ratio": 0.01}, ["max_dropped_ratio"]),
        ({"max_bad_ratio": 0.01}, ["max_bad_ratio"]),
        ({"max_pii_left": 0}, ["max_pii_left"]),
        ({"min_validation_rows": 100}, ["min_validation_rows"]),
        ({"max_duplicate_ratio": 0.1}, ["max_duplicate_ratio"]),
    ],
)
def test_gates_tell_value_and_limit(
    gates: dict[str, Any], failing: list[str], jsonl: Write, build: Build
) -> None:
    steps = [{"op": "exact_duplicates"}]
    gate = build(jsonl(_dirty()), parse_recipe({"steps": steps, "gates": gates})).manifest["gate"]
    assert [check["name"] for check in gate["checks"] if not check["passed"]] == failing
    assert gate["passed"] == (not failing)


def test_a_version_without_rows_is_published_and_never_passes(jsonl: Write, build: Build) -> None:
    result = build(jsonl([b"{bad", b"{bad"]), parse_recipe({"input": {"text": "t"}}))
    assert result.rows == {"total": 0, "train": 0, "validation": 0, "test": 0}
    assert _table(result) == []
    assert not result.report["gate"]["passed"]


def test_a_step_that_may_not_drop_stops_the_build_with_line_and_rule(
    jsonl: Write, build: Build, tmp_path: Path
) -> None:
    recipe = parse_recipe({"steps": [{"op": "drop_empty", "on_drop": "fail"}]})
    with pytest.raises(StepFailed, match="line 12 breaks `empty_message`"):
        build(jsonl(_dirty()), recipe)
    assert not (tmp_path / "out").exists()


def test_a_build_that_is_stopped_leaves_nothing_behind(jsonl: Write, build: Build, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(Stopped):
        build(jsonl(_dirty()), batch_rows=10, on_progress=seen.append, should_stop=lambda: len(seen) >= 3)
    assert not (tmp_path / "out").exists()


def test_progress_never_goes_back_and_ends_at_the_whole(jsonl: Write, build: Build) -> None:
    seen: list[Progress] = []
    result = build(jsonl(_dirty()), batch_rows=10, on_progress=seen.append)
    for earlier, later in pairwise(seen):
        assert later.rows_read >= earlier.rows_read
        assert later.rows_written >= earlier.rows_written
        assert later.bytes_read >= earlier.bytes_read
    last = seen[-1]
    assert (last.rows_read, last.rows_written, last.bytes_read) == (
        120,
        result.rows["total"],
        last.bytes_total,
    )


_CELL = st.one_of(st.text(max_size=20), st.none(), st.integers(), st.just(" "), st.just("电话13800138000"))
_LINES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"question": _CELL, "answer": _CELL}, optional={"intent": st.sampled_from("xyz"), "m": _CELL}
        ),
        st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=_LINES)
def test_no_row_is_lost_or_doubled_whatever_the_file(
    lines: list[Any], jsonl: Write, build: Build, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = jsonl([{"question": "q", "answer": "a", "intent": "x"}, *lines])
    try:
        peek(path, path.name)
    except InvalidInput:
        # Mostly zeros, or text of another encoding: a file that is refused whole, before its first row.
        reject()
    clean = jsonl([{"question": "q", "answer": "a", "intent": "x"}], name="clean.jsonl")
    recipe = default_recipe(peek(clean, clean.name).mapping())
    result = build(path, recipe, out_dir=tmp_path_factory.mktemp("v"))
    written = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    assert result.report["rows_in"] == len(written)
    assert result.report["rows_kept"] == len(_table(result))
    assert result.report["rows_kept"] + sum(result.report["dropped"].values()) == len(written)


@pytest.mark.skipif(not REAL, reason="HELIU_REAL_DATA is not set")
@pytest.mark.parametrize(
    ("name", "rows_in", "least"), [("banking77_train.csv", 10003, 9900), ("crosswoz_val.jsonl", 500, 490)]
)
def test_real_files_pass_with_the_default_recipe(name: str, rows_in: int, least: int, build: Build) -> None:
    result = build(Path(REAL or "") / name)
    assert result.report["rows_in"] == rows_in
    assert result.rows["total"] >= least
    assert result.report["gate"]["passed"]
