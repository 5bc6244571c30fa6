"""How an error leaves the platform: one table from code to status, one shape. Knows no route and no SQL."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from shared.errors import HeliuError, LimitExceeded

log = logging.getLogger(__name__)

STATUS: Mapping[str, int] = {
    "authentication_required": 401,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "not_found": 404,
    "model_not_found": 404,
    "artifact_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "model_exists": 409,
    "already_exists": 409,
    "source_changed": 409,
    "model_in_use": 409,
    "model_gone": 409,
    "illegal_transition": 409,
    "nothing_before": 409,
    "decision_missing": 409,
    "decision_stale": 409,
    "decision_unfounded": 409,
    "in_use": 409,
    "decision_expired": 409,
    "promotion_blocked": 409,
    "waiver_invalid": 409,
    "approval_required": 409,
    "request_expired": 409,
    "request_answered": 409,
    "own_request": 403,
    "offset_mismatch": 409,
    "upload_busy": 409,
    "stream_gone": 410,
    "answer_restarted": 410,
    "answer_cancelled": 410,
    "answer_expired": 410,
    "body_too_large": 413,
    "file_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "idempotency_mismatch": 422,
    "rate_limit_exceeded": 429,
    "concurrency_limit_exceeded": 429,
    "insufficient_quota": 429,
    "headers_too_large": 431,
    "client_closed_request": 499,
    "internal_error": 500,
    "no_handler": 500,
    "configuration_error": 500,
    "upstream_misconfigured": 502,
    "upstream_failed": 502,
    "upstream_unavailable": 503,
    "upstream_busy": 503,
    "upstream_silent": 504,
    "unavailable": 503,
    "database_unavailable": 503,
    "database_contended": 503,
    "redis_unavailable": 503,
    "storage_full": 503,
    "storage_unavailable": 503,
    "storage_refused": 503,
    "storage_failed": 500,
    "no_worker": 503,
    "worker_lost": 503,
}

TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# Their own words name hosts, users and paths of the platform: those are for its log, and not for who asks.
TOLD: Mapping[str, str] = {
    "database_unavailable": "the platform's database does not answer just now; try again",
    "database_contended": "too much wants the same row just now; try again",
    "redis_unavailable": "the platform's queue does not answer just now; try again",
    "storage_unavailable": "the platform's artifact store does not answer just now; try again",
    "storage_refused": "the platform's artifact store refuses the platform; its log says more",
    "storage_failed": "the platform's artifact store failed; the platform's log says more",
    "artifact_not_found": "the content of this is missing in the platform's artifact store",
}

# The openai client tries 408, 409, 429 and 5xx twice more: these would only fail the same way again, later.
NOT_AGAIN = frozenset(
    {
        "conflict",
        "model_exists",
        "already_exists",
        "model_in_use",
        "model_gone",
        "illegal_transition",
        "nothing_before",
        "decision_missing",
        "decision_stale",
        "decision_unfounded",
        "in_use",
        "decision_expired",
        "promotion_blocked",
        "waiver_invalid",
        "approval_required",
        "request_expired",
        "request_answered",
        "offset_mismatch",
        "insufficient_quota",
        "no_worker",
        "upstream_misconfigured",
    }
)

HTTP_CODES: Mapping[int, str] = {
    401: "authentication_required",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


class RateLimited(LimitExceeded):
    """A limit that resets by itself: `retry_after_s` seconds from now."""

    def __init__(self, message: str, *, retry_after_s: float, code: str = "rate_limit_exceeded") -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class RangeNotSatisfiable(HeliuError):
    """Bytes were asked for that a file of `size` bytes does not have."""

    code = "range_not_satisfiable"

    def __init__(self, asked: str, size: int) -> None:
        super().__init__(f"Range {asked} lies outside of the file, which has {size} bytes", param="Range")
        self.size = size


def status_of(exc: HeliuError) -> int:
    """The status of a code; a code that this table does not know is the caller's fault unless it may pass."""
    return STATUS.get(exc.code, 503 if exc.retryable else 400)


def error_object(exc: HeliuError, trace_id: str | None) -> dict[str, Any]:
    """`{"message", "type", "param", "code", "trace_id"}`; what failed inside us is not told in words."""
    status = status_of(exc)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "message": TOLD.get(exc.code, exc.message),
        "type": kind,
        "param": exc.param,
        "code": exc.code,
        "trace_id": trace_id,
    }


def error_response(exc: HeliuError, trace_id: str | None) -> JSONResponse:
    """The whole answer, with the headers that tell a client whether to try again."""
    status = status_of(exc)
    if exc.code in TOLD:
        log.warning("request_refused", extra={"code": exc.code, "error": exc.message, "trace_id": trace_id})
    headers: dict[str, str] = {}
    if exc.code in NOT_AGAIN:
        headers["x-should-retry"] = "false"
    if isinstance(exc, RateLimited):
        headers["retry-after"] = str(max(1, math.ceil(exc.retry_after_s)))
    if isinstance(exc, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{exc.size}"
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 408:
        # The rest of the body may still come, and would be read as the next request.
        headers["connection"] = "close"
    return JSONResponse({"error": error_object(exc, trace_id)}, status_code=status, headers=headers)


def internal_error() -> HeliuError:
    """What a client hears of a bug: nothing but where to look."""
    return HeliuError(
        "something failed inside the platform; look it up by the trace id", code="internal_error"
    )


def http_error(status: int, detail: str) -> HeliuError:
    """An error that the web framework raised, in our words."""
    return HeliuError(
        detail, code=HTTP_CODES.get(status, "invalid_value" if status < 500 else "internal_error")
    )
