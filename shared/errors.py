"""The one base of the project's errors, with a code that every edge can map. Knows no library."""

from __future__ import annotations


class HeliuError(Exception):
    """What was wrong, with which value, and what would be right.

    `code` is stable and machine-readable; `param` names the field at fault; `retryable` says whether the
    same request may succeed later without a change.
    """

    code = "internal_error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class InvalidInput(HeliuError):
    """The caller's input is wrong; the same input will be wrong again."""

    code = "invalid_value"


class NotFound(HeliuError):
    """No such thing for this tenant."""

    code = "not_found"


class Conflict(HeliuError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class Unavailable(HeliuError):
    """A part that is needed does not answer just now."""

    code = "unavailable"
    retryable = True


class LimitExceeded(HeliuError):
    """A quota or rate limit of the caller is used up for now."""

    code = "rate_limit_exceeded"
    retryable = True


class ConfigurationError(HeliuError):
    """A setting is missing, unknown or unsafe."""

    code = "configuration_error"
