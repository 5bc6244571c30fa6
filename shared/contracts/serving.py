"""Which endpoints the models of a kind serve. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shared.contracts.answers import CHAT, TEXT
from shared.contracts.classifications import CLASSIFICATIONS
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.rerank import RERANK
from shared.contracts.tokens import DETOKENIZE, TOKENIZE
from shared.errors import InvalidInput

_TOKENS = frozenset({TOKENIZE, DETOKENIZE})
SERVES: Mapping[str, frozenset[str]] = {
    "base": _TOKENS | {CHAT, TEXT, EMBEDDINGS},
    "adapter": _TOKENS | {CHAT, TEXT, EMBEDDINGS},
    "encoder": _TOKENS | {EMBEDDINGS, RERANK},
    "classifier": _TOKENS | {CLASSIFICATIONS},
    "ranker": _TOKENS | {RERANK},
}


def check_serves(
    name: str, kind: str, endpoint: str, param: str = "model", *, upstream: Collection[str] = ()
) -> None:
    """Raise InvalidInput (`unsupported_model`) for a model that does not serve the endpoint; `upstream` are those of
    a model that another server answers for, which its kind does not tell."""
    able = upstream or SERVES.get(kind, frozenset())
    if endpoint not in able:
        raise InvalidInput(
            f"the model {name!r} is of the kind {kind!r}, which serves {', '.join(sorted(able)) or 'nothing'} and "
            f"not {endpoint}",
            code="unsupported_model",
            param=param,
        )
