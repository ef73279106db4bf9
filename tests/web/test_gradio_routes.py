"""The allow-list of Gradio's routes against the route table of the installed Gradio."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr
import pytest
from gradio.routes import App
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from wan_ui.web.gradio_routes import SERVED, GradioRoutes

NOT_SERVED = frozenset(
    [
        "/api/{api_name}",
        "/app_id",
        "/call/v2/{api_name}",
        "/call/v2/{api_name}/{event_id}",
        "/call/{api_name}",
        "/call/{api_name}/{event_id}",
        "/cancel",
        "/component_server",
        "/custom_component/{id}/{environment}/{type}/{file_name}",
        "/deep_link",
        "/dev/reload",
        "/file/{path:path}",
        "/info",
        "/login",
        "/login_check",
        "/logout",
        "/manifest.json",
        "/monitoring",
        "/monitoring/summary",
        "/monitoring/{key}",
        "/openapi.json",
        "/process_recording",
        "/proxy={url_path:path}",
        "/pwa_icon",
        "/pwa_icon/{size}",
        "/queue/status",
        "/reset",
        "/run-history/buckets",
        "/run-history/connect",
        "/run-history/records",
        "/run-history/records/{endpoint}/{record_id}/assets/{asset_id}",
        "/runs",
        "/stream/{event_id}",
        "/stream/{event_id}/close",
        "/stream/{session_hash}/{run}/{component_id}/playlist-file",
        "/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
        "/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
        "/svelte/{path:path}",
        "/theme.css",
        "/token",
        "/undo-vibe-edit",
        "/user",
        "/vibe-code",
        "/vibe-edit",
        "/vibe-starter-queries",
    ]
)
"""Gradio's other routes, without their prefix. A route that an upgrade adds belongs here, or into SERVED."""


@pytest.fixture(scope="module")
def table() -> set[tuple[str, str]]:
    """(method, path) of all routes of Gradio's app."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Textbox()
    app = App.create_app(blocks, app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None})
    routes: list[Any] = []
    for route in app.routes:
        # FastAPI keeps the routes of an included router, here those with Gradio's prefix, together.
        routes += [route] if isinstance(route, Route) else cast(Any, route).original_router.routes
    assert all(isinstance(route, Route) for route in routes)
    return {(method, route.path) for route in routes for method in route.methods}


def test_every_route_of_gradio_is_served_or_known(table: set[tuple[str, str]]) -> None:
    served = {(method, route.template) for route in SERVED for method in route.methods}
    others = {path.removeprefix("/gradio_api").rstrip("/") for method, path in table - served}
    assert served - table == set(), "Gradio has no such route any more"
    known = NOT_SERVED | {route.template.removeprefix("/gradio_api").rstrip("/") for route in SERVED}
    assert others - known == set(), "Gradio has routes that nobody has looked at"
    assert NOT_SERVED - others == set(), "Gradio has no such route any more"


@pytest.fixture(scope="module")
def client() -> TestClient:
    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("served")

    every = ["GET", "POST", "HEAD", "DELETE", "PUT"]
    app = Starlette(routes=[Route("/{path:path}", answer, methods=every)])
    return TestClient(GradioRoutes(app, [Route("/v1/models", answer)]))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("HEAD", "/"), ("GET", "/?compare=" + "a" * 32), ("GET", "/config"), ("GET", "/assets/a/b-1.js"),
     ("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/queue/data?session_hash=a"), ("GET", "/v1/models"),
     ("POST", "/gradio_api/run/predict"), ("GET", "/gradio_api/heartbeat/a"), ("GET", "/gradio_api/file=/tmp/a.png")],
)  # fmt: skip
def test_what_the_page_uses_is_served(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/"), ("GET", "/gradio_api/queue/join"), ("GET", "/gradio_api/call/x/y"),
     ("POST", "/gradio_api/run/look"),
     ("POST", "/gradio_api/run/predict/"), ("POST", "/gradio_api/run/predict%0a"), ("POST", "/gradio_api/cancel"),
     ("GET", "/gradio_api/info"), ("GET", "/gradio_api/file=http://a"), ("GET", "/gradio_api/file=%0ahttp://a"),
     ("GET", "/gradio_api/heartbeat/a/b"), ("GET", "/gradio_api//file=a"), ("GET", "/GRADIO_API/heartbeat/a"),
     ("GET", "/v1/models/x"), ("GET", "/?deep_link=a"), ("GET", "/?page=x"), ("GET", "/?de%65p_link=a"),
     ("GET", "/proxy=http://a"),
     ("GET", "/config/"), ("DELETE", "/config"), ("PUT", "/gradio_api/file=a"), ("GET", "/file=/etc/passwd")],
)  # fmt: skip
def test_everything_else_is_not(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert response.status_code == 404
    assert method == "HEAD" or response.json()["detail"]["error"]["code"] == "ROUTE_NOT_FOUND"


def test_no_websocket_is_opened(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/"):
        pass
    assert caught.value.reason == "ROUTE_NOT_FOUND"
