"""What a worker may serve and what it holds, as its heartbeat tells it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import HeliuError


def check_served(served: Sequence[str], base: str) -> None:
    """Raise HeliuError (`wrong_worker`) for a base that a worker with these names may not load; none names any."""
    if served and base not in served:
        raise HeliuError(
            f"this worker serves {', '.join(served)} and not {base!r}; it should not have got the request",
            code="wrong_worker",
            retryable=True,
        )


def holdings(
    served: Sequence[str],
    stats: Mapping[str, Any],
    loaded_at: Mapping[str, float],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """`serves` (None is any) and what is in memory: `bases` with their adapters, `encoders`; bytes, since when.

    `stats` and `loaded_at` are the engine's, by artifact; `names` are those that requests called these by.
    """

    def held(artifact: str, size: int | None) -> dict[str, Any]:
        since = loaded_at.get(artifact)
        known = {"name": names.get(artifact, artifact), "artifact": artifact, "bytes": size}
        return known | {"since": int(since) if since is not None else None}

    return {
        "serves": list(served) or None,
        "bases": [
            {
                **held(model["base_id"], model["bytes"]),
                "adapters": [
                    {name: value for name, value in held(adapter, None).items() if name != "bytes"}
                    for adapter in model["adapters"]
                ],
            }
            for model in stats.get("models", ())
        ],
        "encoders": [held(encoder["encoder_id"], encoder["bytes"]) for encoder in stats.get("encoders", ())],
    }
