"""Training rows out of governed Parquet and JSONL files, streamed and checked. Knows no tokenizer and no torch.

Conversations have `messages`; plain text has `text`; text with a `label` is also a one-turn conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from shared.contracts.head_rows import is_text
from shared.contracts.preferences import why_no_conversation
from shared.errors import InvalidInput

MAX_LINE_BYTES = 1 << 20
ROLES = ("system", "user", "assistant")
Split = Literal["train", "validation"]
# Keys that would change what the model must learn, and that this trainer does not learn.
_UNSUPPORTED = ("tools", "functions", "parallel_tool_calls")
_COLUMNS = ("_source_line", "messages", "text", "label", "split")


@dataclass(frozen=True)
class Message:
    """One turn. `trained` is False where the file gives an assistant message the weight 0."""

    role: str
    content: str
    trained: bool = True

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Row:
    """One row and its place in the source: a conversation, or a plain text with an optional label."""

    line: int
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    label: str | None = None

    def conversation(self) -> tuple[Message, ...] | None:
        """The row as a conversation, or None where it is plain text without a label."""
        if self.messages is not None:
            return self.messages
        if self.text is not None and self.label is not None:
            return (Message("user", self.text), Message("assistant", self.label))
        return None

    def plain_text(self) -> str:
        """The row as text for pretraining: a role word and the content of each turn on lines of their own."""
        turns = self.conversation()
        if turns is None:
            return self.text or ""
        return "".join(f"{m.role}\n{m.content}\n" for m in turns)


def read_rows(paths: Sequence[Path], split: Split, param: str = "training_file") -> Iterator[Row]:
    """Stream the rows of `split`; a JSONL file has no splits and is taken whole.

    Raises InvalidInput `invalid_training_file` with the line at fault.
    """
    for line, record in read_records(paths, split, param):
        yield _row_of(record, line, param)


def read_records(
    paths: Sequence[Path], split: Split, param: str = "training_file", *, meta: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same as (line, object), before anything is asked of its keys; of versions with `meta`, what a recipe had no
    place for."""
    columns = (*_COLUMNS, "meta") if meta else _COLUMNS
    for path in paths:
        if is_version(path, param):
            yield from _read_parquet(path, split, param, columns)
        else:
            yield from _read_jsonl(path, param)


def conversations(
    rows: Iterable[Row], param: str = "training_file"
) -> Iterator[tuple[int, tuple[Message, ...]]]:
    """Line and turns of each row; refuses rows that nothing can be answered in."""
    for row in rows:
        turns = row.conversation()
        if turns is None:
            raise bad_line(
                row.line, "the row is plain text; fine-tuning needs `messages`, or `text` with `label`", param
            )
        if not any(m.role == "assistant" and m.trained for m in turns):
            raise bad_line(row.line, "no assistant message to learn from", param)
        yield row.line, turns


def is_version(path: Path, param: str) -> bool:
    """Whether it is a governed version's Parquet, whose rows know their split."""
    try:
        with path.open("rb") as handle:
            return handle.read(4) == b"PAR1"
    except OSError as exc:
        raise InvalidInput(
            f"cannot read {path.name}: {exc.strerror}", code="invalid_training_file", param=param
        ) from exc


def _read_parquet(
    path: Path, split: Split, param: str, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise InvalidInput(
                f"{path.name} has no column {', '.join(missing)}; it is no governed dataset version",
                code="invalid_training_file",
                param=param,
            )
        for batch in file.iter_batches(batch_size=512, columns=list(columns)):
            for record in batch.to_pylist():
                if record["split"] == split:
                    yield record["_source_line"], record
    except pa.ArrowException as exc:
        raise InvalidInput(
            f"{path.name} is broken Parquet: {exc}", code="invalid_training_file", param=param
        ) from exc


def _read_jsonl(path: Path, param: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as handle:
        for line in _lines(handle, param):
            number, raw = line
            try:
                record = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
            except UnicodeDecodeError as exc:
                raise bad_line(number, f"byte {exc.start + 1} is not valid UTF-8", param) from exc
            except (ValueError, RecursionError) as exc:
                raise bad_line(number, f"not valid JSON: {exc}", param) from exc
            if not isinstance(record, dict):
                raise bad_line(number, f"a JSON {type(record).__name__}; each line must be an object", param)
            yield number, record


def _lines(handle: Any, param: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise bad_line(number, f"longer than {MAX_LINE_BYTES} bytes", param)
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.strip():
            yield number, raw


def _row_of(record: dict[str, Any], line: int, param: str) -> Row:
    for key in _UNSUPPORTED:
        if record.get(key) is not None:
            raise bad_line(line, f"`{key}` is not supported", param)
    text, label, messages = record.get("text"), record.get("label"), record.get("messages")
    if messages is not None:
        return Row(line, messages=messages_of(messages, line, param))
    if text is None and (why := why_no_conversation(record)) is not None:
        raise bad_line(line, why, param)
    if not is_text(text):
        raise bad_line(line, "neither `messages` nor a `text` that is not empty", param)
    if label is not None and not is_text(label):
        raise bad_line(line, f"`label` is {label!r}; it must be a text that is not empty", param)
    return Row(line, text=text, label=label)


def messages_of(messages: Any, line: int, param: str, place: str = "messages") -> tuple[Message, ...]:
    """The turns in `place` of a row; raises InvalidInput that names what is wrong with them."""
    if not isinstance(messages, list) or not messages:
        raise bad_line(line, f"`{place}` must be a list that is not empty", param)
    return tuple(_message_of(m, f"{place}[{n}]", line, param) for n, m in enumerate(messages))


def _message_of(message: Any, where: str, line: int, param: str) -> Message:
    if not isinstance(message, dict):
        raise bad_line(line, f"{where} is a {type(message).__name__}; it must be an object", param)
    unknown = set(message) - {"role", "content", "weight", "name"}
    if unknown:
        raise bad_line(line, f"{where} has unsupported keys: {', '.join(sorted(map(str, unknown)))}", param)
    role, content, weight = message.get("role"), message.get("content"), message.get("weight")
    role = "system" if role == "developer" else role
    if not isinstance(role, str) or role not in ROLES:
        raise bad_line(line, f"{where}.role is {role!r}; it must be one of {', '.join(ROLES)}", param)
    if not isinstance(content, str) or not is_text(content):
        raise bad_line(line, f"{where}.content must be a text that is not empty", param)
    if weight not in (None, 0, 1) or (weight is not None and role != "assistant"):
        raise bad_line(
            line, f"{where}.weight is {weight!r}; only an assistant message has one, 0 or 1", param
        )
    return Message(role, content, trained=weight != 0)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def bad_line(line: int, what: str, param: str) -> InvalidInput:
    return InvalidInput(f"line {line}: {what}", code="invalid_training_file", param=param)
