"""The page that people label on: one file without a build, made of the parts beside this one. Knows no project."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files

SCRIPTS = ("words.js", "server.js", "spans.js", "items.js", "main.js")


@dataclass(frozen=True)
class Page:
    """The HTML, and the policy under which a browser runs its own script and style and nothing else."""

    html: str
    policy: str


def load_page() -> Page:
    """Put the parts together. Whatever an item holds, the policy names by hash the only code that may run."""
    folder = files(__package__)
    style = (folder / "style.css").read_text(encoding="utf-8")
    parts = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}\n}})();'
    html = (folder / "page.html").read_text(encoding="utf-8")
    return Page(html.replace("{{style}}", style).replace("{{script}}", script), _policy(style, script))


def _policy(style: str, script: str) -> str:
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
