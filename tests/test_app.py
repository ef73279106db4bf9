"""The program as a person runs it: started, asked over HTTP, refused, interrupted. Each process is a real one."""

from __future__ import annotations

import base64
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.forked import ForkedProgram
from tests.load import in_a_loop_of_its_own, load, nothing_lost_or_doubled
from tests.ports import reserve_port
from tests.waiting import wait_until
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.store import Store
from wan_ui.media import video
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# Seconds a start may take on a busy machine of two cores, the first demo included.
START = float(os.environ.get("WAN_UI_START_SECONDS", "240"))
STOP = 10.0  # seconds a stop may take
RENDER = 120.0

SMALL: dict[str, Any] = {"width": 128, "height": 128, "num_frames": 5, "sample_steps": 2}
LONG: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a sea", **SMALL, "sample_steps": 150}]}


class App:
    """A running `python app.py` on a free port, its standard output read by line."""

    def __init__(
        self, data_dir: Path, *flags: str, port: int | None = None, program: tuple[str, ...] = ("app.py",)
    ) -> None:
        self.port = port or reserve_port()
        self.process = self.begin(program, ["--data-dir", str(data_dir), "--port", str(self.port), *flags])
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, program: tuple[str, ...], arguments: list[str]) -> subprocess.Popen[str] | ForkedProgram:
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *program, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, start: str, seconds: float = START) -> str:
        """The next line that starts so."""
        deadline = time.monotonic() + seconds
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"it ended with {self.process.wait()}:\n" + "\n".join(self.said)
            self.said.append(line)
            if line.startswith(start):
                return line

    def stop(self, number: int) -> tuple[int, float]:
        """Sends a signal; the exit code and the seconds it took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=4 * STOP), time.monotonic() - begun
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler then says where each thread stands
            pytest.fail("it did not stop:\n" + "\n".join(self.ended()[1]))

    def ended(self) -> tuple[int, list[str]]:
        """Waits for an end of its own: the exit code and all that was said."""
        code = self.process.wait(timeout=START)
        while (line := self._lines.get(timeout=STOP)) is not None:
            self.said.append(line)
        return code, self.said

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)


Start = Callable[..., App]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs and kills those that a test left running."""
    apps: list[App] = []

    def begin(data_dir: Path, *flags: str, port: int | None = None) -> App:
        apps.append(App(data_dir, *flags, port=port))
        return apps[-1]

    yield begin
    for app in apps:
        app.process.kill()
        app.process.wait()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def app(data_dir: Path) -> Iterator[App]:
    """One server for the tests that only ask."""
    app = App(data_dir, "--demo")
    try:
        app.wait_for("Ready on ")
        yield app
    finally:
        app.process.kill()
        app.process.wait()


@pytest.fixture
def own_data(app: App, data_dir: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own, in which the demo need not be written again."""
    shutil.copytree(data_dir / "demo", tmp_path / "data" / "demo")
    return tmp_path / "data"


@pytest.fixture
def client(app: App) -> Iterator[httpx.Client]:
    with app.client() as client:
        yield client


def finished(client: httpx.Client, submitted: httpx.Response) -> dict[str, Any]:
    """Waits for a request's end; its result."""
    assert submitted.status_code == 200, submitted.text
    until(client, submitted.json()["status_url"], {"succeeded", "failed", "canceled"})
    result: dict[str, Any] = client.get(submitted.json()["result_url"]).json()
    return result


def until(client: httpx.Client, url: str, statuses: set[str]) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def reached() -> bool:
        seen.update(client.get(url).json())
        return seen["status"] in statuses

    wait_until(reached, RENDER, every=0.1, state=lambda: seen)  # a poll, as every client of this API does it
    return seen


def test_a_start_says_what_runs_where(app: App, client: httpx.Client) -> None:
    said = "\n".join(app.said)
    assert "a tiny model of coloured shapes" in said
    assert f"Models: {len(MODELS)} of {len(MODELS)} found" in said
    assert f"http://127.0.0.1:{app.port}/" in said
    health = client.get("/v1/health").json()
    assert health["status"] == "ready" and health["device"] and health["queue"] == 0


def test_the_page_is_there_and_asks_for_nothing_outside(client: httpx.Client) -> None:
    reply = client.get("/")
    assert reply.status_code == 200
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert "Compare strengths" in client.get("/config").text and "The demo knows circle" in client.get("/config").text
    assert all(row.label in reply.text for row in MODELS.values())


def test_the_outer_schema_and_monitoring_are_not_there(client: httpx.Client) -> None:
    assert client.get("/openapi.json").status_code == 404
    assert client.get("/docs").status_code == 404


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/v1/models", "/v1/health", "/nothing"])
@pytest.mark.parametrize("sent", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}])
def test_other_sites_are_refused_everywhere(client: httpx.Client, path: str, sent: dict[str, str]) -> None:
    preflight = {"Access-Control-Request-Method": "POST", **sent}
    for reply in (client.get(path, headers=sent), client.options(path, headers=preflight)):
        assert reply.status_code == 403
        assert reply.json()["detail"]["error"]["code"] == "ORIGIN_REFUSED"
        assert "access-control-allow-origin" not in reply.headers


def test_its_own_page_may_ask(client: httpx.Client, app: App) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:{app.port}", "Origin": f"http://{name}:{app.port}"}
        assert client.get("/config", headers=own).status_code == 200
        assert client.post("/v1/inference", headers=own, content=b"{").status_code == 400


def test_a_host_header_that_is_none_is_refused_without_a_trace(app: App) -> None:
    for host in (b"[::1", b"", b"a b"):
        with socket.create_connection(("127.0.0.1", app.port), timeout=STOP) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nOrigin: http://x\r\nConnection: close\r\n\r\n")
            assert line.recv(12) in (b"HTTP/1.1 403", b"HTTP/1.1 400")


DOCUMENTS: list[dict[str, Any]] = [
    {"model": "wan22_5b", "loras": [{"path": "my_lora_job/my_lora.safetensors"}]},
    {"model": "wan22_14b_i2v", "image": True, "pair": True},
    {"model": "wan22_14b_t2v", "pair": True},
    {"model": "wan21_i2v_14b", "image": True, "loras": [{"path": "my_lora_job/my_lora.safetensors"}]},
    {"model": "wan21_i2v_14b480p", "image": True, "loras": [{"path": "my_wan_job/my_wan_job.safetensors"}]},
]
PAIR = [
    {"path": "my_lora_job/my_high_noise.safetensors", "transformer": "high", "network_multiplier": 1.0},
    {"path": "my_lora_job/my_low_noise.safetensors", "transformer": "low", "network_multiplier": 1.0},
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["model"])
def test_the_documents_requests_come_back_as_videos(
    client: httpx.Client, data_dir: Path, tmp_path: Path, document: dict[str, Any]
) -> None:
    """The five bodies of the reference server's pages, shrunk in size, frames and steps."""
    prompt: dict[str, Any] = {
        "prompt": "[trigger] a photo of a person",
        "width": 136,
        "height": 104,
        "seed": 42,
        "sample_steps": 2,
        "guidance_scale": 4.0,
        "neg": "",
        "num_frames": 6,
        "fps": 16,
    }
    if document.get("image"):
        prompt["ctrl_img"] = base64.b64encode((data_dir / "demo" / "first_frame.png").read_bytes()).decode()
    loras = PAIR if document.get("pair") else [{**lora, "network_multiplier": 1.0} for lora in document["loras"]]
    body = {"model": document["model"], "trigger_word": "sks", "prompts": [prompt], "loras": loras}
    result = finished(client, client.post("/v1/inference", json=body))
    assert result["status"] == "succeeded", result["error"]
    (made,) = result["outputs"]["videos"]
    divisor = MODELS[document["model"]].divisor["reference"]
    assert (made["width"], made["height"]) == (136 // divisor * divisor, 104 // divisor * divisor)
    assert (made["fps"], made["seed"], made["format"]) == (16, 42, "mp4")
    assert result["metadata"]["prompts"][0]["prompt"] == "sks a photo of a person"
    fetched = client.get(made["url"])
    assert fetched.headers["content-type"] == "video/mp4"
    file = tmp_path / "clip.mp4"
    file.write_bytes(fetched.content)
    assert video.read_frames(file).shape == (made["num_frames"], made["height"], made["width"], 3)
    assert video.probe(file).fps == made["fps"]
    assert (data_dir / made["file_path"]).read_bytes() == fetched.content


def test_two_prompts_are_one_job_with_two_clips(client: httpx.Client) -> None:
    prompts = [{"prompt": "a", **SMALL, "seed": -1}, {"prompt": "b", **SMALL}]
    result = finished(client, client.post("/v1/inference", json={"model": "wan21_1b", "prompts": prompts}))
    assert result["status"] == "succeeded", result["error"]
    seeds = [made["seed"] for made in result["outputs"]["videos"]]
    assert seeds[1] == 43 and 0 <= seeds[0] <= 2**31 - 2


def test_a_running_request_can_be_cancelled(client: httpx.Client) -> None:
    submitted = client.post("/v1/inference", json=LONG)
    until(client, submitted.json()["status_url"], {"in_progress"})
    assert client.delete(f"/v1/requests/{submitted.json()['request_id']}").status_code == 200
    assert finished(client, submitted)["status"] == "canceled"


@pytest.mark.parametrize("path", ["/v1/%0A", "/v1/requests/a%0Ab/status", "/v1/requests/%0A/status", "/v1/x%0A"])
def test_no_path_under_v1_reaches_the_page(client: httpx.Client, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    assert reply.json()["detail"]["error"]["code"] in ("ROUTE_NOT_FOUND", "REQUEST_NOT_FOUND")


def test_a_body_over_the_limit_is_answered(client: httpx.Client) -> None:
    """The answer arrives although the body is not read to its end."""
    reply = client.post("/v1/inference", content=b" " * (81 * 2**20))
    assert reply.status_code == 413
    assert reply.json()["detail"]["error"]["code"] == "PAYLOAD_TOO_LARGE"


def test_wrong_requests_are_refused_with_their_code(client: httpx.Client) -> None:
    prompt = {"prompt": "a", **SMALL}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": "wan21_1b", "prompts": [prompt], "loras": [{"path": "none.safetensors"}]}, "LORA_NOT_FOUND"),
        ({"model": "wan21_1b", "prompts": [prompt], "loras": [{"path": "/etc/passwd"}]}, "LORA_NOT_FOUND"),
        ({"model": "wan21_1b", "prompts": [prompt], "loras": [{"path": "../demo.json"}]}, "LORA_NOT_FOUND"),
        ({"model": "wan22_14b_t2v", "prompts": [prompt], "loras": [{"path": "x"}]}, "MOE_FORMAT_REQUIRED"),
        ({"model": "wan21_i2v_14b", "prompts": [prompt]}, "CONTROL_IMAGE_REQUIRED"),
        ({"model": "wan21_i2v_14b", "prompts": [{**prompt, "ctrl_img": "%%%"}]}, "CONTROL_IMAGE_INVALID"),
        ({"model": "wan21_i2v_14b", "prompts": [{**prompt, "ctrl_img": "aGVsbG8="}]}, "CONTROL_IMAGE_INVALID"),
        ({"model": "wan21_i2v_14b", "prompts": [{**prompt, "ctrl_img": "http://[::1]/x"}]}, "CONTROL_IMAGE_INVALID"),
    ]
    for body, code in wrong:
        reply = client.post("/v1/inference", json=body)
        error = reply.json()["detail"]["error"]
        assert reply.status_code == 400, reply.text
        assert error["code"] == code


def test_a_second_server_on_the_same_folder_refuses_to_start(app: App, data_dir: Path, start: Start) -> None:
    code, said = start(data_dir, "--demo").ended()
    assert code == 1
    assert len(said) == 1 and "data folder" in said[0] and str(app.process.pid) in said[0]


def test_a_port_in_use_is_one_line(app: App, tmp_path: Path, start: Start) -> None:
    code, said = start(tmp_path, "--demo", port=app.port).ended()
    assert code == 1
    assert said == [
        f"wan-ui: Port {app.port} of 127.0.0.1 is in use. Stop what uses it, or choose another with --port."
    ]


def test_a_device_that_is_none_is_one_line(tmp_path: Path) -> None:
    """With an engine that refuses its device as the real one does, see tests/test_server.py, and imports no torch."""
    app = App(tmp_path / "data", "--device", "nonsense", program=("-m", "tests.no_device_app"))
    try:
        code, said = app.ended()
    finally:
        app.process.kill()
        app.process.wait()
    assert code == 1
    assert [line for line in said if line.startswith("wan-ui: ")] == [said[-1]] and "nonsense" in said[-1]
    assert not any("Traceback" in line for line in said)


def test_a_models_folder_that_is_none_is_one_line(tmp_path: Path, start: Start) -> None:
    code, said = start(tmp_path / "data", "--models-dir", str(tmp_path / "typo")).ended()
    assert code == 1 and len(said) == 1 and "typo" in said[0] and "--models-dir" in said[0]


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path, start: Start) -> None:
    (tmp_path / "file").touch()
    code, said = start(tmp_path / "file", "--demo").ended()
    assert code == 1 and len(said) == 1 and "data folder" in said[0]


def test_sigterm_before_it_is_up(own_data: Path, start: Start) -> None:
    app = start(own_data, "--demo")
    app.wait_for("Demo: ")
    code, seconds = app.stop(signal.SIGTERM)
    assert code == 0 and seconds < STOP
    assert "Traceback" not in "\n".join(app.ended()[1])


def test_a_sample_of_the_load(app: App, data_dir: Path) -> None:
    """Eight clients and three pages at once; tests/test_load.py has all of it."""
    busy, idle = in_a_loop_of_its_own(load(app, clients=8, jobs=3, pages=3, probes=10))
    nothing_lost_or_doubled(app, busy, data_dir)
    assert set(busy.answers) | set(idle.answers) == {200}


def test_sigterm_in_the_middle_of_a_render(app: App, data_dir: Path) -> None:
    """The last test of this file: it ends the server that the others share."""
    stopped_in_a_render(app, data_dir, signal.SIGTERM)


def stopped_in_a_render(app: App, data_dir: Path, number: int) -> None:
    """With a page open, a signal ends it in time and releases the folder; the request waits for the next start."""
    with app.client() as client:
        request_id = client.post("/v1/inference", json=LONG).json()["request_id"]
        until(client, f"/v1/requests/{request_id}/status", {"in_progress"})
        with client.stream("GET", "/gradio_api/heartbeat/abc"):
            code, seconds = app.stop(number)
    assert code == 0 and seconds < STOP
    said = app.ended()[1]
    assert "Stopping." in said and not any("Traceback" in line for line in said)
    FolderLock(data_dir).release()
    store = Store(data_dir / "jobs.sqlite")
    assert (store.job(request_id).status, store.job(request_id).attempts) == ("in_queue", 0)
    store.close()
