"""The log files of the local platform: where they are, kept from growing, read and followed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LARGEST = 16 << 20  # bytes, then the file is copied to `.1` (which becomes `.2`) and emptied
BLOCK = 1 << 16


def path(home: Path, name: str, index: int = 1) -> Path:
    return home / "logs" / f"{name}.{index}.log"


def found(folder: Path) -> dict[str, Path]:
    """The log of every process that ever ran, by the process's name."""
    return {file.name.removesuffix(".log"): file for file in sorted(folder.glob("*.log"))}


def rotate_all(folder: Path, *, largest: int = LARGEST) -> None:
    """Empty every log of more than `largest` bytes in place, since its process holds it open for appending.

    Lines written between the copy and the cut are lost; two older files are kept.
    """
    for file in folder.glob("*.log"):
        if file.stat().st_size <= largest:
            continue
        first, second = Path(f"{file}.1"), Path(f"{file}.2")
        with suppress(FileNotFoundError):
            first.replace(second)
        shutil.copyfile(file, first)
        first.chmod(0o600)
        os.truncate(file, 0)


def tail(file: Path, lines: int, *, end: int | None = None) -> list[str]:
    """The last `lines` lines before byte `end` (the file's own by default); none where there is no file."""
    try:
        with file.open("rb") as opened:
            end = opened.seek(0, os.SEEK_END) if end is None else end
            text = b""
            while end > 0 and text.count(b"\n") <= lines:
                start = max(0, end - BLOCK)
                opened.seek(start)
                text = opened.read(end - start) + text
                end = start
    except FileNotFoundError:
        return []
    return text.decode(errors="replace").splitlines()[-lines:] if lines else []


def end_of_lines(file: Path) -> int:
    """The byte after the last whole line: where `tail` may end and `follow` begin, and nothing is lost between."""
    with file.open("rb") as opened:
        end = opened.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            opened.seek(start)
            newline = opened.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def follow(
    find: Callable[[], dict[str, Path]],
    starts: dict[str, int],
    *,
    go_on: Callable[[], bool],
    pause: float = 0.2,
) -> Iterator[tuple[str, str]]:
    """(name, line) of every whole line behind `starts`, across rotation; files that appear later from their first."""
    positions = dict(starts)
    while go_on():
        quiet = True
        for name, file in find().items():
            if not file.exists():
                continue
            positions.setdefault(name, 0)
            size = file.stat().st_size
            if size < positions[name]:
                positions[name] = 0  # it was emptied
            if size == positions[name]:
                continue
            with file.open("rb") as opened:
                opened.seek(positions[name])
                text = opened.read(size - positions[name])
            whole, newline, _ = text.rpartition(b"\n")
            if newline:
                positions[name] += len(whole) + 1
                quiet = False
                for line in whole.decode(errors="replace").split("\n"):
                    yield name, line
        if quiet:
            time.sleep(pause)
