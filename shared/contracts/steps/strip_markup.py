"""Tags, entities and Markdown."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.contracts.steps.base import StepBase, Strict


class StripMarkupParams(Strict):
    """Which markup goes. Its text stays, but for that of scripts, styles and comments.

    `tags`: `html` knows HTML's own elements, so that `List<String>` and `a < b` stay; `any` takes every tag, as XML
    needs; `none` leaves them. `markdown` unwraps links, images, emphasis, headings and quotes. `code`: fenced blocks
    (three backticks) are kept as they are, unwrapped, or dropped.
    """

    tags: Literal["html", "any", "none"] = "html"
    entities: bool = True
    markdown: bool = False
    code: Literal["keep", "unwrap", "drop"] = "keep"


class StripMarkup(StepBase):
    """HTML and XML tags, entities, scripts and styles, and Markdown where asked for."""

    before: ClassVar[dict[str, str]] = {
        "normalize_text": "entities stand for characters and spaces that normalising would mend",
        "drop_empty": "stripping can leave a row empty",
        "drop_broken": "an entity can stand for encoding damage",
        "mask_pii": "tags can stand within a number",
        "blocked_words": "tags can stand within a word",
        "exact_duplicates": "stripping makes new duplicates",
        "near_duplicates": "stripping makes new duplicates",
        "conflicting_labels": "stripping makes more questions the same",
        "filter_language": "tags read like English",
        "quality_filter": "tags count as symbols",
        "drop_repetitive": "tags repeat",
        "length_bounds": "stripping changes lengths",
    }

    op: Literal["strip_markup"]
    params: StripMarkupParams = StripMarkupParams()
