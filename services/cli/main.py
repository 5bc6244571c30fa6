"""The `heliu` command: gathers the verbs of the other modules and turns errors into exit codes."""

from __future__ import annotations

import sys

import typer

from services.cli import (
    alerts,
    batches,
    chat,
    checks,
    curves,
    datasets,
    demo,
    embed,
    erasures,
    estimates,
    eval_runs,
    evals,
    evaluations,
    files,
    jobs,
    keys,
    label,
    lifecycle,
    lineage,
    marking,
    models,
    registry,
    registry_moves,
    scores,
    searches,
    sources,
    stored,
    tasks,
    traces,
    train,
    upstreams,
    vector_stores,
    warehouse,
)
from services.cli.output import report
from shared.errors import HeliuError

app = typer.Typer(
    help="Govern data, adapt models, serve and watch them, on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(lifecycle.app)
app.add_typer(demo.app)
app.add_typer(traces.app, name="traces")
app.add_typer(alerts.app, name="alerts")
app.add_typer(chat.app)
app.add_typer(stored.app, name="stored")
app.add_typer(embed.app)
app.add_typer(scores.app)
datasets.app.command("lineage")(lineage.lineage)
datasets.app.command("erase")(erasures.erase)
datasets.app.command("erasures")(erasures.erasures)
datasets.app.command("rebuild")(erasures.rebuild)
for verb in (
    warehouse.query,
    warehouse.diff,
    warehouse.tag,
    warehouse.tags,
    warehouse.untag,
    warehouse.download,
    warehouse.export,
    warehouse.croissant,
    warehouse.retention,
    warehouse.gc,
):
    datasets.app.command()(verb)
datasets.app.command("sync")(sources.sync)
datasets.app.command("check")(checks.check)
app.add_typer(datasets.app, name="data")
app.add_typer(label.app, name="label")
app.add_typer(sources.app, name="sources")
train.app.command()(curves.watch)
train.app.command()(curves.curves)
train.app.command()(curves.tensorboard)
train.app.command()(evaluations.evaluate)
train.app.command()(estimates.estimate)
app.add_typer(train.app, name="train")
app.add_typer(searches.app, name="search")
app.add_typer(models.app, name="models")
for move in (
    registry_moves.stage,
    registry_moves.archive,
    registry_moves.gate,
    registry_moves.promote,
    registry_moves.canary,
    registry_moves.rollback,
    registry_moves.approve,
    registry_moves.reject,
    registry_moves.waive,
):
    registry.app.command()(move)
app.add_typer(registry.app, name="registry")
evals.app.command()(eval_runs.run)
app.add_typer(evals.app, name="evals")
app.add_typer(upstreams.app, name="upstreams")
app.add_typer(vector_stores.app, name="vector-stores")
app.add_typer(tasks.app, name="tasks")
app.add_typer(marking.app, name="marking")
app.add_typer(batches.app, name="batch")
app.add_typer(jobs.app, name="jobs")
app.add_typer(files.app, name="files")
app.add_typer(models.workers, name="workers")
app.add_typer(keys.app, name="keys")
app.add_typer(keys.tenants, name="tenants")


def main() -> None:
    try:
        app()
    except HeliuError as exc:
        sys.exit(report(exc))


if __name__ == "__main__":
    main()
