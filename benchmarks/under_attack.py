"""What attacks cost the others: latencies and memory of a server under each, `python -m benchmarks.under_attack`.

Each attack runs in a process of its own for some seconds, while this one asks for the server's health and for a
request's status, first without and then beside a small render on the CPU. The quiet server is measured directly before
each attack, on the same machine and at the same load. A row is right where 99 % of the health answers come within
100 ms without a render, and beside one within 100 ms or three times what they take on the quiet server beside one.
`--json FILE` writes all figures; names of attacks measure these alone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import math
import multiprocessing
import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.attacks.files import config, film, many_scans, squeezable, zipped
from tests.attacks.server import DEMO, PASSWORD, USER, Server, SilentHost, until_ended, watched_memory

QUICK = 0.1  # seconds within which health is to be answered
BESIDE = 3.0  # times as long as on the quiet server, beside a render
SECONDS = 4.0  # of each measurement without a render
MOST_SECONDS = 12.0  # of each with one, which is cancelled then
CALM_SECONDS = 5.0  # at most, until an attack's last requests have been answered
VIDEO = {"width": 64, "height": 64, "num_frames": 5, "sample_steps": 1, "seed": 1}
RENDER = {"model": "wan21_1b", "prompts": [{"prompt": "a garden", **VIDEO, "num_frames": 9, "sample_steps": 150}]}
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a garden", **VIDEO}]}
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@dataclass(frozen=True)
class Target:
    """How an attacker reaches the server: its address, a guest's cookies, and the port of a host that never answers."""

    url: str
    cookies: Mapping[str, str]
    silent: int

    def client(self) -> httpx.Client:
        """A guest's client."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, cookies=dict(self.cookies))

    def head(self, method: str, path: str, *lines: str, signed_in: bool = True) -> bytes:
        """The head of a request, but for its last empty line."""
        address = self.url.removeprefix("http://")
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        first = [f"{method} {path} HTTP/1.1", f"Host: {address}", *([f"Cookie: {cookie}"] if signed_in else [])]
        return "\r\n".join([*first, *lines]).encode() + b"\r\n"

    def connect(self, data: bytes) -> socket.socket:
        """A connection of which only these bytes were sent."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), timeout=20)
        connection.sendall(data)
        return connection


Attack = Callable[[Target], None]


def _again(send: Callable[[httpx.Client], object]) -> Attack:
    """An attack that sends the same requests again and again, from four threads."""

    def attack(target: Target) -> None:
        def work() -> None:
            with target.client() as client:
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        send(client)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        threads[0].join()

    return attack


def _hold(data: Callable[[Target, int], bytes], connections: int) -> Attack:
    """An attack that keeps connections open with these bytes sent, and opens new ones for those that were ended."""

    def attack(target: Target) -> None:
        held: list[socket.socket] = []
        number = 0
        while True:
            with contextlib.suppress(OSError):
                held.append(target.connect(data(target, number)))
            number += 1
            if number > connections:
                time.sleep(0.05)
            if len(held) > connections:
                held.pop(0).close()

    return attack


def _first_frame(target: Target, number: int) -> bytes:
    url = f"http://127.0.0.1:{target.silent}/{number}.png"
    body = json.dumps({"model": "wan21_i2v_14b", "prompts": [{"prompt": "a", "ctrl_img": url}]}).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return target.head("POST", "/v1/inference", *lines) + b"\r\n" + body


def _stream(target: Target, number: int) -> bytes:
    password = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    if number % 4 == 0:
        return target.head("GET", "/v1/events") + b"\r\n"
    return target.head("GET", "/v1/events", f"Authorization: Basic {password}", signed_in=False) + b"\r\n"


def _thumbnails(client: httpx.Client) -> None:
    files = {"config.yaml": config(), "samples/1__000000250_0.mp4": film(1_000_000, 1_000)}
    made = client.post("/v1/jobs/import", files={"file": ("job.zip", zipped(files))})
    if made.status_code == 200:
        for _ in range(20):
            client.get(f"/v1/jobs/{made.json()['id']}/samples/250/0/thumbnail")
        client.delete(f"/v1/jobs/{made.json()['id']}")


def _post(path: str, content: bytes) -> Callable[[httpx.Client], object]:
    return lambda client: client.post(path, content=content, headers=JSON)


def _scans() -> bytes:
    image = base64.b64encode(many_scans(8192, 60)).decode()
    return json.dumps({"model": "wan21_i2v_14b", "prompts": [{"prompt": "a", "ctrl_img": image}]}).encode()


def _restore() -> bytes:
    video = {"video": base64.b64encode(bytes(20 << 20)).decode()}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "restore", "arguments": video}}
    return json.dumps(call).encode()


def _import(archive: bytes) -> Callable[[httpx.Client], object]:
    return lambda client: client.post("/v1/jobs/import", files={"file": ("job.zip", archive)})


def _guess(client: httpx.Client) -> None:
    client.get("/v1/models", auth=(USER, "wrong"))


def _session(client: httpx.Client) -> None:
    event = {"fn_index": 0, "data": [], "session_hash": "a" * (4 << 20)}
    client.post("/gradio_api/queue/join", json=event)


ATTACKS: Mapping[str, Callable[[], Attack]] = {
    "900 half-sent requests": lambda: _hold(lambda target, _: b"GET / HTTP/1.1\r\nHost: ", 900),
    "45 first frames that never come": lambda: _hold(_first_frame, 45),
    "250 event streams": lambda: _hold(_stream, 250),
    "thumbnails of a million packets": lambda: _again(_thumbnails),
    "JPEGs of 60 scans": lambda: _again(_post("/v1/inference", _scans())),
    "28 MB of prompts": lambda: _again(
        _post("/v1/inference", json.dumps({**BODY, "prompts": [{"prompt": "a" * 28_000}] * 1_000}).encode())
    ),
    "30 MB of numbers": lambda: _again(_post("/v1/inference", b'{"prompts": [' + b"1," * 14_000_000 + b"1]}")),
    "a request of 90,000 unknown fields": lambda: _again(
        _post("/v1/inference", json.dumps({**BODY, **{f"k{number}": 1 for number in range(90_000)}}).encode())
    ),
    "session names of 4 MB": lambda: _again(_session),
    "MP4s of 20 MB to the MCP server": lambda: _again(_post("/mcp", _restore())),
    "ZIPs that unpack to 50 MB": lambda: _again(
        _import(zipped({"config.yaml": config(), "samples/1__000000250_0.mp4": squeezable(50_000_000, 1)}))
    ),
    "wrong passwords": lambda: _again(_guess),
}


@contextlib.contextmanager
def under(attack: Attack, target: Target) -> Iterator[None]:
    """The attack's process runs within the block."""
    process = multiprocessing.get_context("fork").Process(target=attack, args=(target,), daemon=True)
    process.start()
    try:
        time.sleep(1.0)  # until it has begun
        yield
    finally:
        process.kill()
        process.join()


@dataclass(frozen=True)
class Latency:
    """Milliseconds of health answers (their median, 99th percentile, share within 100 ms) and of a status (median)."""

    health: float
    health_99: float
    within: float
    status: float
    answers: int

    @classmethod
    def of(cls, health: Sequence[float], status: Sequence[float]) -> Latency:
        """From the milliseconds of each answer."""
        return cls(
            statistics.median(health),
            sorted(health)[min(len(health) - 1, int(0.99 * len(health)))],
            sum(value <= 1000 * QUICK for value in health) / len(health),
            statistics.median(status),
            len(health),
        )


@dataclass(frozen=True)
class Figures:
    """Latencies without and beside a render, and the seconds of that render; inf for one that was cancelled."""

    alone: Latency
    beside: Latency
    job: float


def _milliseconds(client: httpx.Client, path: str) -> float:
    begun = time.monotonic()
    assert client.get(path).status_code == 200
    return (time.monotonic() - begun) * 1000


def _latency(program: httpx.Client, job: str, goes_on: Callable[[], bool]) -> Latency:
    health, status = [], []
    while not health or goes_on():
        health.append(_milliseconds(program, "/v1/health"))
        status.append(_milliseconds(program, f"/v1/requests/{job}/status"))
        time.sleep(0.01)
    return Latency.of(health, status)


def measure(program: httpx.Client, job: str) -> Figures:
    """The figures of the server as it is now."""
    end = time.monotonic() + SECONDS
    alone = _latency(program, job, lambda: time.monotonic() < end)
    begun = time.monotonic()
    made = program.post("/v1/inference", json=RENDER).json()["request_id"]
    last = {"status": "queued"}

    def renders() -> bool:
        last.update(program.get(f"/v1/requests/{made}/status").json())
        return last["status"] != "succeeded" and time.monotonic() < begun + MOST_SECONDS

    beside = _latency(program, job, renders)
    seconds = time.monotonic() - begun if last["status"] == "succeeded" else math.inf
    if last["status"] != "succeeded":
        program.delete(f"/v1/requests/{made}")
        until_ended(program, made)
    return Figures(alone, beside, seconds)


def until_calm(program: httpx.Client) -> None:
    """Waits until twenty health answers in a row are quick, or for CALM_SECONDS."""
    quick, end = 0, time.monotonic() + CALM_SECONDS
    while quick < 20 and time.monotonic() < end:
        quick = quick + 1 if _milliseconds(program, "/v1/health") < 1000 * QUICK / 4 else 0


@dataclass(frozen=True)
class Cost:
    """An attack's figures beside those of the quiet server before it, and by how many bytes the server grew."""

    name: str
    quiet: Figures
    attacked: Figures
    memory: int
    load: float

    @property
    def is_right(self) -> bool:
        """Whether health is answered as quickly as it has to be."""
        most = max(1000 * QUICK, BESIDE * self.quiet.beside.health_99)
        return self.attacked.alone.within >= 0.99 and self.attacked.beside.health_99 <= most

    def row(self) -> str:
        """A line of the table in docs/security.md."""
        quiet, now = self.quiet, self.attacked
        job = "cancelled" if math.isinf(now.job) else f"×{now.job / quiet.job:.1f}"
        return (
            f"| {self.name} | {'yes' if self.is_right else '**no**'} | {100 * now.alone.within:.1f} % "
            f"({100 * quiet.alone.within:.1f}) | {now.alone.health_99:.0f} ms ({quiet.alone.health_99:.0f}) | "
            f"{now.beside.health_99:.0f} ms ({quiet.beside.health_99:.0f}) | "
            f"{now.alone.health:.0f} ms ({quiet.alone.health:.0f}) | ×{now.alone.status / quiet.alone.status:.1f} | "
            f"{job} | {self.memory / 1e6:.0f} MB | {self.load:.1f} |"
        )


HEADS = (
    *("attack", "right", "within 100 ms (quiet)", "99 % of health (quiet)", "beside a render (quiet)"),
    *("median (quiet)", "status", "a job", "memory", "load"),
)


class PatientClient(httpx.Client):
    """A client that sends a request again where its connection was ended to make room for others."""

    def send(self, request: httpx.Request, **arguments: Any) -> httpx.Response:
        """The response to a request, however often it has to be sent."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                return super().send(request, **arguments)


def costs(names: Sequence[str]) -> Iterator[Cost]:
    """The cost of each of these attacks, as it is measured."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(SilentHost()) as silent:
        allow = {"WAN_UI_ALLOW_URL_HOST": "127.0.0.1"}
        server = Server(Path(folder), *DEMO, "--slow-client-seconds", "10", environment=allow)
        try:
            server.until_ready()
            program = PatientClient(base_url=server.url, timeout=60, trust_env=False, auth=(USER, PASSWORD))
            with server.guest() as guest, program:
                target = Target(server.url, dict(guest.cookies.items()), silent.port)
                job = program.post("/v1/inference", json=BODY).json()["request_id"]
                assert until_ended(program, job)["status"] == "succeeded"
                for name in names:
                    until_calm(program)
                    attack, quiet = ATTACKS[name](), measure(program, job)
                    with watched_memory(server) as grown, under(attack, target):
                        attacked = measure(program, job)
                    yield Cost(name, quiet, attacked, grown[0], os.getloadavg()[0])
        finally:
            server.stop(signal.SIGKILL)


def main() -> None:
    """Measures, prints a table, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    begun = time.monotonic()
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    found = []
    for cost in costs(arguments.attacks or list(ATTACKS)):
        print(cost.row(), flush=True)
        found.append(cost)
    right = sum(cost.is_right for cost in found)
    print(f"\n{right} of {len(found)} attacks right, in {time.monotonic() - begun:.0f} s.")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(cost) for cost in found], indent=2))


if __name__ == "__main__":
    main()
