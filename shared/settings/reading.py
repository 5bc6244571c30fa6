"""From the environment to the settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, get_type_hints

from shared.errors import ConfigurationError
from shared.settings.checks import check
from shared.settings.table import PREFIX, Settings


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Parse `HELIU_*`; raises ConfigurationError for an unknown key, a wrong type or an unsafe bind."""
    known: dict[str, Field[Any]] = {f"{PREFIX}{f.name.upper()}": f for f in fields(Settings)}
    types = get_type_hints(Settings)
    values: dict[str, Any] = {}
    for key, text in environ.items():
        if not key.startswith(PREFIX) or key == f"{PREFIX}REAL_DATA":
            continue
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigurationError(f"unknown setting {key}{hint}", param=key)
        name = known[key].name
        values[name] = _parse(key, text, types[name])
    settings = Settings(**values)
    check(settings)
    return settings


def _parse(key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False, "": False}[
                text.lower()
            ]
        return kind(text)
    except (ValueError, KeyError) as exc:
        raise ConfigurationError(f"{key} must be of type {kind.__name__}, got {text!r}", param=key) from exc
