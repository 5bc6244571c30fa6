"""What evals name: themselves, models that answer and judge, encoders, and where items come from."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.gateway.adaptation import store as task_store
from services.gateway.answering.stored import check_some
from services.gateway.evals import repository
from services.gateway.models import repository as models_repository
from services.gateway.models import resolve
from shared.contracts.answers import CHAT
from shared.contracts.classifications import CLASSIFICATIONS
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.eval_items import (
    MAX_ITEMS,
    Config,
    DatasetVersion,
    FileId,
    ItemsRef,
    StoredCompletions,
    StoredConfig,
)
from shared.contracts.evals import (
    Classifications,
    Completions,
    ItemMessages,
    Jsonl,
    Metric,
    PerplexityMetric,
    Ranking,
    Responses,
)
from shared.contracts.graders import Criterion, LabelModel, ScoreModel, TextSimilarity
from shared.contracts.inference import ModelRef
from shared.contracts.rerank import RERANK
from shared.contracts.stored_chats import Chosen
from shared.contracts.task import TaskRoute
from shared.contracts.training import BaseRef
from shared.db import Connection, Row
from shared.errors import HeliuError, InvalidInput, NotFound
from shared.task.bind import task_name

Source = Jsonl | Completions | Responses | Classifications | Ranking
PURPOSE = "evals"
# Characters of the items of a request that a run shows; a list has a hundred runs.
MOST_SHOWN = 32 * 1024


def eval_row(connection: Connection, tenant: UUID, eval_id: str, *, lock: bool = False) -> Row:
    """The tenant's eval. Raises NotFound."""
    row = repository.get_eval(connection, tenant, eval_id, lock=lock)
    if row is None:
        raise NotFound(f"no eval {eval_id!r}", param="eval_id")
    return row


def run_row(connection: Connection, tenant: UUID, eval_id: str, run_id: str, param: str = "run_id") -> Row:
    """A run of the tenant's eval, with its job's state. Raises NotFound."""
    eval_row(connection, tenant, eval_id)
    row = repository.get_run(connection, tenant, eval_id, run_id)
    if row is None:
        raise NotFound(f"the eval {eval_id} has no run {run_id!r}", param=param)
    return row


def check_judges(connection: Connection, tenant: UUID, criteria: Sequence[Criterion]) -> None:
    """Raise InvalidInput or NotFound with the place for models that are not there, or cannot judge."""
    judges(connection, tenant, criteria)


def judges(
    connection: Connection, tenant: UUID, criteria: Sequence[Criterion]
) -> tuple[list[Criterion], dict[str, ModelRef], ModelRef | None]:
    """(criteria that name models as they are called inside, the judges, the encoder of cosines)."""
    pinned: list[Criterion] = []
    models: dict[str, ModelRef] = {}
    encoder: ModelRef | None = None
    for index, criterion in enumerate(criteria):
        place = f"testing_criteria[{index}].model"
        if isinstance(criterion, LabelModel | ScoreModel):
            ref = _served(connection, tenant, criterion.model, CHAT, place)
            models[ref.name] = ref
            pinned.append(criterion.model_copy(update={"model": ref.name}))
            continue
        if isinstance(criterion, TextSimilarity) and criterion.evaluation_metric == "cosine":
            found = _encoder(connection, tenant, criterion.model, place)
            if encoder is not None and found != encoder:
                raise InvalidInput(
                    f"{place} is {found.name!r}, and an earlier cosine is by {encoder.name!r}; an eval has one encoder",
                    param=place,
                )
            encoder = found
            pinned.append(criterion.model_copy(update={"model": found.name}))
            continue
        pinned.append(criterion)
    return pinned, models, encoder


def _encoder(connection: Connection, tenant: UUID, name: str | None, place: str) -> ModelRef:
    if name is not None:
        return _served(connection, tenant, name, EMBEDDINGS, place)
    rows = models_repository.list_models(connection, tenant, resolve.MAX_BATCH_MODELS)
    encoders = [row for row in rows if row["kind"] == "encoder"]
    if len(encoders) != 1:
        there = ", ".join(row["id"] for row in encoders[:8]) or "no encoder here; import one or train one"
        raise InvalidInput(
            f"cosine needs {place}, an encoder; there is {there}",
            code="missing_required_parameter",
            param=place,
        )
    return resolve.model_ref(encoders[0])


def _served(connection: Connection, tenant: UUID, name: str, endpoint: str, place: str) -> ModelRef:
    row = resolve.kept_row(connection, tenant, name, place)
    try:
        return resolve.served(row, endpoint)
    except HeliuError as exc:
        raise InvalidInput(exc.message, code=exc.code, param=place) from exc


def asked(
    connection: Connection, tenant: UUID, source: Source
) -> tuple[str, dict[str, ModelRef], dict[str, TaskRoute]]:
    """(the name that requests call it by, its model, its task) of what a run samples from; nothing where it does not.

    A registered name stands for its version in production at this moment.
    """
    place = "data_source.model"
    if isinstance(source, Jsonl):
        return "", {}, {}
    try:
        named = task_name(source.model)
    except InvalidInput as exc:
        raise InvalidInput(exc.message, param=place) from exc
    if named is None:
        endpoint = CHAT
        if isinstance(source, Classifications):
            endpoint = CLASSIFICATIONS
        elif isinstance(source, Ranking):
            endpoint = RERANK
        ref = _served(connection, tenant, source.model, endpoint, place)
        return ref.name, {ref.name: ref}, {}
    if not isinstance(source, Completions | Responses):
        raise InvalidInput(f"{place} is a task, which answers chats alone; name a model", param=place)
    name, number = named
    found = task_store.task(connection, tenant, name, param=place, code="model_not_found")
    if number is not None:
        task_store.version(connection, found, number, param=place, code="model_not_found")
    routes = resolve.batch_tasks(connection, tenant)
    # Which of them a version asks for is known where its rows are read.
    return source.model, resolve.batch_models(connection, tenant), {name: routes[name]}


def likelihood_base(
    connection: Connection, tenant: UUID, source: Source, metrics: Sequence[Metric]
) -> BaseRef | None:
    """The weights that a perplexity is of; None where none is asked for, or the model's are not here."""
    wanted = any(isinstance(metric, PerplexityMetric) for metric in metrics)
    if not wanted or not isinstance(source, Completions | Responses) or task_name(source.model) is not None:
        return None
    row = resolve.model_row(connection, tenant, source.model, "data_source.model")
    return resolve.base_ref(row) if row["kind"] in ("base", "adapter") else None


def as_asked(source: Source) -> Source:
    """The source as it is carried out: stored chats without a model are answers that are there, and with one they are
    asked again with their own messages where no others are given."""
    if not isinstance(source, Completions | Responses) or not isinstance(source.source, StoredCompletions):
        return source
    if not source.model:
        return Jsonl(type="jsonl", source=source.source)
    if source.input_messages is None and not source.variables:
        own = ItemMessages(type="item_reference", item_reference="item.input")
        return source.model_copy(update={"input_messages": own})
    return source


def _stored(connection: Connection, tenant: UUID, config: Config, asked: StoredCompletions) -> ItemsRef:
    """The chats that are there now. Raises InvalidInput where there are none, or labels exclude each other."""
    place = "data_source.source"
    labels = dict((config.metadata or {}) if isinstance(config, StoredConfig) else {})
    for name, value in (asked.metadata or {}).items():
        if labels.setdefault(name, value) != value:
            raise InvalidInput(
                f"{place}.metadata.{name} is {value!r}, and the eval is over chats with {labels[name]!r}; leave it "
                "out, or make an eval without it",
                param=f"{place}.metadata.{name}",
            )
    now = int(time.time())
    chosen = Chosen(
        model=asked.model,
        metadata=labels,
        created_after=asked.created_after,
        created_before=now if asked.created_before is None else min(now, asked.created_before),
        limit=asked.limit or MAX_ITEMS,
    )
    check_some(connection, tenant, chosen, place)
    return ItemsRef(kind="stored", id="stored", chats=chosen)


def items(connection: Connection, tenant: UUID, source: Source, config: Config) -> ItemsRef | None:
    """Where the items stand; None where they came with the request."""
    match source.source:
        case StoredCompletions():
            return _stored(connection, tenant, config, source.source)
        case FileId(id=file_id):
            row = resolve.file_row(connection, file_id, param="data_source.source.id", purpose=PURPOSE)
            return ItemsRef(kind="file", id=row["id"], artifact=row["artifact"])
        case DatasetVersion(id=version):
            ref = resolve.version_ref(connection, tenant, version, param="data_source.source.id")
            return ItemsRef(kind="version", id=ref.id, artifact=ref.artifact)
    return None


def as_shown(source: Source) -> dict[str, Any]:
    """The source as its run shows it; of many items that came along the first are enough to know it again."""
    told = source.model_dump(mode="json", exclude_none=True)
    if not told.get("model", "asked"):
        del told["model"]
    if told["source"]["type"] == "file_content":
        size, kept = 0, list[Any]()
        for one in told["source"]["content"]:
            size += len(json.dumps(one, ensure_ascii=False))
            if kept and size > MOST_SHOWN:
                break
            kept.append(one)
        told["source"]["content"] = kept
    return told


def as_stored(source: Source, name: str) -> dict[str, Any]:
    """The source for the job: items that came along are in an artifact, and the model has its own name."""
    told = source.model_dump(mode="json", exclude_none=True)
    if told["source"]["type"] == "file_content":
        told["source"] = {"type": "file_id", "id": "given"}
    if "model" in told:
        told["model"] = name
    return told
