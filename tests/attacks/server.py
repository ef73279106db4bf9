"""A server as a process of its own, started by its command line, with what a guest and the operator see of it.

It imports nothing of the program.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "guest", "a-shared-password"
START_SECONDS = 240.0
ENDED = {"succeeded", "failed", "canceled"}
DEMO = ("--demo",)  # with checkpoints that render


def wait_for(condition: Callable[[], Any], seconds: float = 120.0, every: float = 0.05) -> Any:
    """What `condition` returns, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        time.sleep(every)
    return result


class Server:
    """A running server with a password. `folder` holds its data folder `data` and its LoRA folder `loras`.

    Without `--demo` among its flags it has no checkpoint and renders nothing. `environment` is added to this process's
    own: a version that does not know a setting there ignores it, while a flag would end it. `descriptors` limits the
    open files of the process.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        password: str = PASSWORD,
        descriptors: int | None = None,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.loras = folder / "loras"
        self.password = password
        for needed in (self.loras, folder / "models"):
            needed.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        models = () if "--demo" in flags else ("--models-dir", str(folder / "models"))
        self.command = [
            *(sys.executable, str(ROOT / "app.py"), "--port", str(self.port), *models),
            *("--data-dir", str(self.data), "--lora-dir", str(self.loras), *flags),
        ]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WAN_UI_")},
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "WAN_UI_AUTH": f"{USER}:{password}",
            **(environment or {}),
        }
        self._descriptors = descriptors
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        def limit() -> None:
            if self._descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self._descriptors, self._descriptors))

        process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            process_group=0,
            preexec_fn=limit,
        )
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines.extend(iter(process.stdout.readline, ""))

    @property
    def log(self) -> str:
        """Everything that the server has printed."""
        return "".join(self.lines)

    def until_serving(self) -> None:
        """Returns when the server answers. Fails the test if it ends instead."""
        self._until("Page: ")
        wait_for(lambda: self.health_seconds() < START_SECONDS, START_SECONDS)

    def until_ready(self) -> None:
        """Returns when the engine is there, whose start takes the processor's time. As `until_serving`."""
        self._until("Ready on")

    def _until(self, words: str) -> None:
        def has_said_it() -> bool:
            assert self.process.poll() is None, self.log
            return words in self.log

        wait_for(has_said_it, START_SECONDS)

    def restart(self) -> None:
        """Starts it again on the same folder, after its end."""
        self.lines.clear()
        self.process = self._start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the server with a signal and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(30)

    def client(self, timeout: float = 300.0, **headers: str) -> httpx.Client:
        """A client without a password."""
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False, headers=headers)

    def program(self, timeout: float = 300.0) -> httpx.Client:
        """A program that sends the password with each request."""
        client = self.client(timeout)
        client.auth = (USER, self.password)
        return client

    @contextmanager
    def guest(self) -> Iterator[httpx.Client]:
        """A new browser that has signed in and opened the page."""
        with self.client(accept="text/html, */*", origin=self.url) as client:
            assert client.post("/login", data={"user": USER, "password": self.password}).status_code == 303
            assert client.get("/").status_code == 200
            yield client

    @property
    def owner_path(self) -> str:
        """Where a browser becomes the operator's. It opens once for each start."""
        address = re.search(r"^Owner: http://[^/]+(/owner/\S+)", self.log, re.MULTILINE)
        assert address is not None, self.log
        return address[1]

    @contextmanager
    def owner(self) -> Iterator[httpx.Client]:
        """The operator's browser. Once per start: the address opens once."""
        with self.client(accept="text/html, */*", origin=self.url) as client:
            assert client.get(self.owner_path, follow_redirects=True).status_code == 200
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

    def memory(self) -> int:
        """The most bytes that the server and each of its children now hold, together."""
        return sum(_resident(pid) for pid in (self.process.pid, *self.children()))

    def cpu_seconds(self) -> float:
        """The CPU time that the server and its children have used."""
        return sum(_cpu_seconds(pid) for pid in (self.process.pid, *self.children()))

    def children(self) -> list[int]:
        """The processes that the server has started, and theirs."""
        parents: dict[int, int] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it has ended
            parents[int(status.parent.name)] = int(fields[1])
        found: list[int] = []
        ahead = [self.process.pid]
        while ahead:
            parent = ahead.pop()
            ahead += (those := [pid for pid, of in parents.items() if of == parent])
            found += those
        return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0  # it has ended


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0  # it has ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in user mode and in the kernel


@contextmanager
def watched_memory(server: Server) -> Iterator[list[int]]:
    """A list with one number: by how many bytes the server and its children grew at most within the block."""
    before, most, done = server.memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], server.memory() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def until_ended(client: httpx.Client, request_id: str, seconds: float = 120.0) -> dict[str, Any]:
    """The status of a request that has come to its end."""
    status: dict[str, Any] = {}

    def ended() -> bool:
        status.update(client.get(f"/v1/requests/{request_id}/status").json())
        return status.get("status") in ENDED

    wait_for(ended, seconds, every=0.1)
    return status


@contextmanager
def running(folder: Path, *flags: str, **options: Any) -> Iterator[Server]:
    """A server that answers, and ends with the block."""
    server = Server(folder, *flags, **options)
    try:
        server.until_serving()
        yield server
    finally:
        server.stop()


def error_code(response: httpx.Response) -> str:
    """The code of an error response; its text where it has none."""
    try:
        return str(response.json()["detail"]["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


class SilentHost:
    """A host that takes connections and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self.connections.append(self._listener.accept()[0])

    def close(self) -> None:
        self._listener.close()
        for connection in self.connections:
            connection.close()
