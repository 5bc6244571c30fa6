"""What an upstream's refusals and failures are to whoever asked: typed errors, never with its address or key. Pure."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from shared.errors import HeliuError

MAX_TOLD = 500
MOST_PAUSE_S = 86_400.0
BUSY = frozenset({429, 503})
# The request itself was understood and is wrong.
REFUSED = frozenset({400, 409, 413, 415, 422})
# The address, the key or the model's name there are wrong, which no client can help.
MISCONFIGURED = frozenset({401, 402, 403, 404, 405, 410, 421})
_CONTEXT = re.compile(r"context (length|size|window)|maximum context|too many tokens|max_model_len", re.I)


class Passing(HeliuError):
    """May go better at once or in a while; `pause_s` is how long the upstream asks to wait."""

    code = "upstream_failed"
    retryable = True

    def __init__(self, message: str, *, code: str | None = None, pause_s: float | None = None) -> None:
        super().__init__(message, code=code)
        self.pause_s = pause_s

    @property
    def busy(self) -> bool:
        return self.code == "upstream_busy"


def malformed(what: str) -> Passing:
    """The upstream answered with something that is no answer."""
    return Passing(f"the upstream sent {what}, which is no answer of an OpenAI-compatible server")


def listed(value: Any, what: str) -> list[Any]:
    """A list, empty where there is none. Raises Passing for anything else."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise malformed(f"{what} that are no list")
    return value


def is_number(value: Any) -> bool:
    """A finite number of float's range, as JSON has them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def unreachable(reason: str) -> Passing:
    return Passing(f"the upstream cannot be reached: {reason}", code="upstream_unavailable")


def broken(reason: str) -> Passing:
    return Passing(f"the connection to the upstream broke off: {reason}")


def silent(seconds: float) -> HeliuError:
    """Not worth an immediate second try: it may have queued what it was asked."""
    return HeliuError(f"the upstream was silent for {seconds:g} s", code="upstream_silent", retryable=True)


def misconfigured(why: str) -> HeliuError:
    """What no client can help; the details are told to the operator's own test alone."""
    return HeliuError(
        f"the upstream {why}; an operator can test it with `heliu upstreams test`",
        code="upstream_misconfigured",
    )


def of_status(status: int, body: bytes, headers: Mapping[str, str], key: str | None) -> HeliuError:
    """The error of an answer that is not 200."""
    told = _told(body)
    message = _clean(told["message"], key)
    if status in BUSY:
        return Passing(
            f"the upstream is busy: it answered {status}{message and f', {message}'}",
            code="upstream_busy",
            pause_s=retry_after(headers.get("retry-after")),
        )
    if status in MISCONFIGURED:
        return misconfigured(
            "refuses the key that it was added with" if status in (401, 403) else f"answered {status}"
        )
    if 400 <= status < 500 and status not in (408, 425, 499):
        return refused(told, key)
    return Passing(f"the upstream answered {status}{message and f': {message}'}")


def in_stream(error: Any, key: str | None) -> HeliuError:
    """The error of an event in an answer that began well."""
    told = _told(json.dumps({"error": error}).encode())
    status = told["code"] if isinstance(told["code"], int) else 0
    if status in BUSY or told["code"] in ("rate_limit_exceeded", "overloaded"):
        return Passing(f"the upstream is busy: {_clean(told['message'], key)}", code="upstream_busy")
    invalid = "invalid_request" in str(told["type"]) or "BadRequest" in str(told["type"])
    if status in REFUSED or (not status and invalid):
        return refused(told, key)
    return Passing(f"the upstream failed: {_clean(told['message'], key) or 'it did not say why'}")


def refused(told: Mapping[str, Any], key: str | None) -> HeliuError:
    """The request is at fault, in the upstream's words."""
    message = _clean(told["message"], key) or "it did not say why"
    long = told["code"] == "context_length_exceeded" or _CONTEXT.search(message)
    return HeliuError(
        f"the upstream refuses this: {message}",
        code="context_length_exceeded" if long else "upstream_refused",
        param=told["param"],
    )


def retry_after(text: str | None, *, now: float | None = None) -> float | None:
    """Seconds of a Retry-After header, which has a number of them or a date; None for neither."""
    if not text:
        return None
    if text.strip().isdecimal():
        return min(float(text), MOST_PAUSE_S)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
    except ValueError:
        return None
    return min(max(0.0, seconds), MOST_PAUSE_S)


def _told(body: bytes) -> dict[str, Any]:
    """{"message", "type", "code", "param"} of an error body: OpenAI's, vLLM's flat one, TGI's, FastAPI's, any text."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        text = body[: MAX_TOLD * 4].decode("utf-8", "replace").strip()
        return {"message": "" if text.startswith("<") else text, "type": None, "code": None, "param": None}
    error = parsed.get("error", parsed)
    if isinstance(error, str):
        return {"message": error, "type": parsed.get("error_type"), "code": None, "param": None}
    if not isinstance(error, dict):
        error = {}
    detail = error.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = [str(part) for part in detail[0].get("loc", ()) if part != "body"]
        return {
            "message": str(detail[0].get("msg", "")),
            "type": "invalid_request_error",
            "code": None,
            "param": ".".join(place)[:80] or None,
        }
    param = error.get("param")
    return {
        "message": str(error.get("message") or detail or ""),
        "type": error.get("type"),
        "code": error.get("code"),
        "param": param[:80] if isinstance(param, str) and param else None,
    }


def _clean(text: str, key: str | None) -> str:
    """An upstream's words as they may be shown: short, of one line, without the key that it was asked with."""
    if key:
        text = text.replace(key, "[redacted]")
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= MAX_TOLD else text[: MAX_TOLD - 3] + "..."
