"""Cuts the inputs of a build into parts and its recipe into stages. Both depend on bytes and recipe alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from services.data_governance.ingest import BadRows, Source, Span, peek
from services.data_governance.ingest.csv_records import Header, Records
from services.data_governance.ingest.lines import LineFile
from services.data_governance.operators import GATHERING, SETTLING
from shared.contracts.recipe import InputMapping, Recipe
from shared.contracts.recipe_infer import default_recipe
from shared.errors import InvalidInput

PART_BYTES = 8 * 1024 * 1024
# Packed, a file of a part's size may come to so many times as much.
PACKED = 8
_BLOCK = 1024 * 1024
Look = Callable[[], None]


@dataclass(frozen=True)
class InputFile:
    """An input as its owner knows it, and where its bytes are on this machine."""

    name: str
    path: Path
    sha256: str
    id: str = ""


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `end` of an input (row groups, of Parquet), None being its end; `first` is the number of its
    first line or row."""

    input: int
    start: int = 0
    end: int | None = None
    first: int = 1


@dataclass(frozen=True)
class Planned:
    """What the plan knows of an input: no path, which another machine may not share."""

    name: str
    sha256: str
    id: str
    format: Literal["csv", "jsonl", "parquet"]
    bytes: int
    mapping: dict[str, Any]
    unpacked: bool = False
    header: tuple[list[str], str] | None = None

    def source(self, path: Path, part: Part, on_read: Look) -> Source:
        """A reading of this part of it."""
        return Source(
            path,
            self.name,
            self.format,
            InputMapping.model_validate(self.mapping),
            self.sha256,
            bytes_total=self.bytes,
            on_read=on_read,
            number=part.input,
            span=Span(part.start, part.end, part.first),
            # The first part reads the header itself.
            header=self.header if part.start else None,
        )


@dataclass(frozen=True)
class Stage:
    """`local` steps run row by row; then keys are made for the `settling` ones, which the next stage applies."""

    local: tuple[int, ...]
    settling: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The whole of a build but its bytes. `erased` are ids of rows that may not come in again; `rows` is how many rows
    of each input are read, None being all."""

    recipe: Recipe
    inputs: tuple[Planned, ...]
    parts: tuple[Part, ...]
    stages: tuple[Stage, ...]
    erased: tuple[str, ...] = ()
    rows: int | None = None

    def dump(self) -> str:
        return json.dumps(
            {
                "recipe": self.recipe.model_dump(mode="json"),
                "inputs": [asdict(one) for one in self.inputs],
                "parts": [asdict(one) for one in self.parts],
                "erased": self.erased,
                "rows": self.rows,
            },
            ensure_ascii=False,
        )

    @classmethod
    def load(cls, text: str) -> Plan:
        found = json.loads(text)
        recipe = Recipe.model_validate_json(json.dumps(found["recipe"]))
        return cls(
            recipe,
            tuple(
                Planned(**{**one, "header": one["header"] and tuple(one["header"])})
                for one in found["inputs"]
            ),
            tuple(Part(**one) for one in found["parts"]),
            stages_of(recipe),
            tuple(found["erased"]),
            found["rows"],
        )


def make_plan(
    files: Sequence[InputFile],
    recipe: Recipe | None,
    folder: Path,
    *,
    part_bytes: int = PART_BYTES,
    erased: Sequence[str] = (),
    rows: int | None = None,
    look: Look,
) -> Plan:
    """Looks at every input, writes unpacked ones into `folder`, and cuts; with `rows` an input is one part that ends
    after so many. Raises InvalidInput, and what `look` does."""
    mappings = [_mapping(file, recipe, look) for file in files]
    resolved = _resolved(recipe, files, mappings)
    inputs: list[Planned] = []
    parts: list[Part] = []
    for number, (file, mapping) in enumerate(zip(files, mappings, strict=True)):
        source = Source.open(file.path, file.name, mapping, file.sha256, look)
        planned = Planned(
            file.name,
            file.sha256,
            file.id,
            source.format,
            source.bytes_total,
            mapping.model_dump(mode="json"),
        )
        path = file.path
        if rows is not None:
            inputs.append(planned)
            parts.append(Part(number))
            continue
        if source.format != "parquet" and source.bytes_total > part_bytes // PACKED and _is_packed(path):
            path = unpacked_path(folder, number)
            _unpack(file.path, path, look)
            planned = replace(planned, unpacked=True)
        cut, header = _cut(path, planned.format, mapping, part_bytes, look)
        inputs.append(replace(planned, header=header))
        parts.extend(replace(part, input=number) for part in cut)
    return Plan(resolved, tuple(inputs), tuple(parts), stages_of(resolved), tuple(sorted(erased)), rows)


def unpacked_path(folder: Path, number: int) -> Path:
    return folder / f"input-{number}.unpacked"


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Settling steps that follow each other share a stage: nothing changes a row between them, unless one gathers."""
    stages: list[Stage] = []
    local: list[int] = []
    settling: list[int] = []
    for index, step in enumerate(recipe.steps):
        ended = settling and (step.op not in SETTLING or recipe.steps[settling[-1]].op in GATHERING)
        if ended:
            stages.append(Stage(tuple(local), tuple(settling)))
            local, settling = [], []
        (settling if step.op in SETTLING else local).append(index)
    stages.append(Stage(tuple(local), tuple(settling)))
    # The last stage writes the version, so that whatever settles must be over.
    if settling or (recipe.split.by == "time" and len(stages) == 1):
        stages.append(Stage((), ()))
    return tuple(stages)


def _mapping(file: InputFile, recipe: Recipe | None, look: Look) -> InputMapping:
    if recipe is not None and file.name in recipe.inputs:
        return recipe.inputs[file.name]
    if recipe is not None and recipe.input != "auto":
        return recipe.input
    return peek(file.path, file.name, on_read=look).mapping()


def _resolved(recipe: Recipe | None, files: Sequence[InputFile], mappings: Sequence[InputMapping]) -> Recipe:
    """The recipe with its mapping written out: inferred from the file where it says `auto`."""
    names = {file.name for file in files}
    for name in recipe.inputs if recipe is not None else ():
        if name not in names:
            known = ", ".join(f"`{one}`" for one in sorted(names))
            raise InvalidInput(
                f"inputs.{name}: no input has this name; there are {known}", param=f"recipe.inputs.{name}"
            )
    if recipe is None:
        recipe = default_recipe(mappings[0])
    if recipe.input != "auto" and all(one == recipe.input for one in mappings):
        return recipe
    if all(one == mappings[0] for one in mappings):
        return recipe.model_copy(update={"input": mappings[0], "inputs": {}})
    by_name = dict(zip((file.name for file in files), mappings, strict=True))
    return recipe.model_copy(update={"inputs": by_name})


def _is_packed(path: Path) -> bool:
    with closing(LineFile(path)) as file:
        return file.gzipped


def _unpack(path: Path, target: Path, look: Look) -> None:
    with closing(LineFile(path, on_read=look)) as file, target.open("wb") as out:
        for block in file.blocks():
            out.write(block)


def _cut(
    path: Path, kind: str, mapping: InputMapping, part_bytes: int, look: Look
) -> tuple[list[Part], Header | None]:
    if kind == "parquet":
        return _row_groups(path, part_bytes), None
    size = path.stat().st_size
    if kind == "csv" and size > part_bytes:
        return _csv_records(path, mapping.encoding, part_bytes, look)
    if size <= part_bytes or _is_packed(path):
        return [Part(0)], None
    return list(_lines(path, size, part_bytes, look)), None


def _lines(path: Path, size: int, part_bytes: int, look: Look) -> Iterator[Part]:
    """Cuts behind the first line end that a part of `part_bytes` has reached."""
    start = offset = 0
    first = lines = 1
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            look()
            begin = 0
            while start + part_bytes <= offset + len(block):
                at = block.find(b"\n", max(begin, start + part_bytes - 1 - offset))
                if at < 0:
                    break
                lines += block.count(b"\n", begin, at + 1)
                yield Part(0, start, offset + at + 1, first)
                begin, start, first = at + 1, offset + at + 1, lines
            lines += block.count(b"\n", begin)
            offset += len(block)
    if start < size:
        yield Part(0, start, size, first)


def _csv_records(path: Path, encoding: str, part_bytes: int, look: Look) -> tuple[list[Part], Header]:
    """A line end may stand within quotes, so that only reading tells where a record begins."""
    parts: list[Part] = []
    start, first = 0, 1
    with closing(LineFile(path, on_read=look)) as file:
        opened = Records(file, encoding, BadRows())
        for line, offset, _ in opened:
            if offset - start >= part_bytes:
                parts.append(Part(0, start, offset, first))
                start, first = offset, line
        header = opened.header
    return [*parts, Part(0, start, None, first)], header


def _row_groups(path: Path, part_bytes: int) -> list[Part]:
    parts: list[Part] = []
    with pq.ParquetFile(path) as file:
        start = held = 0
        first = rows = 1
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            held += group.total_byte_size
            rows += group.num_rows
            if held >= part_bytes:
                parts.append(Part(0, start, number + 1, first))
                start, held, first = number + 1, 0, rows
        if start < file.num_row_groups or not parts:
            parts.append(Part(0, start, None, first))
    return parts
