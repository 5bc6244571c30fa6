"""`heliu search`: try many settings of a training, watch the trials, and look at what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.cli.client import ENDED, Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import Column, field, show, show_one, text, when
from services.cli.output import err, out, print_json
from shared.errors import HeliuError, InvalidInput

app = typer.Typer(help="Search for hyperparameters: trials as training jobs.", no_args_is_help=True)

SearchId = Annotated[str, typer.Argument(metavar="SEARCH", help="search-...")]
POLL_S = 1.0
BAR = 40


@app.command()
def create(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="YAML or JSON: a body of /v1/training/searches, or of a training job."
        ),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(help="PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A,B,C; many times."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the best model is served as.")] = None,
    metric: Annotated[str | None, typer.Option(help="What makes a trial good.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many at most.")] = None,
    parallel: Annotated[str | None, typer.Option(help="At once, or auto.")] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, random or grid.")] = None,
    pruner: Annotated[str | None, typer.Option(help="median, hyperband or none.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1)] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Start a search over what varies; the best trial's model is served when all have ended."""
    body = _body(path)
    body["space"] |= dict(map(_varied, vary or []))
    if metric is not None:
        body["objective"] = {"metric": metric}
    given = {
        "name": name,
        "trials": trials,
        "parallel": int(parallel) if parallel and parallel.isdecimal() else parallel,
        "sampler": sampler,
        "pruner": pruner,
        "seed": seed,
        "max_seconds": max_seconds,
    }
    body |= {key: value for key, value in given.items() if value is not None}
    with closing(connect()) as client:
        made = client.post("/v1/training/searches", body)
        if not wait:
            err.print(f"accepted; `heliu search watch {made['id']}` follows it")
            show_one(made, as_json=as_json)
            return
        _finish(client, made["id"], as_json=as_json)


@app.command("list")
def list_searches(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """Searches, newest first."""
    columns: list[Column] = [
        field("id"),
        field("status"),
        when("created_at"),
        ("trials", lambda row: f"{_done(row)}/{row['trials_wanted']}"),
        ("metric", lambda row: row["objective"]["metric"]),
        ("best", lambda row: _value(row["best"]["value"]) if row["best"] else ""),
        ("model", lambda row: row["model"] or ""),
    ]
    with closing(connect()) as client:
        page = client.get("/v1/training/searches", limit=limit)
    show(page, columns, as_json=as_json, nothing="no search yet")


@app.command("show")
def show_search(search_id: SearchId, as_json: Json = False) -> None:
    """A search and its trials."""
    with closing(connect()) as client:
        found = client.get(path_of("training", "searches", search_id))
    _show(found, as_json=as_json)


@app.command()
def watch(
    search_id: SearchId,
    as_json: Annotated[bool, typer.Option("--json", help="The search as JSON when it has ended.")] = False,
) -> None:
    """Follow a search until it ends; Ctrl-C leaves it running."""
    with closing(connect()) as client:
        _finish(client, search_id, as_json=as_json)


@app.command()
def report(
    search_id: SearchId,
    html: Annotated[Path | None, typer.Option(help="Write the page with its plots to this file.")] = None,
    as_json: Json = False,
) -> None:
    """How the best value came about and which parameters matter."""
    with closing(connect()) as client:
        if html is not None:
            page = b"".join(client.download(path_of("training", "searches", search_id, "report")))
            html.write_bytes(page)
            show_one({"file": str(html), "bytes": len(page)}, as_json=as_json)
            return
        history = client.get(path_of("training", "searches", search_id, "history"))
        importance = client.get(path_of("training", "searches", search_id, "importance"))
    if as_json:
        print_json({"history": history["data"], "importance": importance})
        return
    columns: list[Column] = [
        ("trial", lambda row: row["number"]),
        field("state"),
        ("value", lambda row: _value(row["value"])),
        ("best", lambda row: _value(row["best_value"])),
        when("finished_at"),
    ]
    show(history, columns, as_json=False, nothing="no trial has ended yet")
    out.print("")
    shares = importance["importances"]
    if shares is None:
        out.print(f"importance: none, {text(importance['reason'])}")
        return
    width = max(map(len, shares))
    for path, share in shares.items():
        out.print(f"{text(path):<{width}}  {share:6.1%}  {'█' * round(BAR * share)}")


def _finish(client: Client, search_id: str, *, as_json: bool) -> None:
    """Wait with the progress on stderr, then show the search. Raises HeliuError where it did not succeed."""
    told = ""
    try:
        while True:
            found = client.request("GET", path_of("training", "searches", search_id), traced=False)
            if (line := _line(found)) != told:
                told = line
                err.print(f"{search_id}  {line}")
            if found["status"] in ENDED:
                break
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        err.print(f"{search_id} goes on; `heliu jobs pause {search_id}` and `heliu jobs cancel` stop it")
        raise
    _show(found, as_json=as_json)
    if found["status"] != "succeeded":
        error = found["error"] or {"code": found["status"], "message": "no model was made"}
        raise HeliuError(
            f"search {search_id} is {found['status']}: {text(error['message'])} (trace {found['trace_id']})",
            code=str(error["code"]),
        )


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    told = {name: found[name] for name in ("id", "status", "model", "models", "sampler", "pruner", "seed")}
    told["trials"] = _line(found)
    show_one(told, as_json=False)
    out.print("")
    paths = list(found["space"])
    columns: list[Column] = [
        ("trial", lambda row: row["number"]),
        field("state"),
        (found["objective"]["metric"], lambda row: _value(row["value"])),
        *[(path.rpartition(".")[2], lambda row, path=path: _value(row["params"][path])) for path in paths],
        field("job_id"),
        ("why", lambda row: (row["error"] or {}).get("message", "")),
    ]
    show({"data": found["trials"]}, columns, as_json=False, nothing="no trial yet")


def _line(found: dict[str, Any]) -> str:
    counts = {state: count for state, count in found["counts"].items() if count and state != "total"}
    ended = f"{_done(found)} of {found['trials_wanted']} trials"
    best = found["best"]
    ahead = f", best {found['objective']['metric']} {_value(best['value'])}" if best else ""
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{found['status']}: {ended}{ahead}" + (f" ({told})" if told else "")


def _done(found: Mapping[str, Any]) -> int:
    return sum(found["counts"][state] for state in ("complete", "pruned", "failed", "cancelled"))


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _body(path: Path) -> dict[str, Any]:
    """The file's search; a training job by itself is one that `--vary` says the space of."""
    try:
        parsed = yaml.safe_load(path.read_bytes())
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}", param="FILE") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} is neither YAML nor JSON: {exc}", param="FILE") from exc
    if not isinstance(parsed, dict):
        raise InvalidInput(f"{path} holds no object", param="FILE")
    body = parsed if "job" in parsed else {"job": parsed}
    space = body.setdefault("space", {})
    if not isinstance(space, dict):
        raise InvalidInput(f"{path}: the space is no object of ranges by path", param="FILE")
    for one in space.values():
        for name in ("low", "high", "step"):
            # YAML takes 1e-5 for a word.
            if isinstance(one, dict) and isinstance(one.get(name), str):
                one[name] = _parsed(one[name])
    return body


def _varied(pair: str) -> tuple[str, dict[str, Any]]:
    """`lr=1e-4..1e-1:log` and `loss=focal,cross_entropy` as ranges. Whole numbers at both ends are an int range."""
    path, equals, values = pair.partition("=")
    if not equals or not values:
        raise InvalidInput(f"--vary takes PATH=LOW..HIGH or PATH=A,B,C, got {pair!r}", param="--vary")
    ends, _, scale = values.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        return path, {"type": "categorical", "choices": [_parsed(one) for one in values.split(",")]}
    numbers = [_parsed(low), _parsed(high)]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or scale not in (
        "",
        "log",
    ):
        raise InvalidInput(
            f"--vary {pair!r} is no range of numbers; write LOW..HIGH or LOW..HIGH:log", param="--vary"
        )
    whole = all(isinstance(one, int) for one in numbers)
    return path, {
        "type": "int" if whole else "float",
        "low": numbers[0] if whole else float(numbers[0]),
        "high": numbers[1] if whole else float(numbers[1]),
        **({"log": True} if scale else {}),
    }


def _parsed(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word
