"""What this worker serves and holds, and where the engine finds a model: on this machine, or at an upstream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from services.inference import placement, repository
from services.inference.engine_process import EngineProcess
from services.inference.engines import Engines, check_packages, has_packages
from shared import semconv
from shared.bootstrap import sealer_of
from shared.contracts.inference import (
    ModelRef,
)
from shared.contracts.upstream import secret_name
from shared.db import retrying
from shared.errors import HeliuError, Unavailable
from shared.frames import Frame
from shared.telemetry import Span
from shared.worker import Platform

# How long a changed key or address may go unnoticed.
UPSTREAM_FRESH_S = 3.0


def holdings(platform: Platform, engine: EngineProcess) -> dict[str, Any]:
    """What this worker may serve and what it holds, for its heartbeat; as the engine said a heartbeat ago."""
    engine.ask_stats()
    return placement.holdings(
        platform.settings.served_models, engine.stats, dict(engine.loaded_at), dict(engine.names)
    )


def needs_engine(platform: Platform) -> bool:
    """Whether an engine of its own is worth starting before anybody asks: not for upstreams alone."""
    served = platform.settings.served_models
    if not has_packages():
        return False
    if not served:
        return True

    def forwarded() -> set[str]:
        with platform.db.core() as connection:
            return repository.upstream_names(connection, served)

    return bool(set(served) - retrying(forwarded, attempts=8, patience=0.2))


def models_for_engine(platform: Platform, engine: EngineProcess, model: ModelRef) -> dict[str, Any]:
    """The engine's `base` and `adapter` of a request, fetched into the local cache at first use; of a model that
    another server answers for, its `upstream`.

    Raises HeliuError for a base that this worker does not serve.
    """
    placement.check_served(platform.settings.served_models, model.base_name)
    if model.upstream:
        return {"upstream": _upstream(platform, engine, model)}
    check_packages(model.name)
    engine.names[model.base_artifact] = model.base_name
    if model.adapter_artifact:
        engine.names[model.adapter_artifact] = model.name
    cache = platform.settings.home / "cache"

    def local(artifact: str) -> dict[str, str]:
        return {"id": artifact, "path": str(platform.artifacts.materialize(artifact, cache).absolute())}

    return {
        "base": local(model.base_artifact),
        "adapter": local(model.adapter_artifact) if model.adapter_artifact else None,
    }


class Remote:
    """The client span of requests to an upstream; nothing for a model of ours."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def heard(self, frame: Frame) -> None:
        """Take what a `done` frame tells of the way there."""
        told: Mapping[str, Any] = frame.get("remote") or {}
        if self._span is None or not told:
            return
        self._span.set_all(
            {
                semconv.GEN_AI_RESPONSE_MODEL: told.get("model"),
                semconv.HTTP_RESENDS: told.get("resends") or None,
                semconv.USAGE_ESTIMATED: told.get("usage_estimated") or None,
            }
        )

    def set_all(self, attributes: Mapping[str, Any]) -> None:
        if self._span is not None:
            self._span.set_all(attributes)


@contextmanager
def asking(
    platform: Platform,
    engine: EngineProcess,
    model: ModelRef,
    operation: str,
    parent: str | None,
    start_s: float | None = None,
) -> Iterator[tuple[dict[str, Any], Remote]]:
    """What the engine must know of the model (as `models_for_engine`), and the span of the way to an upstream.

    `start_s` is how long a request may wait for a place there.
    """
    known = models_for_engine(platform, engine, model)
    if not model.upstream:
        yield known, Remote(None)
        return
    upstream = known["upstream"]
    parts = urlsplit(upstream["url"])
    with platform.tracing.span(
        f"{operation} {upstream['model']}",
        kind="client",
        parent=parent,
        attributes={
            semconv.GEN_AI_OPERATION: operation,
            semconv.GEN_AI_PROVIDER: "openai",
            semconv.GEN_AI_REQUEST_MODEL: upstream["model"],
            semconv.SERVER_ADDRESS: parts.hostname,
            semconv.SERVER_PORT: parts.port or (443 if parts.scheme == "https" else 80),
        },
    ) as span:
        yield {**known, "start_s": start_s, "traceparent": span.traceparent}, Remote(span)


def _upstream(platform: Platform, engine: EngineProcess, model: ModelRef) -> dict[str, Any]:
    """Where the model stands, with its key; known for a moment, and longer while Postgres is away."""
    assert isinstance(engine, Engines)
    held, until = engine.upstreams.get(model.base_artifact, (None, 0.0))
    if held is not None and until > time.monotonic():
        return held
    try:
        with platform.db.core() as connection:
            row = repository.upstream(connection, model.base_artifact)
    except Unavailable:
        if held is None:
            raise
        return held
    if row is None:
        engine.upstreams.pop(model.base_artifact, None)
        raise HeliuError(
            f"the upstream model {model.name!r} was removed", code="model_not_found", param="model"
        )
    if row["api_key"] is not None:
        sealer = sealer_of(platform.settings)
        row["api_key"] = sealer.open_or_plain(row["api_key"], secret_name(model.base_artifact))
    engine.upstreams[model.base_artifact] = row, time.monotonic() + UPSTREAM_FRESH_S
    return row
