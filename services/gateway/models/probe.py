"""The test of an upstream: asks it for its models, and says in words what is wrong. For operators alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from shared.contracts.upstream import SETTING
from shared.errors import HeliuError
from shared.outbound import Forbidden
from shared.outbound_async import GuardedTransport, Hosts

TIMEOUT_S = 10.0
MAX_ANSWER = 4 * 1024 * 1024
NAMED = 8


class ProbeFailed(HeliuError):
    """What stands there does not answer as an OpenAI-compatible server does."""

    code = "upstream_test_failed"


@dataclass(frozen=True)
class Probed:
    """The models that an upstream lists, and what it says of the length of the one asked for."""

    models: tuple[str, ...]
    context_length: int | None


async def probe(url: str, model: str, key: str | None, listed: Hosts) -> Probed:
    """Raises ProbeFailed, or Forbidden for an address that may not be."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = GuardedTransport(listed, setting=SETTING, connections=1)
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(transport=transport, trust_env=False, timeout=None) as http,
            http.stream("GET", f"{url}/models", headers=headers) as response,
        ):
            body = b""
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ANSWER:
                    raise ProbeFailed(f"{url}/models answered more than {MAX_ANSWER} bytes", param="url")
            _check_status(url, response.status_code, body, key)
    except Forbidden as exc:
        raise Forbidden(exc.message, param="url") from exc
    except TimeoutError as exc:
        raise ProbeFailed(f"{url}/models did not answer within {TIMEOUT_S:g} s", param="url") from exc
    except httpx.TransportError as exc:
        raise ProbeFailed(f"{url}/models did not answer: {exc or type(exc).__name__}", param="url") from exc
    return _read(url, model, body)


def _check_status(url: str, status: int, body: bytes, key: str | None) -> None:
    if status == 200:
        return
    if status in (401, 403):
        why = "refuses the key" if key else "wants a key; give it one with --key-file or --key-env"
        raise ProbeFailed(f"{url} {why}: it answered {status}", param="api_key")
    if 300 <= status < 400:
        raise ProbeFailed(
            f"{url}/models answered {status}, a redirect; give the address that it points to", param="url"
        )
    hint = "; the address of such a server mostly ends with /v1" if status == 404 else ""
    said = body[:200].decode("utf-8", "replace").strip()
    said = said.replace(key, "[redacted]") if key else said
    raise ProbeFailed(f"{url}/models answered {status}{hint}: {said}", param="url")


def _read(url: str, model: str, body: bytes) -> Probed:
    try:
        data = json.loads(body)["data"]
        models = {str(row["id"]): row for row in data}
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ProbeFailed(
            f"{url}/models answered with something that is no list of models", param="url"
        ) from exc
    if model not in models:
        names = ", ".join(list(models)[:NAMED]) + (", ..." if len(models) > NAMED else "")
        raise ProbeFailed(f"the upstream has no model {model!r}; it lists {names or 'none'}", param="model")
    return Probed(tuple(models), _context(models[model]))


def _context(row: Mapping[str, Any]) -> int | None:
    """As vLLM and SGLang say it, or another platform like this one."""
    info = row.get("info")
    told = row.get("max_model_len", info.get("context_length") if isinstance(info, dict) else None)
    return told if type(told) is int and 0 < told < 2**31 else None
