"""The MCP server over HTTP: a real client on a whole server with a password; and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import numpy as np
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.waiting import wait_until
from tests.web.strangers import BODY, Server, running
from wan_ui.api.long_texts import LONG, MOST_DEPTH, MOST_LEFT, extract_texts, insert_texts
from wan_ui.api.mcp_server import LARGE_EACH, McpEndpoint, mcp_route
from wan_ui.api.mcp_tools import TOOLS
from wan_ui.errors import BadJson, PayloadTooLarge
from wan_ui.identity import IDENTITY_SCOPE_KEY, Identity
from wan_ui.media import video

pytestmark = pytest.mark.slow
PASSWORD = "a long password"
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("plain", tmp_path_factory.mktemp("mcp"), auth=("wan", PASSWORD), max_waiting_each=3) as server:
        yield server


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind a public link, whose password is its own. Its `url` is the link."""
    with running("share", tmp_path_factory.mktemp("mcp link")) as server:
        yield server


def with_client(server: Server, work: Callable[[Client], Awaitable[None]]) -> None:
    """Runs `work` with a client that has the password."""

    async def run() -> None:
        assert server.entry.login is not None
        headers = {"Authorization": f"Bearer {server.entry.login.password}", "Host": server.host}
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http:
            async with Client(streamable_http_client(f"{server.url}/mcp", http_client=http)) as client:
                await work(client)

    anyio.run(run)


async def answer(client: Client, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """A tool's data. A refusal has an error in it."""
    result = await client.call_tool(name, arguments or {})
    data: dict[str, Any] = result.structured_content or {}
    assert bool(result.is_error) is ("detail" in data)
    return data


def code(data: dict[str, Any]) -> str:
    return str(data["detail"]["error"]["code"])


def test_a_client_uses_every_tool(server: Server, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    generation = {**BODY, "prompts": [{**BODY["prompts"][0], "seed": 7}]}
    video.write(clip, np.zeros((1, 64, 64, 3), np.uint8), 16, {"request": generation})
    finished = server.finished_job(None)

    async def work(client: Client) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == [tool.name for tool in TOOLS]
        models = await answer(client, "list_models")
        assert "wan21_1b" in {model["id"] for model in models["models"]}
        report = await answer(client, "inspect_lora", {"path": "style.safetensors"})
        assert (report["type"], report["fits"]["wan21_1b"]) == ("lora", "yes")
        sent = await answer(client, "submit", BODY)
        assert sent["result_url"] == f"{server.url}/v1/requests/{sent['request_id']}/result"
        status = await answer(client, "status", {"request_id": sent["request_id"]})
        assert status["status"] == "in_queue"
        result = await answer(client, "result", {"request_id": finished})
        assert result["outputs"]["videos"][0]["url"] == f"{server.url}/v1/requests/{finished}/videos/0"
        axis = {"columns": {"field": "seed", "values": [1, 2]}}
        grid = await answer(client, "compare", {**BODY, "compare": axis})
        cells = (await answer(client, "result", {"request_id": grid["request_id"]}))["metadata"]["compare"]["cells"]
        assert len(cells) == 2
        restored = await answer(client, "restore", {"video": base64.b64encode(clip.read_bytes()).decode()})
        assert restored["request"]["prompts"][0]["seed"] == 7

    with_client(server, work)


def test_long_texts_of_a_large_message_reach_the_tool(server: Server) -> None:
    """They are taken out before the protocol's library decodes the message in the event loop."""
    long = "a garden " * 40_000
    problems = [
        ("submit", {**BODY, "prompts": [{**BODY["prompts"][0], "prompt": long}]}, "INVALID_REQUEST"),
        ("restore", {"video": base64.b64encode(bytes(1 << 20)).decode()}, "VIDEO_INVALID"),
        ("restore", {"video": "!" * (1 << 20)}, "INVALID_REQUEST"),
    ]

    async def work(client: Client) -> None:
        for name, arguments, refusal in problems:
            assert code(await answer(client, name, arguments)) == refusal, name

    with_client(server, work)


def test_the_texts_of_a_message_are_put_back() -> None:
    arguments = {"prompts": [{"prompt": "a" * LONG}, {"prompt": "b" * (LONG + 1), "seed": 3}], "none": None}
    message = {"jsonrpc": "2.0", "id": 1, "params": {"name": "submit", "arguments": arguments}}
    short, texts = extract_texts(json.dumps(message).encode())
    decoded = json.loads(short)
    assert list(texts.values()) == ["b" * (LONG + 1)]
    assert insert_texts(decoded["params"]["arguments"], texts) == arguments
    deep: Any = "a"
    for _ in range(2 * MOST_DEPTH):
        deep = [deep]
    for wrong, error in (
        ({"params": {"arguments": deep}}, BadJson),
        ({"params": {"arguments": {"a" * MOST_LEFT: 1}}}, PayloadTooLarge),
        ({"id": "a" * MOST_LEFT}, PayloadTooLarge),
    ):
        with pytest.raises(error):
            extract_texts(json.dumps(wrong).encode())


def test_what_a_client_may_not_do(server: Server) -> None:
    with server.browser() as browser:
        private = server.finished_job(server.visitor_of(browser))

    async def work(client: Client) -> None:
        for name in ("status", "result"):
            assert code(await answer(client, name, {"request_id": private})) == "REQUEST_NOT_FOUND"
            assert code(await answer(client, name, {"request_id": "../../health"})) == "INVALID_REQUEST"
            assert code(await answer(client, name, {})) == "INVALID_REQUEST"
        assert code(await answer(client, "inspect_lora", {"path": "../secret.safetensors"})) == "LORA_NOT_FOUND"
        assert (
            code(await answer(client, "submit", {"model": "none", "prompts": [{"prompt": "x"}]})) == "MODEL_NOT_FOUND"
        )
        assert code(await answer(client, "compare", BODY)) == "INVALID_REQUEST"
        assert code(await answer(client, "restore", {"video": "no base64!"})) == "INVALID_REQUEST"
        assert code(await answer(client, "no such tool")) == "TOOL_NOT_FOUND"
        sent = [await answer(client, "submit", BODY) for _ in range(4)]
        assert code(sent[-1]) == "QUEUE_FULL"  # the limits are those of the API

    with_client(server, work)


@pytest.mark.parametrize(
    ("headers", "status", "refusal"),
    [
        ({}, 401, "LOGIN_REQUIRED"),
        ({"authorization": "Bearer wrong password"}, 401, "LOGIN_FAILED"),
        ({"authorization": f"Bearer {PASSWORD}", "origin": "https://evil.example"}, 403, "ORIGIN_REFUSED"),
        ({"authorization": f"Bearer {PASSWORD}", "host": "evil.example"}, 403, "ORIGIN_REFUSED"),
    ],
)
def test_no_mcp_without_password_host_and_origin(
    server: Server, headers: dict[str, str], status: int, refusal: str
) -> None:
    accept = {"accept": "application/json, text/event-stream"}
    reply = httpx.post(f"{server.url}/mcp", json=INITIALIZE, headers={**accept, **headers}, trust_env=False)
    assert (reply.status_code, code(reply.json())) == (status, refusal)
    assert ("www-authenticate" in reply.headers) is (status == 401)


def test_a_client_of_a_public_link_is_a_program_with_the_password(linked: Server) -> None:
    """The link always has a password. What is sent is a program's: read by its id, no browser's, in no list."""
    downloads: list[str] = []
    with linked.browser() as browser:
        private = linked.finished_job(linked.visitor_of(browser))

    async def work(client: Client) -> None:
        assert (await answer(client, "list_models"))["models"]
        sent = await answer(client, "submit", BODY)
        assert sent["status_url"].startswith(f"http://{linked.host}/v1/requests/{sent['request_id']}")  # of the link
        assert (await answer(client, "status", {"request_id": sent["request_id"]}))["status"] == "in_queue"
        assert code(await answer(client, "status", {"request_id": private})) == "REQUEST_NOT_FOUND"
        # A link's visitors must not reach the operator's own network, nor files outside the LoRA folder.
        download = {**BODY, "loras": [{"path": f"http://127.0.0.1:{linked.port}/style.safetensors"}]}
        downloads.append((await answer(client, "submit", download))["request_id"])
        assert code(await answer(client, "inspect_lora", {"path": "../secret.safetensors"})) == "LORA_NOT_FOUND"

    with_client(linked, work)
    store = linked.services.store
    wait_until(lambda: store.job(downloads[0]).status == "failed")
    assert (store.job(downloads[0]).error or {})["code"] == "FETCH_FAILED"


def test_the_owners_client_may_use_the_owners_session(linked: Server) -> None:
    """On the machine itself, past the link: the password there too, or the cookie of the owner's browser."""
    direct = f"http://127.0.0.1:{linked.port}/mcp"
    with linked.browser() as browser:
        private = linked.finished_job(linked.visitor_of(browser))
    call = {"method": "tools/call", "params": {"name": "status", "arguments": {"request_id": private}}}
    message = {"jsonrpc": "2.0", "id": 1, **call}
    accept = {"accept": "application/json, text/event-stream"}
    assert httpx.post(direct, json=message, headers=accept, trust_env=False).status_code == 401
    with linked.owner() as owner:
        (cookie,) = owner.cookies.jar
        headers = {**accept, "cookie": f"{cookie.name}={cookie.value}"}
        reply = httpx.post(direct, json=message, headers=headers, trust_env=False)
    assert reply.json()["result"]["structuredContent"]["status"] == "succeeded"


def test_a_wrong_password_at_the_link_is_refused_and_slowed_down(linked: Server) -> None:
    headers = {"accept": "application/json, text/event-stream", "host": linked.host}
    codes = []
    for attempt in range(12):
        guess = {**headers, "authorization": f"Bearer guess {attempt}"}
        codes.append(code(httpx.post(f"{linked.url}/mcp", json=INITIALIZE, headers=guess, trust_env=False).json()))
    assert codes[0] == "LOGIN_FAILED" and codes[-1] == "LOGIN_LOCKED"

    async def work(client: Client) -> None:  # the right one passes all the same
        assert (await answer(client, "list_models"))["models"]

    with_client(linked, work)


def test_only_post(server: Server) -> None:
    with server.client() as client:
        for method in ("GET", "DELETE"):
            reply = client.request(method, "/mcp")
            assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_without_the_package_it_says_what_to_install() -> None:
    async def nothing(*_: Any) -> None:
        raise AssertionError("the API is not called")

    client = TestClient(Starlette(routes=[mcp_route(nothing, installed=False)]))
    for method in ("GET", "POST"):
        reply = client.request(method, "/mcp")
        assert (reply.status_code, code(reply.json())) == (501, "MCP_NOT_INSTALLED")
        assert "pip install 'wan-ui[mcp]'" in reply.json()["detail"]["error"]["message"]


def test_few_large_messages_are_received_at_a_time() -> None:
    scope: MutableMapping[str, Any] = {"type": "http", "method": "POST", "path": "/mcp"}
    scope["headers"] = [(b"content-length", b"20000000")]
    scope[IDENTITY_SCOPE_KEY] = Identity("a" * 32, owner=False)
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError("it never ends")

    async def send_three() -> None:
        async with anyio.create_task_group() as group:
            endpoint = McpEndpoint(Starlette())
            for _ in range(LARGE_EACH):
                group.start_soon(endpoint, scope, receive, send)
            await anyio.wait_all_tasks_blocked()
            assert sent == []
            await endpoint(scope, receive, send)
            group.cancel_scope.cancel()

    anyio.run(send_three)
    assert sent[0]["status"] == 503
