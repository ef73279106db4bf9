"""A web server on a loopback port with a set of files, each answered as the test says and held where it wants."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from safetensors.torch import save

from tests.fakes import Gate
from tests.lora.writers import FORMATS, WIDTHS


def lora_bytes(name: str = "ai-toolkit", width: str = "48", pad: int = 0) -> bytes:
    """A sound LoRA file, equal each time; `pad` makes its header that much longer."""
    written = FORMATS[name](WIDTHS[width])
    content = save(written.tensors)
    length = int.from_bytes(content[:8], "little")
    metadata = {**written.metadata, "pad": "x" * pad}
    head = json.dumps({"__metadata__": metadata, **json.loads(content[8 : 8 + length])}).encode()
    return struct.pack("<Q", len(head)) + head + content[8 + length :]


@dataclass
class ServedFile:
    """One address's answer. `gate` holds it after `before_gate` bytes; `stated` is a Content-Length that lies."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    gate: Gate | None = None
    before_gate: int = 0
    stated: int | None = None
    length: bool = True


@dataclass
class FileServer:
    """Answers by path. `asked` lists (path, status) of each answer begun."""

    url: str = ""
    files: dict[str, ServedFile] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    broken: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, body: bytes = b"", **answer: Any) -> str:
        self.files[path] = ServedFile(body, **answer)
        return f"{self.url}/{path}"


class _Handler(BaseHTTPRequestHandler):
    file_server: FileServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        file = self.file_server.files.get(path, ServedFile(status=404))
        unchanged = bool(file.etag) and self.headers.get("If-None-Match") == file.etag
        status = 304 if unchanged else file.status
        self.file_server.asked.append((path, status))
        self.send_response(status)
        if file.etag:
            self.send_header("ETag", file.etag)
        for name, value in file.headers.items():
            self.send_header(name, value)
        if file.length and not unchanged:
            self.send_header("Content-Length", str(len(file.body) if file.stated is None else file.stated))
        self.end_headers()
        if unchanged:
            return
        try:
            if file.gate is None:
                self.wfile.write(file.body)
            else:
                self.wfile.write(file.body[: file.before_gate])
                file.gate.hold()
                self.wfile.write(file.body[file.before_gate :])
        except (BrokenPipeError, ConnectionResetError):
            self.file_server.broken.set()


@contextmanager
def serving() -> Iterator[FileServer]:
    file_server = FileServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"file_server": file_server}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    file_server.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield file_server
    finally:
        for file in file_server.files.values():
            if file.gate is not None:
                file.gate.open()
        server.shutdown()
        server.server_close()
        thread.join(5)
