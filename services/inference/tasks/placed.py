"""What this worker serves and holds, and where the engine finds a model on this machine."""

from __future__ import annotations

from typing import Any

from services.inference import placement
from services.inference.engine_process import EngineProcess
from shared.contracts.inference import (
    ModelRef,
)
from shared.worker import Platform


def holdings(platform: Platform, engine: EngineProcess) -> dict[str, Any]:
    """What this worker may serve and what it holds, for its heartbeat; as the engine said a heartbeat ago."""
    engine.ask_stats()
    return placement.holdings(
        platform.settings.served_models, engine.stats, dict(engine.loaded_at), dict(engine.names)
    )


def models_for_engine(platform: Platform, engine: EngineProcess, model: ModelRef) -> dict[str, Any]:
    """The engine's `base` and `adapter` of a request, fetched into the local cache at first use.

    Raises HeliuError for a base that this worker does not serve.
    """
    placement.check_served(platform.settings.served_models, model.base_name)
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
