"""What strangers try over raw HTTP, with and without a public link: every member of every family is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.mp4_boxes import box, carrying, film, mp4, wide
from tests.sampling import sampled
from tests.waiting import wait_until
from tests.web.strangers import BODY, SECRET, Server, running
from wan_ui.access import Access
from wan_ui.identity import Identity
from wan_ui.web.login import TRIES

pytestmark = pytest.mark.slow

REFUSED = {400, 401, 403, 404, 405, 413, 416, 422}


@pytest.fixture(scope="module", params=["plain", "share"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def raw(server: Server, head: bytes) -> bytes:
    """The status line of an answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", server.link_port or server.port), timeout=20) as line:
        line.sendall(head)
        return line.recv(200).split(b"\r\n")[0]


def code(reply: httpx.Response) -> str:
    return str(reply.json()["detail"]["error"]["code"])


def until_ended(client: httpx.Client, reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    status: dict[str, Any] = {}

    def ended() -> bool:
        status.update(client.get(f"/v1/requests/{reply.json()['request_id']}/status").json())
        return status["finished_at"] is not None

    wait_until(ended, every=0.05, state=lambda: status)  # a poll, as every client of this API does it
    return status


# Paths

SERVER_FILES = (
    "jobs.sqlite",
    "visitors.key",
    "uploads/uploads.json",
    "../secret.safetensors",
    "../loras/style.safetensors",
)


@pytest.mark.parametrize(
    "route", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/"]
)
@pytest.mark.parametrize(
    "how", ["{data}/{name}", "../{name}", "%2e%2e/{name}", "..%2f{name}", "....//{name}", "/proc/self/cwd/../{name}"]
)
def test_no_file_of_the_server(server: Server, route: str, how: str) -> None:
    with server.client(looks=False) as client:  # a refusal may say again what was asked
        for name in SERVER_FILES:
            path = how.format(data=server.folder / "data", name=name)
            reply = client.get(httpx.URL(server.url).copy_with(raw_path=f"{route}{path}".encode()))
            assert reply.status_code in REFUSED, reply.text[:200]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/proc/self/environ", "C:/Windows/win.ini", "//etc/passwd", "~/.bashrc"]
)
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/file=", "/gradio_api/stream/", "/v1/requests/"])
def test_no_file_of_the_system(server: Server, client: httpx.Client, route: str, path: str) -> None:
    reply = client.get(httpx.URL(server.url).copy_with(raw_path=f"{route}{path}".encode()))
    assert reply.status_code in REFUSED and "root:" not in reply.text


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../secret.safetensors", "a/../../secret.safetensors", "..\\secret.safetensors", "link.safetensors",
     "file:///etc/passwd", "style.safetensors\0.txt", "./", "", "~/x.safetensors", "upload://../visitors.key",
     "upload://" + "0" * 32, "a" * 5000, "style.safetensors/../../secret.safetensors", "hf://../../x.safetensors"],
)  # fmt: skip
def test_no_lora_from_elsewhere(client: httpx.Client, path: str) -> None:
    reply = client.post("/v1/inference", json=BODY | {"loras": [{"path": path}]})
    assert reply.status_code in (400, 422) and code(reply) in ("LORA_NOT_FOUND", "LORA_INVALID", "INVALID_REQUEST")
    reply = client.post("/v1/loras/inspect", json={"path": path})
    assert reply.status_code in (400, 422)


@pytest.mark.parametrize("folder", ["..", "/etc", "../data", "a/../..", "."])
def test_no_training_job_from_elsewhere(client: httpx.Client, folder: str) -> None:
    assert client.post("/v1/jobs/import", json={"folder": folder}).status_code in (400, 404, 422)


# Addresses

INSIDE = (
    "http://127.0.0.1:{port}/v1/health", "http://localhost:{port}/", "http://[::1]:{port}/", "http://0.0.0.0:{port}/",
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/",
    "http://100.64.0.1/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[fd00::1]/", "http://[fe80::1]/",
    "http://example.com@127.0.0.1:{port}/", "http://127.0.0.1.:{port}/", "http://127.0.0.1:{port}/#@example.com",
)  # fmt: skip
NO_WEB = (
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:1/x",
    "http://",
    "http:///x",
    "https://[::1",
    "http://a b/",
)


@pytest.mark.parametrize("url", [*INSIDE, *NO_WEB])
def test_no_first_frame_from_inside(server: Server, client: httpx.Client, url: str) -> None:
    """127.0.0.1 is allowed by --allow-url-host here: on a server with a link that counts for nothing."""
    body = {"model": "wan21_i2v_14b", "prompts": [{"prompt": "a", "ctrl_img": url.format(port=server.port)}]}
    reply = client.post("/v1/inference", json=body)
    assert reply.status_code == 400 and code(reply) == "CONTROL_IMAGE_INVALID"
    if server.mode == "share" and url in INSIDE:
        said = ("not on the public internet", "was not found", "user name", "Invalid URL")
        assert any(text in reply.text for text in said), reply.text


@pytest.mark.parametrize("url", INSIDE)
def test_no_lora_from_inside(server: Server, client: httpx.Client, url: str) -> None:
    address = url.format(port=server.port).split("#")[0].rstrip("/") + "/x.safetensors"
    reply = client.post("/v1/inference", json=BODY | {"loras": [{"path": address}]})
    if reply.status_code == 200:
        ended = until_ended(client, reply)
        assert ended["status"] == "failed" and ended["error"]["code"] in ("FETCH_FAILED", "LORA_INVALID")
    else:
        assert code(reply) in ("FETCH_FAILED", "LORA_NOT_FOUND")


@pytest.mark.parametrize("url", INSIDE)
def test_gradio_fetches_nothing_for_strangers(server: Server, client: httpx.Client, url: str) -> None:
    for route in ("/gradio_api/proxy=", "/gradio_api/file=", "/proxy="):
        target = f"{route}{url.format(port=server.port).split('#')[0]}".encode()
        assert client.get(httpx.URL(server.url).copy_with(raw_path=target)).status_code in REFUSED


# Origins and hosts

ORIGINS = (
    "https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost.evil.example",
    "http://evil.localhost", "file://", "chrome-extension://x", "http://{host}.evil.example", "http://{host}@evil.example",
)  # fmt: skip
HOSTS = (
    "evil.example", "127.0.0.1.evil.example", "other.localhost", "10.0.0.1", "[fd00::1]", "metadata.google.internal",
    "127.0.0.1:1:1", "user@127.0.0.1", "127.0.0.1/x", "gradio.live",
)  # fmt: skip
ROUTES = (
    "/",
    "/config",
    "/gradio_api/info",
    "/v1/models",
    "/v1/health",
    "/gradio_api/queue/join",
    "/login",
    "/metrics",
)


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_page_of_another_site(server: Server, client: httpx.Client, origin: str) -> None:
    for method, route in ((method, route) for method in ("GET", "POST", "OPTIONS") for route in ROUTES):
        reply = client.request(method, route, headers={"origin": origin.format(host=server.host)})
        assert reply.status_code == 403 and code(reply) == "ORIGIN_REFUSED"
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("host", HOSTS)
def test_no_other_host(client: httpx.Client, host: str) -> None:
    for route in ROUTES:
        assert client.get(route, headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize(
    "head",
    [
        b"Host: evil.example\r\nHost: {host}",
        b"",
        b"Host:",
        b"Host: {host}\r\nHost: {host}",
        b"Host: {host}\r\nOrigin: a\r\nOrigin: b",
    ],
)
def test_no_two_hosts_and_no_none(server: Server, head: bytes) -> None:
    sent = head.replace(b"{host}", server.host.encode())
    status = raw(server, b"GET /v1/health HTTP/1.1\r\n" + sent + b"\r\nConnection: close\r\n\r\n")
    assert status.split()[1] in (b"400", b"403")


@pytest.mark.parametrize("name", ["x-forwarded-host", "x-original-host", "forwarded", "x-host"])
def test_no_header_moves_the_page(client: httpx.Client, name: str) -> None:
    for route in ("/", "/config"):
        assert "evil.example" not in client.get(route, headers={name: "evil.example"}).text


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-real-ip", "client-ip"])
def test_no_header_makes_an_owner(server: Server, name: str) -> None:
    with server.client(signed_in=False) as client:
        reply = client.get("/v1/models", headers={name: "127.0.0.1"})
    assert reply.status_code == (401 if server.mode == "share" else 200)


# Bombs


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


IMAGES = {
    "pixels": png(60000, 60000, bytes(1000)),
    "one row": png(2**31 - 1, 1),
    "cut off": png(64, 64),
    "text chunk": png(8, 8)[:-12] + struct.pack(">I", 2**31 - 1) + b"zTXt",
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0" * 20,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "pickle": b"\x80\x04\x95",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", IMAGES)
def test_no_image_bomb(client: httpx.Client, kind: str) -> None:
    text = base64.b64encode(IMAGES[kind]).decode()
    begun = time.monotonic()
    reply = client.post(
        "/v1/inference", json={"model": "wan21_i2v_14b", "prompts": [{"prompt": "a", "ctrl_img": text}]}
    )
    assert code(reply) in ("CONTROL_IMAGE_INVALID", "CONTROL_IMAGE_REQUIRED") and time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 100_000, '{"model": "wan21_1b", "prompts": ' + "[" * 9000, "1" * 100_000,
     '{"seed": 1e999999}', '{"model": NaN}', '"' + "a" * 1_000_000,
     '{"model": "\\ud800"}', "", "null", "[]", "\0", "\xff"],
)  # fmt: skip
def test_no_json_bomb(client: httpx.Client, text: str) -> None:
    reply = client.post("/v1/inference", content=text.encode("latin-1"), headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422) and code(reply) in ("BAD_JSON", "INVALID_REQUEST", "MODEL_NOT_FOUND")


BOMBS = {
    "text": carrying(b" " * (5 << 20)),
    "deep": carrying(b"[" * 4_000_000),
    "wide": carrying(b"[" + b"[]," * 1_300_000 + b"0]"),
    "deep objects": carrying(b'{"request":' * 300_000),
    "not UTF-8": carrying(b"\xff\xfe\xfd"),
    "foreign": carrying({"request": "somebody's"}),
    "prompts": carrying({"request": {"model": "wan21_1b", "prompts": [{"prompt": "a"}] * 1001}}),
    "LoRAs": carrying(
        {"request": {"model": "wan21_1b", "prompts": [{"prompt": "a"}]}, "loras": [{"path": "a"}] * 1000}
    ),
    "a box that lies": mp4(film(b"{}", 2**31)),
    "64 bits": mp4(film(b"{}"), wide(b"mdat", b"", 2**64 - 1)),
    "boxes": mp4(box(b"moov", b"\0\0\0\x08moov" * 20_000)),
    "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 99,
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "nothing": b"",
}


@pytest.mark.parametrize(("kind", "query"), sampled(2, BOMBS, ["", "?from_video=true"]))
def test_no_settings_bomb(client: httpx.Client, kind: str, query: str) -> None:
    reply = client.post(f"/v1/restore{query}", files={"file": ("clip.mp4", BOMBS[kind])})
    assert reply.status_code == 400 and code(reply) == "VIDEO_INVALID", reply.text[:300]


PATHS = ("/etc/passwd", "../secret.safetensors", "link.safetensors", "upload://../visitors.key", "upload://" + "0" * 32)


def test_no_file_through_a_videos_settings(client: httpx.Client) -> None:
    """What a video names is looked for like what a request names; nothing is revealed about what else is there."""
    about = {
        "request": {"model": "wan21_1b", "stack": True, "prompts": [{"prompt": "a"}]},
        "loras": [{"path": path, "sha256": "ab" * 32} for path in PATHS],
    }
    about["request"] |= {"loras": [{"path": path} for path in PATHS]}  # type: ignore[operator]
    said = client.post("/v1/restore", files={"file": ("clip.mp4", carrying(about))}).json()
    assert said["request"]["loras"] == [] and len(said["notes"]) == len(PATHS)
    assert all("is missing (SHA-256 abababababab…)" in note for note in said["notes"]), said["notes"]


def test_no_first_frame_of_another_through_a_video(server: Server) -> None:
    kept = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(kept, "PNG")
    row = "wan21_i2v_14b"
    with server.browser() as one, server.browser() as other:
        body = {"model": row, "prompts": [{"prompt": "a", "ctrl_img": base64.b64encode(kept.getvalue()).decode()}]}
        assert one.post("/v1/inference", json=body).status_code == 200
        sha256 = hashlib.sha256(kept.getvalue()).hexdigest()
        about = carrying({"request": {"model": row, "prompts": [{"prompt": "a", "ctrl_img": f"upload://{sha256}"}]}})
        said = [
            browser.post("/v1/restore", files={"file": ("clip.mp4", about)}).json()["first_frame"]
            for browser in (one, other)
        ]
    assert said == (["here", "missing"] if server.mode == "share" else ["here", "here"])


def test_no_huge_request(client: httpx.Client) -> None:
    prompts = [{"prompt": "a"}] * 1001
    assert client.post("/v1/inference", json=BODY | {"prompts": prompts}).status_code == 422
    assert client.post("/v1/inference", json=BODY | {"prompts": [{"prompt": "a" * 200_000}]}).status_code == 422
    big = {"prompt": "a", "width": 4096, "height": 4096, "num_frames": 10**9}
    assert client.post("/v1/inference", json=BODY | {"prompts": [big]}).status_code == 422


def test_no_body_without_end(server: Server, client: httpx.Client) -> None:
    reply = client.post("/v1/inference", content=b" " * (81 * 2**20))
    assert reply.status_code == 413 and code(reply) == "PAYLOAD_TOO_LARGE"
    head = f"POST /v1/inference HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: {10**18}\r\n\r\n"
    assert raw(server, head.encode()).split()[1] in ((b"401", b"413") if server.mode == "share" else (b"413",))


def zipped(name: str, data: bytes = b"x") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


FILES = {
    "pickle": b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix",
    "page": b"<!doctype html><script>alert(1)</script>",
    "zip": zipped("../../evil.py"),
    "header bomb": struct.pack("<Q", 2**62) + b"{",
    "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "nothing": b"",
    "elf": b"\x7fELF" + bytes(100),
}


@pytest.mark.parametrize("kind", FILES)
def test_nothing_but_safetensors(client: httpx.Client, kind: str) -> None:
    for name in ["a.safetensors", "../../a.safetensors", "/etc/passwd", "a.py"]:
        reply = client.post("/v1/loras/inspect", files={"file": (name, FILES[kind])})
        assert reply.status_code in (400, 422) and code(reply) in ("LORA_INVALID", "INVALID_REQUEST")


@pytest.mark.parametrize("name", ["../../evil.yaml", "/etc/evil.yaml", "a/../../evil.yaml", "..\\evil.yaml"])
def test_no_zip_writes_outside(server: Server, client: httpx.Client, name: str) -> None:
    reply = client.post("/v1/jobs/import", files={"file": ("job.zip", zipped(name))})
    assert reply.status_code in (400, 413, 422)
    assert not list(server.folder.rglob("evil.yaml")) and not Path("/etc/evil.yaml").exists()


@pytest.mark.parametrize("name", ["../../../evil", "/etc/evil", "..%2fevil", "evil\0.png", "a" * 500])
def test_no_upload_lands_elsewhere(server: Server, client: httpx.Client, name: str) -> None:
    client.post("/gradio_api/upload", files={"files": (name, b"x")})
    gradio = server.folder / "data" / "gradio"
    assert [path for path in server.folder.rglob("*evil*") if not path.is_relative_to(gradio)] == []


@pytest.mark.parametrize(
    "path", ["{data}/visitors.key", "/etc/hostname", "{data}/../secret.safetensors", "{data}/gradio/../visitors.key"]
)
def test_no_event_reads_or_moves_a_file(server: Server, path: str) -> None:
    """Raw values for every input of every handler, as no page would send them."""
    said = path.format(data=server.folder / "data")
    images = set((server.folder / "data" / "images").glob("*"))
    with server.browser(looks=False) as browser:
        config = browser.get("/config").json()
        for one in config["dependencies"]:
            if any(target[1] in ("upload", "click", "input") for target in one["targets"]):
                data = [{"path": said, "orig_name": "a.safetensors"}] * len(one["inputs"])
                body = {"fn_index": one["id"], "data": data, "session_hash": "forged", "event_data": {"job": said}}
                assert browser.post("/gradio_api/queue/join", json=body).status_code < 500
        answers = b""
        with browser.stream("GET", "/gradio_api/queue/data", params={"session_hash": "forged"}) as stream:
            for piece in stream.iter_raw():
                answers += piece
                if b"close_stream" in answers:
                    break
    assert (server.folder / "secret.safetensors").is_file()
    assert (server.folder / "data" / "visitors.key").is_file()
    assert set((server.folder / "data" / "images").glob("*")) == images


# What every answer carries


@pytest.mark.parametrize(
    "route", ["/", "/config", "/v1/models", "/v1/health", "/v1/nothing", "/nothing", "/theme.css", "/login"]
)
def test_every_answer_has_the_headers(client: httpx.Client, route: str) -> None:
    headers = client.get(route).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "object-src 'none'" in policy and "http:" not in policy
    assert "server" not in headers or "uvicorn" in headers["server"]
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["TRACE", "PUT", "PATCH", "PROPFIND", "DELETE"])
def test_other_methods_do_nothing(client: httpx.Client, method: str) -> None:
    for route in ("/", "/v1/inference", "/config"):
        assert client.request(method, route).status_code in REFUSED | {501}


DEVELOPERS = ("/docs", "/openapi.json", "/redoc", "/monitoring", "/monitoring/summary", "/gradio_api/runs",
              "/gradio_api/dev/reload", "/gradio_api/vibe-code", "/gradio_api/profiling/traces")  # fmt: skip


@pytest.mark.parametrize("route", DEVELOPERS)
def test_what_gradio_has_for_developers_is_not_there(client: httpx.Client, route: str) -> None:
    assert client.get(route).status_code in REFUSED


def test_the_page_tells_no_path(server: Server, client: httpx.Client) -> None:
    """`look`, after every answer, is what judges."""
    for route in ("/", "/config", "/v1/openapi.json", "/v1/models", "/metrics"):
        assert client.get(route).status_code == 200
    sent = client.post("/gradio_api/upload", files={"files": ("a.png", b"x")})
    assert sent.status_code == 200 and str(server.folder) not in sent.text


# Login

GUARDED = ("/", "/config", "/v1/models", "/v1/openapi.json", "/v1/inference", "/metrics", "/theme.css",
           "/gradio_api/info", "/gradio_api/queue/data?session_hash=x", "/gradio_api/file=x", "/gradio_api/heartbeat/x",
           "/assets/x.js")  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a link, for tests that leave its brake on guessing alone and its owner's address unread."""
    with running("share", tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a link that the tests of signing in use up, in their order."""
    with running("share", tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.mark.parametrize("route", GUARDED)
def test_nothing_without_the_password(server: Server, route: str) -> None:
    """Alone on its machine, a server asks nobody for one."""
    with server.client(signed_in=False) as stranger:
        if server.entry.login is None:
            assert stranger.get("/v1/models").status_code == 200
            return
        for method in ("GET", "POST", "HEAD", "DELETE", "OPTIONS"):
            assert stranger.request(method, route).status_code == 401


def check_metrics(server: Server) -> None:
    login, owner = server.entry.login, server.entry.owner
    assert login is not None and owner is not None
    with server.client(signed_in=False) as stranger:
        assert code(stranger.get("/metrics")) == "LOGIN_REQUIRED"
        assert stranger.get("/metrics", headers={"accept": "text/html"}).status_code == 401
        assert stranger.get("/metrics", auth=(login.user, "wrong")).status_code == 401
        assert stranger.get("/metrics", params={"token": login.password}).status_code == 401
    with server.browser() as guest, server.client() as program:
        jobs = [server.finished_job(server.visitor_of(guest)), server.finished_job(None)]
        said = [one.get("/metrics") for one in (guest, program)]
    secrets = [login.password, owner.path or "", *jobs, BODY["prompts"][0]["prompt"], str(server.folder), SECRET]
    for reply in said:
        assert reply.status_code == 200 and 'wan_ui_jobs{status="succeeded"} 2.0' in reply.text
        assert [secret for secret in secrets if secret in reply.text] == []


def test_metrics_are_behind_the_password_and_tell_no_secret(own: Server) -> None:
    check_metrics(own)


@pytest.mark.parametrize("settings", [{"auth": ("ann", "of her own")}, {"host": "0.0.0.0"}], ids=["auth", "host"])
def test_metrics_without_a_link_are_behind_the_password_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    with running("plain", tmp_path, **settings) as server:
        check_metrics(server)


def test_health_alone_is_open(server: Server) -> None:
    with server.client(signed_in=False) as stranger:
        assert stranger.get("/v1/health").status_code == 200
        assert stranger.get("/health").json() == {"status": "healthy"}
        if server.entry.login is not None:
            assert code(stranger.get("/v1/models")) == "LOGIN_REQUIRED"


def test_the_password_opens_page_and_door(shared: Server) -> None:
    login = shared.entry.login
    assert login is not None
    with shared.client(signed_in=False) as client:
        assert client.get("/v1/models", auth=(login.user, login.password)).status_code == 200
        assert client.get("/v1/models", headers={"authorization": f"Bearer {login.password}"}).status_code == 200
        assert client.get("/v1/models", auth=("other", login.password)).status_code == 401
    with shared.browser() as browser:
        assert browser.get("/config").status_code == 200 and browser.get("/v1/models").status_code == 200


def test_guessing_is_locked_out(own: Server) -> None:
    """Over the link. tests/web/test_auth.py has every way to send a password."""
    assert own.entry.login is not None

    def guess(password: str) -> int:
        with own.client(signed_in=False) as client:
            return client.get("/v1/models", auth=(user, password)).status_code

    user = own.entry.login.user
    with own.browser() as inside:
        answers = [guess(f"wrong-{index}") for index in range(TRIES + 2)]
        assert answers.count(401) <= TRIES + 1 and answers[-1] == 429
        assert guess(own.entry.login.password) == 200
        assert inside.get("/v1/models").status_code == 200


def test_the_owners_address_opens_once_and_cannot_be_guessed(own: Server) -> None:
    assert own.entry.owner is not None and own.entry.owner.path is not None
    path = own.entry.owner.path
    with own.client(signed_in=False) as stranger:
        for wrong in ("/owner/", "/owner/x", path[:-1], path + "x", "/owner/%00"):
            assert stranger.get(wrong).status_code in (401, 404)
    with own.client(signed_in=False) as owner, own.client(signed_in=False) as late:
        assert owner.get(path).status_code == 303 and owner.get("/").status_code == 200
        assert late.get(path).status_code == 404 and late.get("/").status_code == 401
        assert owner.get("/").status_code == 200


def test_a_forged_cookie_is_none(server: Server) -> None:
    from wan_ui.identity import Sessions

    forged, name = Sessions(b"x" * 32), f"wan_ui_{server.services.sessions.name}"
    for session in (forged.new("owner"), forged.new("guest")):
        with server.client(signed_in=False, cookie=f"{name}={forged.text(session)}") as client:
            assert client.get("/v1/models").status_code == (401 if server.mode == "share" else 200)


def test_the_login_goes_nowhere_else(server: Server) -> None:
    if server.entry.login is None:
        return
    sent = {"user": server.entry.login.user, "password": server.entry.login.password}
    for query in (
        "//evil.example",
        "https://evil.example",
        "x=1\r\nSet-Cookie: a=b",
        "compare=../../x",
        "compare=" + "a" * 32,
    ):
        with server.client(signed_in=False) as client:
            location = client.post("/login", data={**sent, "query": query}).headers["location"]
        assert location in ("/", f"/?compare={'a' * 32}")


# Other visitors


def test_no_visitor_reads_anothers(shared: Server) -> None:
    with shared.browser() as one, shared.browser() as other, shared.client() as program:
        job = shared.finished_job(shared.visitor_of(one))
        for route in ("status", "result", "videos/0", "grid.mp4", "sheet.png", "cells.zip", "checklist"):
            for stranger in (other, program):
                reply = stranger.get(f"/v1/requests/{job}/{route}")
                assert reply.status_code == 404 and job not in reply.text
        for stranger in (other, program):
            assert stranger.delete(f"/v1/requests/{job}").status_code == 404
            assert stranger.post(f"/v1/requests/{job}/retry").status_code == 404
        assert one.get(f"/v1/requests/{job}/result").status_code == 200
        assert one.get(f"/v1/requests/{job}/videos/0").content == b"a clip"


def test_no_visitor_judges_anothers_comparison(shared: Server) -> None:
    with shared.browser() as one, shared.browser() as other, shared.client() as program:
        job = f"/v1/requests/{shared.finished_job(shared.visitor_of(one))}"
        for sender, refusal in ((one, "VIDEO_NOT_FOUND"), (other, "REQUEST_NOT_FOUND"), (program, "REQUEST_NOT_FOUND")):
            for reply in (
                sender.put(f"{job}/marks/0", json={"mark": "favourite"}),
                sender.post(f"{job}/pairs"),
                sender.put(f"{job}/pairs/{'0' * 32}", json={"choice": "a"}),
                sender.get(f"{job}/pairs/{'0' * 32}/a.mp4"),
                sender.get(f"{job}/judging"),
            ):
                assert (reply.status_code, code(reply)) == (404, refusal)


def test_no_visitor_reads_anothers_uploads_in_gradio(shared: Server) -> None:
    with shared.browser() as one, shared.browser() as other, shared.client() as program:
        path = one.post("/gradio_api/upload", files={"files": ("mine.png", png(8, 8), "image/png")}).json()[0]
        hidden = path.replace("/files/", "/files/./x/../")
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/file%3d"):
            for stranger in (other, program):
                for asked in (path, hidden):
                    reply = stranger.get(httpx.URL(shared.url).copy_with(raw_path=f"{route}{asked}".encode()))
                    assert reply.status_code in REFUSED and b"PNG" not in reply.content
                    reply = stranger.head(httpx.URL(shared.url).copy_with(raw_path=f"{route}{asked}".encode()))
                    assert reply.status_code in REFUSED
        assert one.get(f"/gradio_api/file={path}").content == png(8, 8)
        assert other.post("/gradio_api/upload", files={"files": ("mine.png", png(8, 8))}).json() == [path]
        assert other.get(f"/gradio_api/file={path}").content == png(8, 8)
        with shared.client(signed_in=False) as owner:
            assert shared.entry.owner is not None
            owner.get(shared.entry.owner.path or "")
            assert owner.get(f"/gradio_api/file={path}").content == png(8, 8)


def test_no_visitor_hears_or_sends_anothers_events(shared: Server) -> None:
    with shared.browser() as one, shared.browser() as other, shared.client() as program:
        config = one.get("/config").json()
        look = next(event for event in config["dependencies"] if event["api_name"] == "on_look")
        event = {"fn_index": look["id"], "data": [None] * len(look["inputs"]), "session_hash": "of-one"}
        with one.stream("GET", "/gradio_api/heartbeat/of-one") as beat:
            assert beat.status_code == 200
            assert one.post("/gradio_api/run/predict", json=event).status_code == 200
            for stranger in (other, program):
                for route in ("/gradio_api/heartbeat/of-one", "/gradio_api/queue/data?session_hash=of-one"):
                    assert stranger.get(route).status_code == 404
                for route in ("run/predict", "queue/join", "reset", "cancel", "api/on_look"):
                    assert stranger.post(f"/gradio_api/{route}", json=event).status_code == 404
            assert one.post("/gradio_api/run/predict", json=event).status_code == 200
            mine = {**event, "session_hash": "of-other"}
            assert other.post("/gradio_api/run/predict", json=mine).status_code == 200


def test_no_event_is_too_large(shared: Server) -> None:
    with shared.browser() as browser:
        sent = b'{"data": ["' + b"x" * (17 << 20) + b'"]}'
        assert browser.post("/gradio_api/queue/join", content=sent).status_code == 413


def test_no_visitor_compares_with_anothers_preview(shared: Server, tmp_path: Path) -> None:
    frames = [Image.effect_noise((64, 64), 100).convert("L") for _ in range(5)]
    kept = io.BytesIO()
    frames[0].save(kept, "GIF", save_all=True, append_images=frames[1:], duration=62)
    (tmp_path / "a.gif").write_bytes(kept.getvalue())
    with shared.browser() as one, shared.browser() as other:
        access = Access(Identity(shared.visitor_of(one), False), shared=False)
        sha256 = shared.services.service.imported_jobs.store_sample(tmp_path / "a.gif", access)
        body = {**BODY, "prompts": [{**BODY["prompts"][0], "training_sample": {"file": sha256}}]}
        assert one.post("/v1/inference", json=body).status_code == 200
        reply = other.post("/v1/inference", json=body)
        assert reply.status_code == 422 and "training sample was not found" in reply.text
        axis = {"field": "prompt", "values": ["a", {"prompt": "b", "training_sample": {"file": sha256}}]}
        body = {**BODY, "compare": {"columns": axis}}
        assert one.post("/v1/inference", json=body).status_code == 200
        reply = other.post("/v1/inference", json=body)
        assert reply.status_code == 422 and "compare.cells.0.1.training_sample" in reply.text


def test_over_http_the_id_is_what_lets_one_read(shared: Server) -> None:
    with shared.client() as one, shared.client() as other:
        job = one.post("/v1/inference", json=BODY).json()["request_id"]
        assert len(job) == 32 and other.get(f"/v1/requests/{job}/status").status_code == 200
        for guess_of_it in (
            "0" * 32,
            job[:-1],
            job + "0",
            job.upper() if job.upper() != job else "x",
            "*",
            "%25",
            "' OR 1=1",
        ):
            assert other.get(f"/v1/requests/{guess_of_it}/status").status_code == 404
        for listing in ("/v1/requests", "/v1/requests/", "/v1/inference", "/v1/jobs", "/v1/"):
            assert other.get(listing).status_code in (404, 405)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a link, a shared gallery and small limits; its queue is empty until its last test."""
    limits = {"max_waiting": 6, "max_waiting_each": 4, "max_cost": 10_000_000, "max_upload_gb": 1e-5}
    with running("share", tmp_path_factory.mktemp("limited"), shared_gallery=True, **limits) as server:
        yield server


def test_a_shared_gallery_lets_read_and_no_more(limited: Server) -> None:
    with limited.browser() as one, limited.browser() as other:
        job = limited.finished_job(limited.visitor_of(one))
        assert other.get(f"/v1/requests/{job}/videos/0").content == b"a clip"
        assert other.delete(f"/v1/requests/{job}").status_code == 404


# Too much


def test_no_more_frames_and_pixels_than_may(limited: Server) -> None:
    with limited.client() as client:
        reply = client.post("/v1/inference", json=BODY | {"prompts": [{"prompt": "a", "num_frames": 81}]})
        assert reply.status_code == 413 and code(reply) == "COST_TOO_HIGH"
        small = {"prompt": "a", "width": 64, "height": 64, "num_frames": 5}
        reply = client.post("/v1/inference", json=BODY | {"prompts": [small]})
        assert reply.status_code == 200
        assert client.delete(f"/v1/requests/{reply.json()['request_id']}").status_code == 200


def test_no_upload_larger_than_may(limited: Server) -> None:
    with limited.client() as client:
        assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(50_000))}).status_code == 413
        assert client.post("/v1/loras/inspect", files={"file": ("a.safetensors", bytes(50_000))}).status_code == 413


def test_no_more_waiting_than_may(limited: Server) -> None:
    with limited.browser() as one, limited.browser() as other:
        answers = [one.post("/v1/inference", json=BODY) for _ in range(5)]
        assert [reply.status_code for reply in answers] == [200] * 4 + [429]
        assert code(answers[-1]) == "QUEUE_FULL"
        answers = [other.post("/v1/inference", json=BODY) for _ in range(3)]
        assert [reply.status_code for reply in answers] == [200] * 2 + [429]
        job = answers[0].json()["request_id"]
        assert other.delete(f"/v1/requests/{job}").status_code == 200
        assert one.post("/v1/inference", json=BODY).status_code == 429
        assert other.post("/v1/inference", json=BODY).status_code == 200
        reply = other.post(f"/v1/requests/{job}/retry")
        assert reply.status_code == 429 and code(reply) == "QUEUE_FULL"


def test_no_more_on_the_disk_than_may(tmp_path: Path) -> None:
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    (tmp_path / "data" / "uploads" / "a").write_bytes(bytes(1000))
    with running("share", tmp_path, max_disk_gb=1e-6) as server, server.client() as client:
        assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(2000))}).status_code == 507
        reply = client.post("/v1/inference", json=BODY)
        assert reply.status_code == 507 and code(reply) == "DISK_FULL"
        assert client.post("/gradio_api/upload", files={"files": ("a.png", b"x")}).status_code == 507
        process = {"type": "sd_trainer", "model": {"arch": "wan21:1b"}, "sample": {"samples": [{"prompt": "a"}]}}
        config = json.dumps({"job": "extension", "config": {"name": "a", "process": [process]}})
        reply = client.post("/v1/jobs/import", json={"config": config})
        assert reply.status_code == 507 and code(reply) == "DISK_FULL"
        reply = client.post("/v1/loras/inspect", json={"path": "https://example.com/a.safetensors"})
        assert reply.status_code == 507 and code(reply) == "DISK_FULL"
