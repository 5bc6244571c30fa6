"""The quality report of a dataset version as one page for people: no script, nothing from outside. Knows no HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from services.gateway.datasets.report_page.view import bucket, look_at

_FOLDER = files(__package__)
# Ours, and so the only value that the template does not escape.
_STYLE = (_FOLDER / "style.css").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Whatever a row holds, a browser loads and runs nothing of it.
_PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
# A header may say this, a page that was saved may not.
POLICY = f"{_PAGE_POLICY}; frame-ancestors 'none'"


def render_report(version: Mapping[str, Any], filenames: Sequence[str]) -> str:
    """The page of a version: `version` has its `id`, `dataset`, `created_at`, `rows`, `gate`, `report` and `drift`."""
    return _TEMPLATE.render(view=look_at(version), filenames=filenames, style=_STYLE, policy=_PAGE_POLICY)


def _count(value: float) -> str:
    return f"{value:,}"


def _percent(share: float) -> str:
    """With as many digits as a small share needs to be seen."""
    if 0 < share < 0.0001:
        return "< 0.01%"
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(count=_count, percent=_percent, words=_words, bucket=bucket)
    return made


_TEMPLATE = _environment().from_string((_FOLDER / "page.html.jinja").read_text(encoding="utf-8"))
