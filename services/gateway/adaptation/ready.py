"""The tasks that ship with the platform: files beside this module, each a task without its model."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def tasks() -> list[dict[str, Any]]:
    """{"name", "description", "spec"} of each, by name."""
    folder = files(__package__) / "ready_tasks"
    texts = [entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".yml")]
    return sorted((yaml.safe_load(text) for text in texts), key=lambda task: str(task["name"]))
