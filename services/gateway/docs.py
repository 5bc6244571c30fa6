"""The OpenAPI description: request bodies with examples, the key, and the one shape of errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from services.gateway.auth import PUBLIC

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "trace_id": {"type": ["string", "null"]},
            },
        }
    },
}


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One JSON object, or server-sent events where a stream is asked for.",
        "content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}},
    }
}


def json_body(
    model: type[BaseModel] | None, example: dict[str, Any], *, streams: bool = False
) -> dict[str, Any]:
    """Keyword arguments of a route whose body is read by `bodies`; it may answer with a stream."""
    schema = (
        model.model_json_schema(ref_template="#/components/schemas/{model}") if model else {"type": "object"}
    )
    content = {"application/json": {"schema": schema, "example": example}}
    body: dict[str, Any] = {"openapi_extra": {"requestBody": {"required": True, "content": content}}}
    return {**body, "responses": EVENTS} if streams else body


UPLOAD = {"file": "(the bytes of dialogues.jsonl)", "purpose": "fine-tune"}


def upload_body() -> dict[str, Any]:
    """The same for an upload."""
    properties = {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "example": "fine-tune"},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
    }
    schema = {"type": "object", "required": ["file", "purpose"], "properties": properties}
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": schema, "example": UPLOAD}},
            }
        }
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """The description, made once: keys on every route but the public ones, errors in OpenAI's shape."""
    if app.openapi_schema:
        return app.openapi_schema
    described = get_openapi(
        title="Heliu",
        version=app.version,
        description="Govern data, adapt models, serve them and watch them, behind an OpenAI-compatible API.",
        routes=app.routes,
    )
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = ERROR_SCHEMA
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "hl_..."}}
    failed = {
        "description": "What was wrong, with which value, and what would be right.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for path, methods in described["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = failed
            if path not in PUBLIC:
                operation["security"] = [{"key": []}]
            _lift_definitions(operation, schemas)
    app.openapi_schema = described
    return described


def _lift_definitions(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Move the models that a body's schema refers to where the references point."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schemas.update(content["schema"].pop("$defs", {}))
