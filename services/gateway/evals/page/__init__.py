"""The report of an eval's run as one page for people: no script, nothing from outside. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from services.gateway.datasets import report_page
from services.gateway.datasets.report_page import POLICY

# The sheet of the quality report, under the same policy that names it by hash.
_STYLE = files(report_page).joinpath("style.css").read_text(encoding="utf-8")
_PAGE_POLICY = POLICY.removesuffix("; frame-ancestors 'none'")
MOST_VALUES = 20


def render_run(name: str, run: Mapping[str, Any], failed: Sequence[Mapping[str, Any]]) -> str:
    """The page of a run as the API shows it, with some items that did not pass."""
    slices = {
        title: dict(list(values.items())[:MOST_VALUES])
        for title, values in run.get("slices", {}).items()
        if len(values) > 1
    }
    return _TEMPLATE.render(
        name=name, run=run, failed=failed, slices=slices, style=_STYLE, policy=_PAGE_POLICY
    )


def _figure(one: Mapping[str, Any] | None) -> str:
    """A figure with its interval."""
    if one is None:
        return "–"
    if one["low"] is None:
        return f"{one['value']:.3f}"
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(figure=_figure)
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return made


_TEMPLATE = _environment().from_string(
    files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
)

__all__ = ["POLICY", "render_run"]
