"""Compressed responses, and those that must stay as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from wan_ui.web.compression import Compression

PAGE = "<p>words that repeat</p>" * 500


async def _parts() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield PAGE.encode()


def _route(path: str, response: Response) -> Route:
    async def answer(request: Request) -> Response:
        return response

    return Route(path, answer)


APP = Compression(
    Starlette(
        routes=[
            _route("/page", HTMLResponse(PAGE)),
            _route("/json", JSONResponse({"words": PAGE})),
            _route("/small", JSONResponse({"a": 1})),
            _route("/video", Response(b"0" * 5000, media_type="video/mp4")),
            _route("/done", Response(b"0" * 5000, media_type="text/html", headers={"Content-Encoding": "identity"})),
            _route("/events", StreamingResponse(_parts(), media_type="text/event-stream")),
            _route("/stream", StreamingResponse(_parts(), media_type="text/html")),
        ]
    )
)


async def get(path: str, accepted: str, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, headers={"Accept-Encoding": accepted})


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/page", "/json"])
@pytest.mark.parametrize(
    ("accepted", "encoding"), [("gzip, deflate, br, zstd", "br"), ("gzip", "gzip"), ("br;q=0, gzip;q=0.5", "gzip")]
)
async def test_html_and_json_are_compressed(path: str, accepted: str, encoding: str):
    response = await get(path, accepted)
    assert response.headers["content-encoding"] == encoding
    assert "Accept-Encoding" in response.headers["vary"]
    assert int(response.headers["content-length"]) < 500
    assert PAGE in (response.text if path == "/page" else response.json()["words"])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "accepted"),
    [("/page", "identity"), ("/page", "gzip;q=0"), ("/small", "br"), ("/video", "br"), ("/events", "br"),
     ("/stream", "br")],
)  # fmt: skip
async def test_the_rest_stays_as_it_is(path: str, accepted: str):
    response = await get(path, accepted)
    assert "content-encoding" not in response.headers
    assert response.content


@pytest.mark.anyio
async def test_an_encoded_response_is_not_encoded_twice():
    assert (await get("/done", "br")).headers["content-encoding"] == "identity"


@pytest.mark.anyio
async def test_a_head_request_is_left_alone():
    response = await get("/page", "br", "HEAD")
    assert response.headers["content-length"] == str(len(PAGE)) and "content-encoding" not in response.headers
