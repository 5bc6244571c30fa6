"""`heliu train`: pretrain, fine-tune and distill models, and train heads."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli import watch
from services.cli.client import connect
from services.cli.lifecycle import Json
from shared.errors import InvalidInput

app = typer.Typer(help="Pretrain, fine-tune and evaluate models.", no_args_is_help=True)

Set = Annotated[list[str] | None, typer.Option("--set", help="A hyperparameter, NAME=VALUE; many times.")]
Pin = Annotated[
    list[str] | None,
    typer.Option(
        "--pin", help="How the new model answers by itself, NAME=VALUE (temperature, max_tokens, ...)."
    ),
]
Priority = Annotated[int, typer.Option(min=-100, max=100, help="The highest of your own jobs starts first.")]
Preemptible = Annotated[
    bool | None,
    typer.Option(
        "--preemptible/--not-preemptible",
        help="May stop at a checkpoint for what is more urgent and go on later; by default under priority 0.",
    ),
]
Wait = Annotated[bool, typer.Option(help="Wait for the end.")]


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="Name of the new model.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version (dsv-) or file (file-).")],
    model: Annotated[str | None, typer.Option(help="Train this base or adapter on.")] = None,
    validation: Annotated[str | None, typer.Option(help="Held-out texts, as DATA.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    pin: Pin = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train a small base model on texts, tokenizer included, from scratch; or one that exists, with --model."""
    body = {
        "type": "pretrain",
        "name": name,
        "model": model,
        "training_file": data,
        "validation_file": validation,
        "seed": seed,
        "hyperparameters": _parsed(parameters),
        **_pinned(pin),
    }
    _submit("/v1/training/jobs", body | _urgency(priority, preemptible), wait, as_json)


@app.command()
def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A base, or an adapter to train further.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version (dsv-) or file (file-).")],
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's name.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    pin: Pin = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on the answers of conversations (LoRA; --set method=full for all weights)."""
    body = {
        "model": model,
        "training_file": data,
        "suffix": suffix,
        "seed": seed,
    }
    path, method = _tuning("sft", "supervised", parameters, pin)
    _submit(path, body | method | _urgency(priority, preemptible), wait, as_json)


@app.command()
def dpo(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A base, or an adapter to train further.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version (dsv-) or file (file-).")],
    validation: Annotated[str | None, typer.Option(help="Held-out pairs, as DATA.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's name.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    pin: Pin = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Tune a model on pairs of a better and a worse answer (LoRA; --set beta=0.2, --set loss=ipo)."""
    body = {
        "model": model,
        "training_file": data,
        "validation_file": validation,
        "suffix": suffix,
        "seed": seed,
    }
    path, method = _tuning("dpo", "dpo", parameters, pin)
    _submit(path, body | method | _urgency(priority, preemptible), wait, as_json)


@app.command()
def head(
    name: Annotated[str, typer.Argument(help="Name of the new classifier or ranker.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version (dsv-) or file (file-).")],
    head: Annotated[
        str, typer.Option(help="single_label, multi_label, regression, rank_pairwise or rank_pointwise.")
    ] = "single_label",
    model: Annotated[str | None, typer.Option(help="What it stands on: an encoder, a base, ...")] = None,
    method: Annotated[str | None, typer.Option(help="full, frozen, lora or lstm.")] = None,
    loss: Annotated[str, typer.Option(help="By name; auto is the head's usual one.")] = "auto",
    validation: Annotated[str | None, typer.Option(help="Held-out rows, as DATA.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train a head that classifies, measures or ranks texts; an LSTM from scratch where no --model is given."""
    body = {
        "type": "head",
        "name": name,
        "head": head,
        "method": method or ("full" if model else "lstm"),
        "loss": loss,
        "model": model,
        "training_file": data,
        "validation_file": validation,
        "seed": seed,
        "hyperparameters": _parsed(parameters),
    }
    _submit("/v1/training/jobs", body | _urgency(priority, preemptible), wait, as_json)


@app.command()
def encoder(
    name: Annotated[str, typer.Argument(help="Name of the new encoder.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version (dsv-) or file (file-).")],
    validation: Annotated[str | None, typer.Option(help="Held-out rows, as DATA.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train a sentence encoder from scratch on texts whose label says which mean the same."""
    body = {
        "type": "encoder",
        "name": name,
        "training_file": data,
        "validation_file": validation,
        "seed": seed,
        "hyperparameters": _parsed(parameters),
    }
    _submit("/v1/training/jobs", body | _urgency(priority, preemptible), wait, as_json)


@app.command("multi-task")
def multi_task(
    name: Annotated[str, typer.Argument(help="What the models' names begin with: NAME.TASK.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The trunk: an encoder, a base, ...")],
    task: Annotated[
        list[str],
        typer.Option(metavar="TASK=HEAD:DATA[:VALIDATION]", help="intent=single_label:file-...; many times."),
    ],
    loss: Annotated[list[str] | None, typer.Option(metavar="TASK=LOSS", help="focal, hinge, ...")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(metavar="TASK=NUMBER", help="What a task's loss is multiplied by.")
    ] = None,
    method: Annotated[str, typer.Option(help="full or lora.")] = "full",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train heads of several tasks on one trunk; each is a model of its own. --set temperature=4 draws small tasks
    more often."""
    tasks = {one["name"]: one for one in map(_task, task)}
    for field, option, pairs in (("loss", "--loss", loss), ("weight", "--weight", weight)):
        for of, value in _parsed(pairs, option).items():
            if of not in tasks:
                raise InvalidInput(f"{option} names {of!r}; the tasks are {', '.join(tasks)}", param=option)
            tasks[of][field] = value
    body = {
        "type": "multi_task",
        "name": name,
        "model": model,
        "method": method,
        "tasks": list(tasks.values()),
        "seed": seed,
        "hyperparameters": _parsed(parameters),
    }
    _submit("/v1/training/jobs", body | _urgency(priority, preemptible), wait, as_json)


@app.command()
def distill(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Who answers: a model, or task:NAME.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base that learns.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version (dsv-) or file (file-).")],
    validation: Annotated[str | None, typer.Option(help="Held-out rows, as DATA.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the student's name.")] = None,
    max_prompts: Annotated[int | None, typer.Option(min=1, help="Prompts at most.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer at most.")] = None,
    held_out: Annotated[int, typer.Option(min=1, help="Held-out prompts at most.")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    parameters: Set = None,
    pin: Pin = None,
    priority: Priority = 0,
    preemptible: Preemptible = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Have a served model answer the prompts of DATA, and fine-tune a smaller one on what it said."""
    body = {
        "type": "distill",
        "teacher": teacher,
        "model": model,
        "training_file": data,
        "validation_file": validation,
        "suffix": suffix,
        "max_prompts": max_prompts or "auto",
        "generation": {"max_tokens": max_tokens} if max_tokens else {},
        "held_out_rows": held_out,
        "seed": seed,
        "hyperparameters": _parsed(parameters),
        **_pinned(pin),
    }
    _submit("/v1/training/jobs", body | _urgency(priority, preemptible), wait, as_json)


def _submit(path: str, body: dict[str, Any], wait: bool, as_json: bool) -> None:
    with closing(connect()) as client:
        watch.answer(client, client.post(path, body), wait=wait, as_json=as_json)


def _tuning(
    way: str, theirs: str, parameters: list[str] | None, pin: list[str] | None
) -> tuple[str, dict[str, Any]]:
    """(path, what a body says of its way): OpenAI's, but for what its API does not have."""
    wanted = {"hyperparameters": _parsed(parameters)}
    if pin:
        return "/v1/training/jobs", {"type": way, **wanted, **_pinned(pin)}
    return "/v1/fine_tuning/jobs", {"method": {"type": theirs, theirs: wanted}}


def _pinned(pin: list[str] | None) -> dict[str, Any]:
    return {"decoding": _parsed(pin, "--pin")} if pin else {}


def _urgency(priority: int, preemptible: bool | None) -> dict[str, Any]:
    """What is not asked for is not said, so that bodies are as short as they can be."""
    told = {"priority": priority or None, "preemptible": preemptible}
    return {name: value for name, value in told.items() if value is not None}


def _task(given: str) -> dict[str, Any]:
    """`intent=single_label:file-1:file-2` as a task of the body."""
    name, equals, rest = given.partition("=")
    head, colon, data = rest.partition(":")
    if not equals or not colon:
        raise InvalidInput(
            f"--task takes TASK=HEAD:DATA or TASK=HEAD:DATA:VALIDATION, got {given!r}", param="--task"
        )
    training, _, validation = data.partition(":")
    return {"name": name, "head": head, "training_file": training, "validation_file": validation or None}


def _parsed(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """`n_epochs=3` -> {"n_epochs": 3}; what is no JSON is a string. The gateway refuses unknown names."""
    parsed: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"{option} takes NAME=VALUE, got {pair!r}", param=option)
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed
