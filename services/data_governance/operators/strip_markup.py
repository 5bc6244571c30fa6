"""Takes markup off texts."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.markup import decode_entities, outside_code, strip_markdown, strip_tags
from services.data_governance.operators.passes import rewritten
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.strip_markup import StripMarkup


class Strip:
    """Rules `markup_tags`, `markup_scripts`, `markup_comments`, `markup_entities`, `markup_markdown`, `markup_code`."""

    def __init__(self, step: StripMarkup) -> None:
        self._params = step.params

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        return rewritten(rows, self._text)

    def _text(self, text: str, counts: dict[str, int]) -> str:
        if "```" in text:
            bare = outside_code(text, self._params.code, lambda piece: self._prose(piece, counts), counts)
        else:
            bare = self._prose(text, counts)
        # Blocks leave line ends where they began and ended.
        return bare.strip() if "markup_tags" in counts else bare

    def _prose(self, text: str, counts: dict[str, int]) -> str:
        params = self._params
        if params.tags != "none" and "<" in text and ">" in text:
            text = strip_tags(text, counts, params.tags)
        if params.markdown:
            text = strip_markdown(text, counts)
        # Last, so that what an entity spells (`&lt;b&gt;`) is shown and not obeyed.
        if params.entities and "&" in text and ";" in text:
            text = decode_entities(text, counts)
        return text
