"""The MCP server at /mcp: Streamable HTTP without sessions, whose tools are requests of the API at /v1.

A tool's request enters the API with the identity of the MCP request, so that access, limits and errors are the same.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wan_ui._version import __version__
from wan_ui.api.bodies import FIELD
from wan_ui.api.long_texts import Texts, extract_texts, insert_texts
from wan_ui.api.mcp_tools import TOOLS, ApiRequest, ApiTool
from wan_ui.errors import BadJson, McpNotInstalled, RequestError, WanUIError
from wan_ui.identity import IDENTITY_SCOPE_KEY, current_identity
from wan_ui.turns import TurnsEach
from wan_ui.web.asgi import error_response, read_body, replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.server import Server, ServerRequestContext
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams
    from starlette.types import ASGIApp, Receive, Scope, Send

MCP_PATH = "/mcp"
BODY_LIMIT = 32 * 2**20  # bytes; first frames and MP4s are in the body as base64
SMALL_BYTES = 256 << 10  # of a message that is handled at once, beside any others
LARGE_AT_ONCE, LARGE_EACH = 4, 2  # larger messages being received, of all and of one browser
REST = 1.0  # times as long as a large message took, until the next one
PIECE = 256 << 10  # bytes of a body that the API receives at a time
INSTRUCTIONS = (
    "Renders videos with LoRAs for Wan models. submit or compare queue a request and return its request_id; poll "
    "status until it is succeeded, failed or canceled, then read result, which has the videos' addresses."
)


_LONG_TEXTS = "wan_ui.long_texts"  # in the scope: what was taken out of the message


def is_installed() -> bool:
    """Whether the `mcp` package, an extra, is there."""
    return find_spec("mcp") is not None


def mcp_route(api: ASGIApp, installed: bool | None = None) -> Route:
    """The route of the MCP server over the API's app. Without the package it answers with what to install."""
    there = is_installed() if installed is None else installed
    return Route(MCP_PATH, McpEndpoint(api) if there else _not_installed, methods=None if there else ["GET", "POST"])


def _headers_for(body: bytes, scope: Scope) -> list[tuple[bytes, bytes]]:
    others = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
    return [*others, (b"content-length", str(len(body)).encode())]


async def _not_installed(_request: Request) -> JSONResponse:
    error = McpNotInstalled(
        "This server has no MCP support installed. Install it with: pip install 'wan-ui[mcp]', then start it again."
    )
    return error_response(error)


class McpEndpoint:
    """The ASGI app of the route. It keeps nothing between requests: each is a new MCP connection.

    Large messages are handled one after another, with rests in between in which others are answered.
    """

    def __init__(self, api: ASGIApp) -> None:
        self._server = create_server(api)
        self._large = TurnsEach(LARGE_AT_ONCE, LARGE_EACH, "Other large messages are being received. Try again.")
        self._turn = asyncio.Lock()
        logging.getLogger("mcp").setLevel(logging.WARNING)  # it notes each request's start and end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST with JSON; no stream is kept open, so GET and DELETE are refused, as the protocol allows."""
        if scope["method"] != "POST":
            refusal = {"code": "METHOD_NOT_ALLOWED", "message": "MCP messages are sent with POST.", "details": {}}
            await JSONResponse({"detail": {"error": refusal}}, 405, {"Allow": "POST"})(scope, receive, send)
            return None
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and len(length) < 10 and int(length) <= SMALL_BYTES:
            return await self._handle(scope, receive, send)
        identity = scope[IDENTITY_SCOPE_KEY]
        try:
            with self._large.hold(identity.visitor, is_limited=not identity.owner):
                body = await read_body(receive, "An MCP message", BODY_LIMIT)
                async with self._turn:
                    begun = time.monotonic()
                    short, texts = await anyio.to_thread.run_sync(extract_texts, body)
                    scope = {**scope, _LONG_TEXTS: texts, "headers": _headers_for(short, scope)}
                    await self._handle(scope, replay(short, receive), send)
                    await asyncio.sleep(REST * (time.monotonic() - begun))
        except WanUIError as error:
            await error_response(error)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        manager = StreamableHTTPSessionManager(
            self._server, json_response=True, stateless=True, max_request_body_size=BODY_LIMIT
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)


def create_server(api: ASGIApp) -> Server[Any]:
    """The MCP server whose tools are requests of an API's app."""
    from mcp.server import Server
    from mcp_types import ListToolsResult, Tool

    tools = {tool.name: tool for tool in TOOLS}

    async def list_tools(_context: ServerRequestContext, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(
            tools=[Tool(name=tool.name, description=tool.description, input_schema=dict(tool.schema)) for tool in TOOLS]
        )

    async def call_tool(context: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
        request = context.request
        if not isinstance(request, Request):
            raise AssertionError("MCP messages come over HTTP")
        return await _call(api, tools.get(params.name), params, request)

    return Server(
        "wan-ui",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _call(api: ASGIApp, tool: ApiTool | None, params: CallToolRequestParams, request: Request) -> CallToolResult:
    """The API's answer to a tool as text and as data; an error of the API is an error of the tool."""
    from mcp_types import CallToolResult, TextContent

    if tool is None:
        wrong = {"code": "TOOL_NOT_FOUND", "message": f"There is no tool {params.name[:80]!r}.", "details": {}}
        answer: Any = {"detail": {"error": wrong}}
        is_error = True
    else:
        try:
            texts: Texts = request.scope.get(_LONG_TEXTS, {})
            wanted, body = await anyio.to_thread.run_sync(_wanted, tool, params.arguments or {}, texts)
            response = await _send(api, wanted, body, request)
            answer, is_error = response.json(), response.is_error
        except RequestError as error:
            answer, is_error = {"detail": {"error": error.body()}}, True
    text = TextContent(text=json.dumps(answer, ensure_ascii=False))
    return CallToolResult(content=[text], structured_content=answer, is_error=is_error)


def _wanted(tool: ApiTool, arguments: dict[str, Any], texts: Texts) -> tuple[ApiRequest, bytes | None]:
    """The API's request for a tool's arguments, and its JSON body. Raises RequestError."""
    wanted = tool.request(insert_texts(arguments, texts))
    return wanted, None if wanted.json is None else _encode(wanted.json)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


async def _send(api: ASGIApp, wanted: ApiRequest, body: bytes | None, request: Request) -> httpx.Response:
    """Sends a request to the API's app in this process, as the sender of the MCP request."""
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False, root_path="/v1")
    base = f"{request.url.scheme}://{request.url.netloc}"
    # A file, which httpx sends little by little: bytes go in one piece, and the API would parse that in one go.
    files = None if wanted.file is None else {FIELD: ("video.mp4", io.BytesIO(wanted.file), "video/mp4")}
    content = None if body is None else _pieces(body)
    headers = None if body is None else {"Content-Length": str(len(body))}
    identity = current_identity.set(request.scope[IDENTITY_SCOPE_KEY])
    try:
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            path = f"/v1{wanted.path}"
            return await client.request(wanted.method, path, content=content, files=files, headers=headers)
    finally:
        current_identity.reset(identity)


def _encode(value: Any) -> bytes:
    """A body as JSON. Raises BadJson for NaN and infinities: the protocol's parser takes `NaN` and `1e999`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise BadJson("The arguments hold a number that is not finite, which JSON does not have.") from None
