"""What is known of a model that another OpenAI-compatible server answers for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.contracts.inference import Endpoint
from shared.errors import InvalidInput

SETTING = "HELIU_UPSTREAM_HOSTS"
MAX_KEY = 4096
# What an upstream can do, as operators call it, and the route that this is.
ENDPOINTS: Mapping[str, Endpoint] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}


def secret_name(upstream_id: str) -> str:
    """What the API key of an upstream is sealed for."""
    return f"upstream {upstream_id}"


def check_endpoints(names: Sequence[str], param: str) -> list[str]:
    """The names in their order, once each. Raises InvalidInput for none, or an unknown one."""
    for name in names:
        if name not in ENDPOINTS:
            raise InvalidInput(
                f"{param}: {name[:40]!r} is none of {', '.join(ENDPOINTS)}", code="invalid_value", param=param
            )
    if not names:
        raise InvalidInput(f"{param}: give one or more of {', '.join(ENDPOINTS)}", param=param)
    return [name for name in ENDPOINTS if name in names]


def check_key(key: str, param: str) -> None:
    """Raise InvalidInput for what no header can carry; never tells the key."""
    if not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable() and " " not in key):
        raise InvalidInput(
            f"{param} must be 1 to {MAX_KEY} printable ASCII characters without spaces", param=param
        )
