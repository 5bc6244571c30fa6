"""`/label/{project}`: the page for people with a labelling token. Public, for there is nothing of a project in it."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from services.gateway.labelling.page import load_page

router = APIRouter()
PAGE = load_page()
HEADERS = {
    "content-security-policy": PAGE.policy,
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
    "x-frame-options": "DENY",
}


@router.get("/label/{project}", include_in_schema=False)
async def label_page(project: str) -> HTMLResponse:  # noqa: ARG001 - the page reads it from its own address
    """The same for every project; what it shows it asks for with the token of who signed in."""
    return HTMLResponse(PAGE.html, headers=HEADERS)
