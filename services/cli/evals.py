"""`heliu evals`: make evals, run them on models, and compare what two of them reach."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import Column, field, show, show_one, text, when
from services.cli.output import err, out, print_json
from shared.errors import InvalidInput

app = typer.Typer(help="Make evals, run them on models, compare runs.", no_args_is_help=True)

EvalId = Annotated[str, typer.Argument(metavar="EVAL")]
RunId = Annotated[str, typer.Argument(metavar="RUN")]
Limit = Annotated[int, typer.Option(min=1, max=100)]


@app.command()
def create(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML or JSON: data_source_config, testing_criteria, ...")
    ],
    name: Annotated[str | None, typer.Option(help="In the place of the file's.")] = None,
    as_json: Json = False,
) -> None:
    """Make an eval of a file."""
    body = read(path)
    if name is not None:
        body["name"] = name
    with closing(connect()) as client:
        made = client.post("/v1/evals", body)
    if as_json:
        print_json(made)
        return
    show_one({"id": made["id"], "name": made["name"], "criteria": _criteria(made)}, as_json=False)


@app.command("list")
def list_evals(limit: Limit = 20, as_json: Json = False) -> None:
    """The newest evals."""
    columns: list[Column] = [field("id"), when("created_at"), field("name"), ("criteria", _criteria)]
    with closing(connect()) as client:
        page = client.get("/v1/evals", limit=limit, order="desc")
    show(page, columns, as_json=as_json, nothing="no evals; `heliu evals create FILE` makes one")


@app.command("show")
def show_eval(
    eval_id: EvalId,
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """An eval with its newest runs, or one of its runs with its figures."""
    with closing(connect()) as client:
        if run_id is not None:
            show_run(client.get(path_of("evals", eval_id, "runs", run_id)), as_json=as_json)
            return
        shown = client.get(path_of("evals", eval_id))
        page = client.get(path_of("evals", eval_id, "runs"), limit=limit, order="desc")
    if as_json:
        print_json({**shown, "runs": page["data"]})
        return
    show_one({"id": shown["id"], "name": shown["name"], "criteria": _criteria(shown)}, as_json=False)
    columns: list[Column] = [
        field("id"),
        field("status"),
        when("created_at"),
        field("model"),
        ("passed", lambda row: "{passed}/{total}".format(**row["result_counts"])),
        ("score", lambda row: figure(row.get("score"))),
    ]
    show(page, columns, as_json=False, nothing="no runs yet")


@app.command()
def items(
    eval_id: EvalId,
    run_id: RunId,
    failed: Annotated[bool, typer.Option("--failed", help="Those that did not pass.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """What each item of a run came to."""
    query = {"limit": limit, "status": "fail" if failed else None}
    with closing(connect()) as client:
        page = client.get(path_of("evals", eval_id, "runs", run_id, "output_items"), **query)
    columns: list[Column] = [
        ("item", lambda row: row["datasource_item_id"]),
        field("status"),
        ("score", lambda row: f"{row['score']:.3f}"),
        ("answer", lambda row: "".join(str(one["content"]) for one in row["sample"]["output"])),
        ("why", lambda row: (row["error"] or {}).get("message") or _failed(row)),
    ]
    show(page, columns, as_json=as_json, nothing="no items")


@app.command()
def compare(
    eval_id: EvalId,
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="What is held against.")],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="What is held.")],
    min_items: Annotated[int, typer.Option(min=2, help="Fewer are inconclusive.")] = 30,
    as_json: Json = False,
) -> None:
    """The second run against the first, on the items that both have."""
    with closing(connect()) as client:
        told = client.get(path_of("evals", eval_id, "compare"), run=[a, b], min_items=min_items)
    if as_json:
        print_json(told)
        return
    out.print(f"{told['verdict']}: {text(told['reason'])}")
    rows = [{"slice": "all", **told}]
    rows += [
        {"slice": f"{name}={value}", **one}
        for name, values in told["slices"].items()
        for value, one in values.items()
        if len(values) > 1
    ]
    columns: list[Column] = [
        field("slice"),
        ("items", lambda row: (row["score"] or {}).get("n", 0)),
        ("a", lambda row: _number(row["score"], "a")),
        ("b", lambda row: _number(row["score"], "b")),
        ("difference", lambda row: _span(row["score"])),
        ("p", lambda row: _number(row["score"], "p_value")),
        ("mcnemar", lambda row: _number(row["passed"], "mcnemar_p_value")),
        field("verdict"),
    ]
    show({"data": rows}, columns, as_json=False, nothing="no item is in both runs")


@app.command()
def cancel(eval_id: EvalId, run_id: RunId, as_json: Json = False) -> None:
    """End a run; items that are graded stay."""
    with closing(connect()) as client:
        show_run(client.post(path_of("evals", eval_id, "runs", run_id, "cancel")), as_json=as_json)


@app.command()
def delete(
    eval_id: EvalId,
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]")] = None,
    as_json: Json = False,
) -> None:
    """Delete a run, or an eval with all of its runs."""
    path = path_of("evals", eval_id) if run_id is None else path_of("evals", eval_id, "runs", run_id)
    with closing(connect()) as client:
        show_one(client.delete(path), as_json=as_json)


@app.command()
def report(
    eval_id: EvalId,
    run_id: RunId,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page is written here.")],
) -> None:
    """A run's report as one HTML page without script."""
    with closing(connect()) as client, output.open("wb") as target:
        for chunk in client.download(path_of("evals", eval_id, "runs", run_id, "report") + "?format=html"):
            target.write(chunk)
    err.print(f"{output} written")


def show_run(run: dict[str, Any], *, as_json: bool) -> None:
    """A run with its counts and figures."""
    if as_json:
        print_json(run)
        return
    named = {name: run[name] for name in ("id", "name", "model", "status", "phase")}
    counts = run["result_counts"]
    show_one({**named, "error": (run["error"] or {}).get("message"), **counts}, as_json=False)
    for one in run["per_testing_criteria_results"]:
        out.print(f"  {text(one['testing_criteria'])}: {one['passed']} passed, {one['failed']} failed")
    if "score" in run:
        out.print(f"pass rate {figure(run['passed'])}, mean score {figure(run['score'])}")
    for metric in run.get("metrics", []):
        for name, one in metric["figures"].items():
            out.print(f"  {text(metric['name'])} {text(name)}: {figure(one)}")


def figure(one: Mapping[str, Any] | None) -> str:
    """A figure with its interval, as 0.812 [0.790, 0.834]."""
    if one is None:
        return ""
    if one["low"] is None:
        return f"{one['value']:.3f}"
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _criteria(shown: Mapping[str, Any]) -> str:
    return ", ".join(f"{one['name']} ({one['type']})" for one in shown["testing_criteria"])


def _failed(row: Mapping[str, Any]) -> str:
    return ", ".join(str(one["name"]) for one in row["results"] if not one["passed"])


def _number(one: Mapping[str, Any] | None, name: str) -> str:
    return f"{one[name]:.4g}" if one is not None else ""


def _span(one: Mapping[str, Any] | None) -> str:
    return f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" if one is not None else ""


def read(path: Path) -> dict[str, Any]:
    """An object of a YAML or JSON file, which is YAML too."""
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file", param="FILE")
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} is neither YAML nor JSON: {exc}", param="FILE") from exc
    if not isinstance(told, dict):
        raise InvalidInput(f"{path} must hold an object, as {{data_source_config: ...}}", param="FILE")
    return told
