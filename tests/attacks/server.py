"""A server as a process of its own, started by its command line, with what a guest and the operator see of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "guest", "a-shared-password"
START_SECONDS = 240.0
ENDED = {"succeeded", "failed", "canceled"}


def wait_for(condition: Callable[[], Any], seconds: float = 120.0, every: float = 0.05) -> Any:
    """What `condition` returns, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        time.sleep(every)
    return result


class Server:
    """A running server. `folder` holds its data folder `data`, its LoRA folder `loras` and its log."""

    def __init__(self, folder: Path, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.loras = folder / "loras"
        self.loras.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self.command = [
            *(sys.executable, str(ROOT / "app.py"), "--demo", "--port", str(self.port)),
            *("--data-dir", str(self.data), "--lora-dir", str(self.loras), *flags),
        ]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WAN_UI_")},
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "WAN_UI_AUTH": f"{USER}:{PASSWORD}",
            **(environment or {}),
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
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

    def until_ready(self) -> None:
        """Returns when the server renders. Fails the test if it ends instead."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return "Ready on" in self.log

        wait_for(ready, START_SECONDS)

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

    def client(self, **headers: str) -> httpx.Client:
        """A client without a password."""
        return httpx.Client(base_url=self.url, timeout=300, trust_env=False, headers=headers)

    def program(self) -> httpx.Client:
        """A program that sends the password with each request."""
        client = self.client()
        client.auth = (USER, PASSWORD)
        return client

    @contextmanager
    def guest(self) -> Iterator[httpx.Client]:
        """A new browser that has signed in and opened the page."""
        with self.client(accept="text/html, */*", origin=self.url) as client:
            assert client.post("/login", data={"user": USER, "password": PASSWORD}).status_code == 303
            assert client.get("/").status_code == 200
            yield client

    @contextmanager
    def owner(self) -> Iterator[httpx.Client]:
        """The operator's browser. Once per start: the address opens once."""
        address = re.search(r"Owner: (\S+)", self.log)
        assert address is not None, self.log
        with self.client(accept="text/html, */*", origin=self.url) as client:
            client.get(address[1], follow_redirects=True)
            yield client

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
