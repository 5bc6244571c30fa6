"""`/v1/embeddings`: vectors of texts; `/v1/tokenize` and `/v1/detokenize`: what a model is given of them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.gateway.answering import embedding
from services.gateway.bodies import read_as
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from shared.contracts import tokens
from shared.contracts.embeddings import EMBEDDINGS, EmbeddingBody, parse_embedding
from shared.contracts.json_size import MAX_TOKEN_VALUES
from shared.contracts.tokens import DetokenizeBody, TokenizeBody, parse_detokenize, parse_tokenize

router = APIRouter(tags=["embeddings"])

EMBEDDING_EXAMPLE = {"model": "minilm", "input": ["How long does a refund take?", "退款多久到账？"]}
TOKENIZE_EXAMPLE = {"model": "base-1m", "messages": [{"role": "user", "content": "你好"}]}
DETOKENIZE_EXAMPLE = {"model": "base-1m", "tokens": [17, 4, 256]}


@router.post(
    EMBEDDINGS,
    summary="Vectors of texts",
    response_model=None,
    **json_body(EmbeddingBody, EMBEDDING_EXAMPLE),
)
async def create_embedding(request: Request, gateway: GatewayDep) -> Response:
    """`input` is a text, tokens, or a list of such; an encoder's vectors, or a base's last token's of length 1."""
    asked = await read_as(request, parse_embedding, most_values=MAX_TOKEN_VALUES)
    return await embedding.embed(request, gateway, asked)


@router.post(
    tokens.TOKENIZE,
    summary="Tokens of a text or a chat",
    response_model=None,
    **json_body(TokenizeBody, TOKENIZE_EXAMPLE),
)
async def create_tokens(request: Request, gateway: GatewayDep) -> Response:
    """`prompt`, or `messages` through the model's chat template; `max_model_len` is what the model takes."""
    return await embedding.tokenize(request, gateway, await read_as(request, parse_tokenize))


@router.post(
    tokens.DETOKENIZE,
    summary="Text of tokens",
    response_model=None,
    **json_body(DetokenizeBody, DETOKENIZE_EXAMPLE),
)
async def create_text_of_tokens(request: Request, gateway: GatewayDep) -> Response:
    """Special tokens stand in the text by name."""
    asked = await read_as(request, parse_detokenize, most_values=MAX_TOKEN_VALUES)
    return await embedding.detokenize(request, gateway, asked)
