"""`heliu embed`, `heliu tokenize` and `heliu detokenize`: what models make of texts, and are given of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client import Client, connect
from services.cli.lifecycle import Json
from services.cli.listing import field, show
from services.cli.output import err, out, print_json
from shared.errors import InvalidInput

app = typer.Typer()

Model = Annotated[str, typer.Argument(metavar="MODEL")]
# Texts of one request: few enough that a file's progress is seen.
AT_ONCE = 256
SHOWN = 4


@app.command()
def embed(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...")] = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Texts, one a line; - is standard input.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Only the first so many numbers.")] = None,
    as_json: Json = False,
) -> None:
    """Vectors of texts, and how like the first one each is; --json prints all numbers."""
    asked = given_texts(texts or [], file)
    with closing(connect()) as client:
        answer = _embed(client, model, asked, dimensions)
    if as_json:
        print_json(answer)
        return
    vectors = [row["embedding"] for row in answer["data"]]
    rows = [
        {"text": text, "like_first": f"{_likeness(vectors[0], vector):.3f}", "vector": _beginning(vector)}
        for text, vector in zip(asked, vectors, strict=True)
    ]
    columns = [field("like_first"), field("vector"), field("text")]
    show({"data": rows}, columns, as_json=False, nothing="no texts")
    err.print(
        f"{len(vectors)} vectors of {len(vectors[0])} numbers; {answer['usage']['prompt_tokens']} tokens"
    )


@app.command()
def tokenize(
    model: Model,
    text: Annotated[
        str | None, typer.Argument(help="Without one, or with -, standard input is read.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="As a user's message, through the chat template.")
    ] = False,
    special: Annotated[bool, typer.Option(help="With the special tokens that go around a text.")] = True,
    as_json: Json = False,
) -> None:
    """The tokens that a model is given, and how many of them it takes."""
    said = sys.stdin.read() if text in (None, "-") else text
    body: dict[str, Any] = {"model": model}
    if chat:
        body["messages"] = [{"role": "user", "content": said}]
    else:
        body |= {"prompt": said, "add_special_tokens": special}
    with closing(connect()) as client:
        answer = client.post("/v1/tokenize", body)
    if as_json:
        print_json(answer)
        return
    # Quoted, so that spaces and line ends are seen.
    rows = [
        {"token": token, "text": repr(piece)}
        for token, piece in zip(answer["tokens"], answer["token_strs"], strict=True)
    ]
    show({"data": rows}, [field("token"), field("text")], as_json=False, nothing="no tokens")
    err.print(f"{answer['count']} tokens; the model takes {answer['max_model_len']}")


@app.command()
def detokenize(
    model: Model,
    tokens: Annotated[list[int], typer.Argument(metavar="TOKEN...", min=0)],
    as_json: Json = False,
) -> None:
    """The text of tokens."""
    with closing(connect()) as client:
        answer = client.post("/v1/detokenize", {"model": model, "tokens": tokens})
    if as_json:
        print_json(answer)
    else:
        out.print(answer["prompt"])


def given_texts(given: Sequence[str], file: str | None) -> list[str]:
    """What was given as words or as lines of a file. Raises InvalidInput."""
    if (file is None) == (not given):
        raise InvalidInput("give texts, or --file with one a line", param="TEXT")
    if file is None:
        return list(given)
    try:
        content = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{file} cannot be read: {exc}", param="--file") from exc
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise InvalidInput(f"{file} has no texts; give one a line", param="--file")
    return lines


def _embed(client: Client, model: str, texts: Sequence[str], dimensions: int | None) -> dict[str, Any]:
    """The answers to as many requests as it takes, as one."""
    whole: dict[str, Any] = {}
    options = {} if dimensions is None else {"dimensions": dimensions}
    for start in range(0, len(texts), AT_ONCE):
        body = {"model": model, "input": list(texts[start : start + AT_ONCE]), **options}
        answer = client.post("/v1/embeddings", body)
        for row in answer["data"]:
            row["index"] += start
        if not whole:
            whole = answer
        else:
            whole["data"] += answer["data"]
            for name in whole["usage"]:
                whole["usage"][name] += answer["usage"][name]
        if len(texts) > AT_ONCE:
            err.print(f"{len(whole['data'])} of {len(texts)}")
    return whole


def _likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / ((math.hypot(*one) * math.hypot(*other)) or 1.0)


def _beginning(vector: Sequence[float]) -> str:
    shown = " ".join(f"{number:+.3f}" for number in vector[:SHOWN])
    return f"{shown} ..." if len(vector) > SHOWN else shown
