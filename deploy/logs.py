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


def tail(file: Path, lines: int) -> list[str]:
    """The last `lines` lines; none where there is no file."""
    try:
        with file.open("rb") as opened:
            end = opened.seek(0, os.SEEK_END)
            text = b""
            while end > 0 and text.count(b"\n") <= lines:
                start = max(0, end - BLOCK)
                opened.seek(start)
                text = opened.read(end - start) + text
                end = start
    except FileNotFoundError:
        return []
    return text.decode(errors="replace").splitlines()[-lines:] if lines else []


def follow(
    files: dict[str, Path], *, go_on: Callable[[], bool], pause: float = 0.2
) -> Iterator[tuple[str, str]]:
    """(name, line) of every line appended from now on, across rotation and files that appear later."""
    positions = {name: file.stat().st_size if file.exists() else 0 for name, file in files.items()}
    while go_on():
        quiet = True
        for name, file in files.items():
            if not file.exists():
                continue
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
