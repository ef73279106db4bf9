"""A Hugging Face hub on a loopback port, serving the tiny checkpoints: run as `python -m tests.fake_hub`.

FAKE_HUB in the environment is another folder to serve, `<org>/<name>/…`. Repositories of the organisation "private" are
shown to whoever sends TOKEN, as the hub does it.
It prints its address, then one line per file that is fetched.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.golden_cases import CHECKPOINTS

COMMIT = "0" * 40
TOKEN = "hf_of_the_request"
SHELF = Path(os.environ.get("FAKE_HUB", CHECKPOINTS))


class Handler(http.server.BaseHTTPRequestHandler):
    """The four calls that a snapshot download makes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: only fetched files are printed."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        named = path[2] if path[:2] == ["api", "models"] and len(path) > 2 else path[0]
        if named == "private" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(b"{}", 401, {"X-Error-Code": "RepoNotFound"})
        elif path[:2] == ["api", "models"]:
            self._model("/".join(path[2:4]), path[4:5])
        elif path[2:3] == ["resolve"]:
            self._file("/".join(path[:2]), "/".join(path[4:]))
        else:
            self._send(b"{}", 404)

    def _model(self, repo: str, what: list[str]) -> None:
        folder = SHELF / repo
        if not folder.is_dir():
            return self._send(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if what == ["tree"]:
            rows = [
                {
                    "type": "file",
                    "path": name,
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(name.encode()).hexdigest(),
                }
                for name, file in zip(names, files, strict=True)
            ]
            return self._send(json.dumps(rows).encode())
        siblings = [{"rfilename": name} for name in names]
        body = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []}
        return self._send(json.dumps(body).encode())

    def _file(self, repo: str, name: str) -> None:
        file = SHELF / repo / name
        if not (SHELF / repo).is_dir():
            return self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if not file.is_file():
            return self._send(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        if self.command == "GET":
            # In one write: print() writes the line's end by itself, and two threads' lines would run together.
            sys.stdout.write(f"{repo}/{name}\n")
            sys.stdout.flush()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._send(content, 200, {"ETag": etag, "X-Repo-Commit": COMMIT, "X-Linked-Etag": etag})

    def _send(self, body: bytes, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
