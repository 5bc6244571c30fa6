"""`/v1/classifications`: labels of texts; `/v1/rerank`: documents in the order of how well they answer a query."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.gateway.answering import scoring
from services.gateway.bodies import read_as
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from shared.contracts.classifications import CLASSIFICATIONS, ClassificationBody, parse_classification
from shared.contracts.rerank import RERANK, RerankBody, parse_rerank

router = APIRouter(tags=["classification and ranking"])

CLASSIFICATION_EXAMPLE = {"model": "intents", "input": ["I lost my card", "退款多久到账？"], "top_k": 3}
RERANK_EXAMPLE = {
    "model": "minilm",
    "query": "How long does a refund take?",
    "documents": ["A refund arrives within three days.", "We deliver on weekdays."],
    "top_n": 1,
}


@router.post(
    CLASSIFICATIONS,
    summary="Labels of texts",
    response_model=None,
    **json_body(ClassificationBody, CLASSIFICATION_EXAMPLE),
)
async def create_classification(request: Request, gateway: GatewayDep) -> Response:
    """For each text the `top_k` likeliest labels with their probabilities as the head gives them; `labels` are those
    over one half where a text may have several. A regression has no label and its number as `score`."""
    return await scoring.classify(request, gateway, await read_as(request, parse_classification))


@router.post(
    RERANK,
    summary="Put documents in order",
    response_model=None,
    **json_body(RerankBody, RERANK_EXAMPLE),
)
async def create_rerank(request: Request, gateway: GatewayDep) -> Response:
    """The best first: by a ranker's score from 0 to 1, or by the cosine of an encoder's vectors."""
    return await scoring.rerank(request, gateway, await read_as(request, parse_rerank))
