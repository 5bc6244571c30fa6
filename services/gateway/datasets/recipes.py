"""Recipes as they come in bodies."""

from __future__ import annotations

from typing import Any

from shared.contracts.recipe_text import parse_recipe
from shared.errors import InvalidInput


def check_recipe(recipe: dict[str, Any], param: str = "recipe") -> None:
    """Raises InvalidInput with its place within the body, whose field `param` is the recipe."""
    try:
        parse_recipe(recipe)
    except InvalidInput as exc:
        exc.param = f"{param}.{exc.param}" if exc.param else param
        raise
