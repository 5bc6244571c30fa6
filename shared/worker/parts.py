"""The shared parts of a process, opened from its settings; any process has them, the gateway too."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from shared import streams
from shared.artifacts import Artifacts, open_artifacts
from shared.db import Database, retrying
from shared.errors import ConfigurationError, Unavailable
from shared.metrics import Metrics
from shared.settings import Settings
from shared.telemetry import Tracing, setup_logging

log = logging.getLogger(__name__)

STORE_ID = """
INSERT INTO core.setting (key, value) VALUES ('artifact_store', to_jsonb(%s::text))
ON CONFLICT (key) DO UPDATE SET key = EXCLUDED.key RETURNING value #>> '{}' AS value"""


@dataclass(frozen=True)
class Platform:
    """The shared parts of one process, handed to its handlers."""

    settings: Settings
    db: Database
    artifacts: Artifacts
    tracing: Tracing
    metrics: Metrics

    def close(self) -> None:
        self.db.close()
        self.tracing.shutdown()


def open_platform(
    settings: Settings, service: str, *, max_connections: int = 8, hidden: Sequence[str] = ()
) -> Platform:
    """Logging, tracing, database and artifacts of a process. Raises ConfigurationError.

    `hidden` are kept out of the log beside the secrets of the settings.
    """
    settings.require("database_url", "redis_url")
    setup_logging(
        service,
        settings.log_level,
        [
            settings.key_pepper,
            *settings.secret_keys,
            settings.otlp_token,
            settings.api_key,
            settings.hub_token,
            settings.s3_secret_access_key,
            *hidden,
        ],
    )
    db = Database(settings.database_url, application=f"heliu-{service}", max_size=max_connections)
    artifacts = open_artifacts(settings)
    check_artifact_store(db, artifacts)
    client = streams.connect(settings.redis_url)
    try:
        streams.check_server(client)
    except Unavailable as exc:
        # Accepting work does not need Redis: a process may start while it is away.
        log.warning("redis_unchecked", extra={"error": exc.message})
    finally:
        client.close()
    tracing = Tracing(
        service,
        endpoint=settings.otlp_endpoint,
        token=settings.otlp_token,
        sample_ratio=settings.trace_sample_ratio,
        instance=f"{platform.node()}:{os.getpid()}",
    )
    return Platform(settings, db, artifacts, tracing, Metrics())


def check_artifact_store(db: Database, artifacts: Artifacts) -> None:
    """Raise ConfigurationError when this place is not the store that the platform knows."""
    own = artifacts.store_id()

    def known() -> str:
        with db.core() as connection:
            row = connection.execute(STORE_ID, (own,)).fetchone()
        assert row is not None
        return str(row["value"])

    expected = retrying(known, attempts=8, patience=0.2)
    if expected != own:
        raise ConfigurationError(
            f"{artifacts.place} holds the artifact store {own}, but this database belongs to "
            f"{expected}; point HELIU_ARTIFACTS at the place that all processes share",
            param="HELIU_ARTIFACTS",
        )
