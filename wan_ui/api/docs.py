"""GET /docs: the API's documentation, rendered by Swagger UI with scripts that this server has itself."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, Response

from wan_ui.errors import RouteNotFound

_STATIC = Path(fastapi_offline.__file__).parent / "static"
_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_HEADERS = {"Cache-Control": "private, max-age=86400"}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs() -> HTMLResponse:
    """A page on which each route can be tried; it asks no other host for anything."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="wan-ui: HTTP API",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )


@router.get("/docs/{name}")
def docs_file(name: str) -> Response:
    """A script, style sheet or picture of the page."""
    if name not in _FILES:
        raise RouteNotFound("There is no such file.")
    return FileResponse(_STATIC / name, media_type=_FILES[name], headers=_HEADERS)
