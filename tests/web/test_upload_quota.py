"""Uploads that do not come whole, against Gradio's own route on a real port: said so, and nothing left of them."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from unittest import mock

import gradio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from tests.api.test_app import error_of
from tests.fakes import PATIENCE
from tests.ports import reserve_port
from tests.waiting import wait_until
from tests.web.strangers import Server, running
from wan_ui.errors import DiskFull, WanUIError
from wan_ui.jobs.limits import RESERVED_BYTES, DiskQuota
from wan_ui.web.auth import UPLOAD_PATH
from wan_ui.web.upload_quota import LOOK_BYTES, UploadQuota

pytestmark = pytest.mark.slow  # a whole server

HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("plain", tmp_path_factory.mktemp("uploads")) as server:
        yield server


def kept(server: Server) -> list[Path]:
    """Gradio's folder: whole files are in folders of it."""
    return sorted((server.folder / "data" / "gradio").iterdir())


def parts(server: Server) -> list[Path]:
    return [path for path in kept(server) if path.is_file()]


def begin(server: Server) -> socket.socket:
    """A connection on which an upload has begun, whose first bytes are on the disk."""
    before = len(parts(server))
    line = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    head = f"POST {UPLOAD_PATH} HTTP/1.1\r\nHost: {server.host}\r\nTransfer-Encoding: chunked\r\n"
    line.sendall((head + f"Content-Type: {FORM['content-type']}\r\n\r\n").encode())
    line.sendall(f"{len(HEAD) + 3:x}\r\n".encode() + HEAD + b"abc\r\n")
    wait_until(lambda: len(parts(server)) > before)
    return line


def finish(line: socket.socket) -> bytes:
    line.sendall(f"{len(TAIL):x}\r\n".encode() + TAIL + b"\r\n0\r\n\r\n")
    return line.recv(4096)


@contextmanager
def gradio_over(folder: Path, quota: DiskQuota) -> Iterator[str]:
    """Gradio's own app behind UploadQuota, on a real port: its address."""
    with mock.patch.dict(os.environ, {"GRADIO_TEMP_DIR": str(folder)}):
        app = UploadQuota(gradio.mount_gradio_app(FastAPI(), gradio.Blocks(), "/"), quota.problem, folder)
    port = reserve_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def test_a_disk_that_fills_under_an_upload_of_unknown_length(tmp_path: Path) -> None:
    left = [RESERVED_BYTES + (1 << 30)]
    quota = DiskQuota(tmp_path, (), None, free=lambda folder: left[0])

    def pieces() -> Iterator[bytes]:
        yield HEAD
        yield bytes(3 * LOOK_BYTES)
        left[0] = RESERVED_BYTES - 1
        for _ in range(4):
            yield bytes(LOOK_BYTES)
        yield TAIL

    with gradio_over(tmp_path, quota) as url, httpx.Client(base_url=url, trust_env=False) as client:
        reply = client.post(UPLOAD_PATH, content=pieces(), headers=FORM)
        assert "content-length" not in reply.request.headers
        error_of(reply, 507, "DISK_FULL")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        left[0] = RESERVED_BYTES + (1 << 30)
        reply = client.post(UPLOAD_PATH, content=iter([HEAD, bytes(3 * LOOK_BYTES), TAIL]), headers=FORM)
        assert reply.status_code == 200 and Path(reply.json()[0]).read_bytes() == bytes(3 * LOOK_BYTES)


def test_a_sender_that_goes_away_leaves_nothing(server: Server) -> None:
    begin(server).close()
    wait_until(lambda: parts(server) == [])


def test_what_is_left_of_one_upload_goes_and_another_that_still_comes_stays(server: Server) -> None:
    with begin(server) as stays:
        begin(server).close()
        with server.client() as client:
            for _ in range(3):  # which end, each one, while the first is on its way
                assert client.post(UPLOAD_PATH, files={"files": ("b.png", b"b")}).status_code == 200
        assert finish(stays).startswith(b"HTTP/1.1 200")
    wait_until(lambda: parts(server) == [])
    assert any((folder / "a.png").is_file() and (folder / "a.png").read_bytes() == b"abc" for folder in kept(server))


class Writes:
    """An app that keeps a body as Gradio does, until its disk says `number`."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        with NamedTemporaryFile(dir=self.folder, delete=False) as part:
            part.write(b"half")
        # As Starlette's outermost middleware does: an answer, and then the error itself.
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        raise OSError(self.number, "said the disk")


def no_problem(size: int) -> WanUIError | None:
    return None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_between_two_looks_is_said_too(tmp_path: Path, number: int) -> None:
    client = TestClient(UploadQuota(Writes(tmp_path, number), no_problem, tmp_path))
    error_of(client.post(UPLOAD_PATH, content=b"x"), 507, "DISK_FULL")
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    uploads = UploadQuota(Writes(tmp_path, errno.EIO), no_problem, tmp_path)
    with pytest.raises(OSError, match="said the disk"):
        TestClient(uploads).post(UPLOAD_PATH, content=b"x")
    reply = TestClient(uploads, raise_server_exceptions=False).post(UPLOAD_PATH, content=b"x")
    assert (reply.status_code, reply.text) == (500, "Internal Server Error")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_goes_at_the_start_and_whole_files_stay(tmp_path: Path) -> None:
    (tmp_path / "tmpabcdefgh").write_bytes(b"half")
    (tmp_path / "tmpfolder").mkdir()
    (tmp_path / "tmpfolder" / "tmpa.png").write_bytes(b"whole")
    UploadQuota(Writes(tmp_path, 0), lambda size: DiskFull("unused"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tmpfolder"]
    assert (tmp_path / "tmpfolder" / "tmpa.png").read_bytes() == b"whole"
