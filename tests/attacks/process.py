"""Starts the program as a process and talks to it over sockets; it imports nothing of the program."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent.parent
START = 120.0  # seconds a start may take on a busy machine
USER, PASSWORD = "ann", "of her own choice"
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a garden", "num_frames": 5}]}


class Process:
    """A running `python app.py` with a password, on a free port, without any checkpoint: it renders nothing.

    `environment` is added to this process's own: a version that does not know a setting there ignores it, while a
    flag would end it. `descriptors` limits the open files of the process.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        password: str = PASSWORD,
        descriptors: int | None = None,
    ) -> None:
        self.folder = folder
        self.password = password
        (folder / "models").mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        variables = {
            **os.environ,
            "WAN_UI_AUTH": f"{USER}:{password}",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }

        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        flags = ["--port", str(self.port), "--data-dir", "data", "--lora-dir", "loras", "--models-dir", "models"]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), *flags],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            preexec_fn=limit,
        )
        self.lines: list[str] = []
        self._serves = threading.Event()
        self._is_ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._serves.wait(START), "\n".join(self.lines)
        assert until(lambda: self.health_seconds() < START, START), "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("Page: "):
                self._serves.set()
            if line.startswith("Ready on"):
                self._is_ready.set()
        for event in (self._serves, self._is_ready):
            event.set()  # it ended

    def wait_ready(self) -> None:
        """Waits until the engine is there, whose start takes the processor's time."""
        assert self._is_ready.wait(START), self.output

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def owner_path(self) -> str:
        match = re.search(r"^Owner: http://[^/]+(/owner/\S+)", self.output, re.MULTILINE)
        assert match is not None, self.output
        return match[1]

    @property
    def memory(self) -> int:
        """Bytes of memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def client(self, timeout: float = 30.0, **headers: str) -> httpx.Client:
        """A client that knows no password."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=timeout, trust_env=False, headers=headers)

    def program(self, timeout: float = 30.0) -> httpx.Client:
        """A client that sends the password with every request."""
        client = self.client(timeout)
        client.auth = (USER, self.password)
        return client

    @contextlib.contextmanager
    def guest(self, timeout: float = 30.0) -> Iterator[httpx.Client]:
        """A browser that has signed in and opened the page."""
        with self.client(timeout, accept="text/html") as client:
            assert client.post("/login", data={"user": USER, "password": self.password}).status_code == 303
            assert client.get("/").status_code == 200
            yield client

    def connect(self, data: bytes = b"", timeout: float = 20.0) -> socket.socket:
        """A connection of which only these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        if data:
            connection.sendall(data)
        return connection

    def head(self, method: str, path: str, client: httpx.Client | None = None, **headers: str) -> bytes:
        """The head of a request, with the client's cookies, but for its last empty line."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        if client is not None:
            lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in client.cookies.items()))
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n"

    def health_seconds(self, timeout: float = 5.0) -> float:
        """How long GET /v1/health takes; infinity if it is not answered in time."""
        begun = time.monotonic()
        try:
            with self.client(timeout) as client:
                assert client.get("/v1/health").status_code == 200
        except httpx.TransportError:
            return float("inf")
        return time.monotonic() - begun

    def end(self) -> None:
        """Ends the process."""
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Process]:
    """A process that ends with the block."""
    process = Process(folder, **options)
    try:
        yield process
    finally:
        process.end()


def error_code(response: httpx.Response) -> str:
    """The code of an error response; its text where it has none."""
    try:
        return str(response.json()["detail"]["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether a condition becomes true in time."""
    end = time.monotonic() + seconds
    waiting = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        waiting.wait(0.05)
    return True


class SilentHost:
    """A host that takes connections and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self._listener.accept()[0])

    def close(self) -> None:
        self._listener.close()
        for connection in self.connections:
            connection.close()
