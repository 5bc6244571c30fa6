"""A search for hyperparameters as one page for people: plots without script, nothing from outside. Knows no HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from services.gateway.searches.page.view import look_at, said
from services.gateway.shapes import Row
from shared.jobs import Job

_FOLDER = files(__package__)
# Ours, and so the only value that the template does not escape. The report of a dataset looks alike.
_STYLE = "\n".join(
    (files(package) / "style.css").read_text(encoding="utf-8")
    for package in ("services.gateway.datasets.report_page", "services.gateway.searches.page")
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
# A header may say this, a page that was saved may not.
POLICY = f"{_PAGE_POLICY}; frame-ancestors 'none'"


def render_search(job: Job, rows: Sequence[Row]) -> str:
    """The page of a search and the rows of its trials, finished or on its way."""
    return _TEMPLATE.render(view=look_at(job, rows), style=_STYLE, policy=_PAGE_POLICY)


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(said=said)
    return made


_TEMPLATE = _environment().from_string((_FOLDER / "page.html.jinja").read_text(encoding="utf-8"))
