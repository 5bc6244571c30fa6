"""How the application answers what no route does: typed errors, the framework's own, a client that has gone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from services.gateway.errors import error_response, http_error
from shared.errors import HeliuError, InvalidInput


def answer_refusals(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Have `app`, which serves `routers`, answer every error in the platform's one shape."""
    app.add_exception_handler(HeliuError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, partial(_answer_http, routers))
    app.add_exception_handler(ClientDisconnect, _answer_gone)


async def _answer_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HeliuError)
    return error_response(exc, request.state.trace_id)


async def _answer_validation(request: Request, exc: Exception) -> Response:
    """Query and path parameters; bodies are checked by `bodies`."""
    assert isinstance(exc, RequestValidationError)
    first: dict[str, Any] = exc.errors()[0]
    param = str(first["loc"][-1])
    error = InvalidInput(f"{param}: {first['msg']}, got {str(first['input'])[:80]!r}", param=param)
    return error_response(error, request.state.trace_id)


async def _answer_http(routers: Sequence[APIRouter], request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = f"{request.method} {request.url.path}"
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        # The framework names the methods of the first route with this path only.
        headers["allow"] = ", ".join(sorted(_methods(routers, request)))
    said = {
        404: f"no route {path}; the routes are at /docs",
        405: f"{path} is not served; this path has other methods (see the Allow header)",
    }
    response = error_response(
        http_error(exc.status_code, said.get(exc.status_code, str(exc.detail))), request.state.trace_id
    )
    response.headers.update(headers)
    return response


def _methods(routers: Sequence[APIRouter], request: Request) -> set[str]:
    """The methods that some route serves at this path."""
    routes = [*request.app.routes, *(route for router in routers for route in router.routes)]
    return {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


async def _answer_gone(request: Request, _: Exception) -> Response:
    gone = HeliuError("the client closed the connection", code="client_closed_request")
    return error_response(gone, request.state.trace_id)
