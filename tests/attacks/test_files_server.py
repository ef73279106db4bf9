"""Files and faults against one server: decoders, the database, the disk, ffmpeg; F-numbers as in docs/security.md.

The order counts: the last tests take the server's folder and database away.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.attacks.files import config, film, many_scans, png, squeezable, zipped
from tests.attacks.server import DEMO, Server, until_ended, wait_for, watched_memory

pytestmark = pytest.mark.slow

VIDEO = {"width": 64, "height": 64, "num_frames": 5, "sample_steps": 1, "seed": 1}
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a garden", **VIDEO}]}
OTHERS, TOKEN = "zqothersmarkerzq", "hf_zqtokenmarkerzq"
TROUBLE_SECONDS = 30.0  # until the server notices that its database is gone


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    encoder = folder / "ffmpeg"
    encoder.write_text(
        f'#!/bin/sh\nif [ -e "{folder}/hang" ]; then echo $$ > "{folder}/hanging"; sleep 1000; fi\n'
        f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n'
    )
    encoder.chmod(0o755)
    server = Server(
        folder, *DEMO, "--max-disk-gb", "0.25", environment={"IMAGEIO_FFMPEG_EXE": str(encoder), "HF_TOKEN": TOKEN}
    )
    try:
        server.until_ready()
        yield server
    finally:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def guest(server: Server) -> Iterator[httpx.Client]:
    with server.guest() as client:
        yield client


def imported(client: httpx.Client, files: dict[str, bytes]) -> httpx.Response:
    return client.post("/v1/jobs/import", files={"file": ("job.zip", zipped(files))})


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["detail"]["error"]["code"])


def lora_folder(server: Server) -> Path:
    """Where the demo's LoRA files are, which is the server's LoRA folder."""
    return server.data / "demo" / "loras"


def test_f1_a_million_packets_in_a_few_kilobytes(server: Server, guest: httpx.Client) -> None:
    made = imported(guest, {"config.yaml": config(), "samples/1__000000250_0.mp4": film(1_000_000, 1_000)})
    assert made.status_code == 200, made.text
    with watched_memory(server) as grown:
        answer = guest.get(f"/v1/jobs/{made.json()['id']}/samples/250/0/thumbnail")
    assert answer.status_code == 404
    assert grown[0] < 200e6, f"{grown[0] / 1e6:.0f} MB"


def test_f2_a_jpeg_of_many_scans_delays_nobody(server: Server, guest: httpx.Client) -> None:
    item = {"prompt": "a", "num_frames": 5, "width": 64, "height": 64}

    def with_image(data: bytes) -> dict[str, Any]:
        return {"model": "wan21_i2v_14b", "prompts": [{**item, "ctrl_img": base64.b64encode(data).decode()}]}

    attack = with_image(many_scans(8192, 150))
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(guest.post("/v1/inference", json=attack)))
    with server.guest() as other:
        before = server.cpu_seconds()
        thread.start()
        wait_for(lambda: not thread.is_alive() or server.cpu_seconds() > before + 1)  # it is being decoded, or refused
        start = time.monotonic()
        answer = other.post("/v1/inference", json=with_image(png()))
        waited = time.monotonic() - start
        thread.join()
        assert answer.status_code == 200, answer.text
        other.delete(f"/v1/requests/{answer.json()['request_id']}")
    assert waited < 15, f"{waited:.1f} s"
    assert answers[0].status_code == 400 and code_of(answers[0]) == "CONTROL_IMAGE_INVALID"


def test_f7_a_request_of_megabytes_of_text(server: Server, guest: httpx.Client) -> None:
    prompts = [{"prompt": "a" * 14_000, "neg": "b" * 14_000, **VIDEO}] * 1_000
    answer = guest.post("/v1/inference", json={"model": "wan21_1b", "prompts": prompts})
    if answer.status_code == 200:
        guest.delete(f"/v1/requests/{answer.json()['request_id']}")
    assert answer.status_code in (413, 422), answer.text[:200]


def test_f8_a_zip_that_unpacks_to_more_than_there_may_be(server: Server, guest: httpx.Client) -> None:
    films = {f"samples/1__00000025{index}_0.mp4": squeezable(50_000_000, index) for index in range(6)}
    answer = imported(guest, {"config.yaml": config(), **films})
    sizes = [path.stat().st_size for path in (server.data / "trainer").rglob("*") if path.is_file()]
    assert sum(sizes) < 100e6, f"{sum(sizes) / 1e6:.0f} MB stored"
    assert answer.status_code == 507 and code_of(answer) == "DISK_FULL"
    answer = guest.post("/v1/inference", json=BODY)
    assert answer.status_code == 200, answer.text


def test_f8_what_one_has_sent_can_be_deleted(server: Server, guest: httpx.Client) -> None:
    made = imported(guest, {"config.yaml": config(), "samples/1__000000250_0.png": png()})
    where = f"/v1/jobs/{made.json()['id']}"
    with server.guest() as other:
        assert other.delete(where).status_code == 404
    assert guest.delete(where).status_code == 204
    assert guest.delete(where).status_code == 404
    assert not (server.data / "trainer" / made.json()["id"]).exists()


def test_f17_a_picture_of_the_page_is_not_taken_away(server: Server, guest: httpx.Client) -> None:
    page = guest.get("/config").text
    paths = re.findall(r'"path": ?"([^"]+)"', page)
    published = next(path for path in paths if path.endswith((".png", ".jpg", ".webp")))
    url = f"/gradio_api/file={published}"
    assert guest.get(url).status_code == 200
    dependencies = json.loads(page)["dependencies"]
    handler = next(each for each in dependencies if each["api_name"] == "on_drop")
    file = {"path": published, "meta": {"_type": "gradio.FileData"}}
    given = [{**file, "orig_name": name} for name in ("a.png", "b.png")]
    event = {"data": [given], "fn_index": handler["id"], "session_hash": "attack17", "event_data": None}
    joined = guest.post("/gradio_api/queue/join", json=event)
    assert joined.status_code == 200, joined.text
    with guest.stream("GET", "/gradio_api/queue/data", params={"session_hash": "attack17"}) as stream:
        assert any("process_completed" in line for line in stream.iter_lines())
    assert guest.get(url).status_code == 200


def test_f18_a_job_s_config_tells_no_path_of_this_machine(server: Server, guest: httpx.Client) -> None:
    folder = lora_folder(server) / "private-job"
    folder.mkdir()
    secret = "/home/operator/private/faces"
    (folder / "config.yaml").write_bytes(config(f', ctrl_img: "{secret}/cat.png"', image_to_video=True))
    answer = guest.post("/v1/jobs/import", json={"folder": "private-job"})
    assert answer.status_code == 200, answer.text
    assert secret not in answer.text and "cat.png" in answer.text


def test_f19_finite_huge_weights_fail_with_a_code(server: Server, guest: httpx.Client) -> None:
    model = server.data / "demo/models/Wan-AI/Wan2.1-T2V-1.3B-Diffusers/transformer"
    with min(model.glob("*.safetensors")).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    outputs, inputs = header["blocks.0.attn1.to_v.weight"]["shape"]
    layer = "diffusion_model.blocks.0.self_attn.v"
    huge = {
        f"{layer}.lora_A.weight": np.full((4, inputs), 1e19, np.float32),
        f"{layer}.lora_B.weight": np.full((outputs, 4), 1e19, np.float32),
    }
    save_file(huge, lora_folder(server) / "huge.safetensors")
    answer = guest.post("/v1/inference", json={**BODY, "loras": [{"path": "huge.safetensors"}]})
    assert answer.status_code == 200, answer.text
    status = until_ended(guest, answer.json()["request_id"])
    assert status["status"] == "failed"
    assert status["error"]["code"] == "FRAMES_NOT_FINITE", status["error"]


def test_a_guest_is_told_nothing_of_this_machine_and_of_others(server: Server, guest: httpx.Client) -> None:
    """Markers in another guest's prompt, names and settings, and the server's own paths and token, in every answer."""
    with server.guest() as other:
        prompt = {**BODY["prompts"][0], "prompt": f"{OTHERS} prompt", "neg": f"{OTHERS} neg"}
        theirs = other.post("/v1/inference", json={**BODY, "prompts": [prompt]}).json()["request_id"]
        other.post("/v1/jobs/import", files={"file": (f"{OTHERS}.yaml", config())})
        assert until_ended(other, theirs)["status"] == "succeeded"
    own = guest.post("/v1/inference", json=BODY).json()["request_id"]
    assert until_ended(guest, own)["status"] == "succeeded"
    paths = ["/", "/config", "/metrics", "/v1/models", "/v1/health", "/v1/pulse", "/v1/gallery", "/v1/gallery/choices"]
    paths += ["/v1/uploads", f"/v1/requests/{own}/status", f"/v1/requests/{own}/result", f"/v1/requests/{own}/videos/0"]
    paths += [f"/v1/gallery?q={OTHERS[:6]}", f"/v1/gallery/{own}-0", f"/v1/gallery/{own}-0/settings.json"]
    paths += [f"/v1/requests/{theirs}/{name}" for name in ("status", "result", "videos/0", "checklist")]
    paths += [f"/v1/gallery/{theirs}-0", "/v1/requests/%2e%2e/status", "/v1/nowhere", "/gradio_api/file=/etc/passwd"]
    secrets = [str(server.folder), str(server.data), TOKEN, OTHERS, "Traceback (most recent"]
    for path in paths:
        answer = guest.get(path)
        leaked = [secret for secret in secrets if secret.encode() in answer.content or secret in str(answer.headers)]
        assert leaked == [], f"{path} tells {leaked}"
    events = [line for line in server.log.splitlines() if line.startswith("{")]
    assert events and [line for line in events if any(secret in line for secret in (TOKEN, OTHERS))] == []


def test_f22_an_encoder_that_hangs_is_ended_by_a_cancel(server: Server, guest: httpx.Client) -> None:
    (server.folder / "hang").touch()
    first = guest.post("/v1/inference", json=BODY).json()["request_id"]
    hanging = wait_for(lambda: _written(server.folder / "hanging"))
    guest.delete(f"/v1/requests/{first}")
    (server.folder / "hang").unlink()
    assert until_ended(guest, first, 30)["status"] == "canceled"
    wait_for(lambda: not Path(f"/proc/{hanging}").exists(), 30)
    second = guest.post("/v1/inference", json=BODY).json()["request_id"]
    assert until_ended(guest, second)["status"] == "succeeded"


def test_f24_without_its_data_folder_the_server_says_so(server: Server, guest: httpx.Client) -> None:
    aside = server.folder / "aside"
    server.data.rename(aside)
    try:
        wait_for(lambda: guest.get("/v1/health").json()["status"] == "failed", TROUBLE_SECONDS, every=0.5)
        answers = [
            guest.post("/v1/inference", json=BODY),
            guest.post("/v1/jobs/import", files={"file": ("config.yaml", config())}),
            guest.post("/v1/loras/inspect", files={"file": ("a.safetensors", b"x")}),
        ]
    finally:
        aside.rename(server.data)
    for answer in answers:
        assert answer.status_code in (503, 507), answer.text
        assert code_of(answer) in ("HOST_ERROR", "DISK_FULL")
    wait_for(lambda: guest.get("/v1/health").json()["status"] == "ready", TROUBLE_SECONDS, every=0.5)


def test_f23_a_database_that_vanishes_is_noticed_and_its_clips_are_named(server: Server) -> None:
    with server.guest() as guest:
        made = guest.post("/v1/inference", json=BODY).json()["request_id"]
        assert until_ended(guest, made)["status"] == "succeeded"
        for path in server.data.glob("jobs.sqlite*"):
            path.unlink()
        health = wait_for(lambda: _trouble(guest), TROUBLE_SECONDS, every=0.5)
        assert "database" in json.dumps(health)
        answer = guest.post("/v1/inference", json=BODY)
        assert answer.status_code == 503 and code_of(answer) == "HOST_ERROR"
    server.stop(signal.SIGKILL)
    server.restart()
    server.until_ready()
    assert "without a row" in server.log
    with closing(sqlite3.connect(server.data / "jobs.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM clips").fetchone() == (0,)


def test_f22_an_encoder_that_hangs_does_not_outlive_the_server(server: Server) -> None:
    (server.folder / "hanging").unlink(missing_ok=True)
    (server.folder / "hang").touch()
    with server.guest() as guest:
        guest.post("/v1/inference", json=BODY)
    hanging = wait_for(lambda: _written(server.folder / "hanging"))
    server.stop(signal.SIGKILL)
    try:
        wait_for(lambda: not _runs(hanging), 20)
    finally:
        (server.folder / "hang").unlink()
        if _runs(hanging):
            os.killpg(os.getpgid(int(hanging)), signal.SIGKILL)


def _trouble(client: httpx.Client) -> dict[str, Any] | None:
    health: dict[str, Any] = client.get("/v1/health").json()
    return None if health["status"] == "ready" else health


def _written(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _runs(pid: str) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
