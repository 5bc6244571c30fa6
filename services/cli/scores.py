"""`heliu classify` and `heliu rerank`: what heads make of texts."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli.client import connect
from services.cli.embed import Model, given_texts
from services.cli.lifecycle import Json
from services.cli.listing import field, show
from services.cli.output import err

app = typer.Typer()

File = Annotated[str | None, typer.Option(metavar="FILE", help="Texts, one a line; - is standard input.")]


@app.command()
def classify(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...")] = None,
    file: File = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Labels of each text.")] = 3,
    as_json: Json = False,
) -> None:
    """Labels of texts with their probabilities; a regression's number."""
    asked = given_texts(texts or [], file)
    with closing(connect()) as client:
        answer = client.post("/v1/classifications", {"model": model, "input": asked, "top_k": top})
    rows = [{"text": text, "labels": _labels(row)} for text, row in zip(asked, answer["data"], strict=True)]
    columns = [field("text"), field("labels")]
    show(answer if as_json else {"data": rows}, columns, as_json=as_json, nothing="no texts")
    err.print(f"{len(rows)} texts; {answer['usage']['prompt_tokens']} tokens")


@app.command()
def rerank(
    model: Model,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    documents: Annotated[list[str] | None, typer.Argument(metavar="[DOCUMENT]...")] = None,
    file: File = None,
    top: Annotated[int | None, typer.Option(min=1, help="The best so many.")] = None,
    as_json: Json = False,
) -> None:
    """Documents in the order of how well they answer a query, by a ranker or an encoder."""
    asked = given_texts(documents or [], file)
    body = {"model": model, "query": query, "documents": asked, "top_n": top}
    with closing(connect()) as client:
        answer = client.post("/v1/rerank", body)
    rows = [
        {"score": f"{row['relevance_score']:.3f}", "document": row["document"]["text"]}
        for row in answer["results"]
    ]
    columns = [field("score"), field("document")]
    show(answer if as_json else {"data": rows}, columns, as_json=as_json, nothing="no documents")


def _labels(row: dict[str, Any]) -> str:
    named = ", ".join(f"{one['label']} {one['score']:.3f}" for one in row["predictions"])
    return named or f"{row['score']:.4g}"
