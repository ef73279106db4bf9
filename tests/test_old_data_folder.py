"""A data folder that wan-ui 0.1 wrote opens with all that is in it: jobs, videos, uploads, sessions and drafts.

`tests/data/data_folder_0.1.tar.xz` was written by `python app.py --demo --auth wan:old-password` at commit ec149a2.
One browser signed in, typed a draft, imported a training job and sent jobs; a program sent one. Then the server was
killed with SIGKILL in the middle of a render, so that SQLite's write-ahead log is part of the folder. `facts.json`
holds the ids, the browser's cookie and its local storage.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser_fixture import new_context
from tests.web.strangers import Server, running

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parent / "data" / "data_folder_0.1.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive, as it was written."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def facts(old: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((old / "facts.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def server(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over a copy of it, which has done what every start does, but renders nothing."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(old / "data", folder / "data")
    with running("plain", folder, auth=("wan", "old-password")) as server:
        server.services.service.sweep()
        server.services.worker.recover()
        yield server


@pytest.fixture
def browser_of_then(server: Server, facts: dict[str, Any]) -> Iterator[httpx.Client]:
    """The browser that sent the jobs, with nothing but the cookie of wan-ui 0.1."""
    with server.client(signed_in=False) as client:
        client.cookies.set(facts["cookie"]["name"], facts["cookie"]["value"])
        yield client


@pytest.fixture
def program(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def get(client: httpx.Client, path: str) -> Any:
    response = client.get(f"/v1/{path}")
    assert response.status_code == 200, response.text
    return response.json()


def test_the_cookie_is_read_and_answered_with_one_in_todays_form(
    server: Server, browser_of_then: httpx.Client, facts: dict[str, Any]
) -> None:
    response = browser_of_then.get(f"/v1/requests/{facts['two_prompts']}/status")
    assert response.status_code == 200
    name, value = response.headers["set-cookie"].split(";")[0].split("=", 1)
    assert name == facts["cookie"]["name"]
    session = server.services.sessions.read(value)
    assert session is not None and not session.outdated
    assert session == server.services.sessions.read(facts["cookie"]["value"])
    with server.client(signed_in=False) as client:
        client.cookies.set(name, value)
        response = client.get(f"/v1/requests/{facts['two_prompts']}/status")
        assert response.status_code == 200 and "set-cookie" not in response.headers


def test_every_job_is_there_as_it_was(
    browser_of_then: httpx.Client, program: httpx.Client, facts: dict[str, Any]
) -> None:
    expected = {**facts["statuses"], "killed": "in_queue"}  # rendered when the server was killed
    for name, status in expected.items():
        client = program if name == "program" else browser_of_then
        assert get(client, f"requests/{facts[name]}/status")["status"] == status, name
    result = get(browser_of_then, f"requests/{facts['comparison']}/result")
    assert [cell["status"] for cell in result["metadata"]["compare"]["cells"]] == ["succeeded"] * 3
    assert [video["seed"] for video in result["outputs"]["videos"]] == [4, 4, 4]


def test_the_killed_job_keeps_its_video_and_counts_the_attempt(server: Server, facts: dict[str, Any]) -> None:
    job = server.services.store.job(facts["killed"])
    assert (job.status, job.attempts, job.position) == ("in_queue", 1, 1)
    assert [clip.index for clip in job.clips] == [0]
    assert server.services.store.job(facts["waiting"]).position == 2


def test_another_browser_sees_none_of_it(server: Server, facts: dict[str, Any]) -> None:
    with server.browser() as other:
        for name in facts["statuses"]:
            assert other.get(f"/v1/requests/{facts[name]}/status").status_code == (200 if name == "program" else 404)
        assert get(other, "gallery")["entries"] == []


def test_the_gallery_lists_its_videos_with_files_and_marks(
    browser_of_then: httpx.Client, facts: dict[str, Any]
) -> None:
    entries = get(browser_of_then, "gallery")["entries"]
    assert [entry["id"] for entry in entries] == facts["entries"]
    assert [entry["id"] for entry in entries if entry["kept"]] == [f"{facts['two_prompts']}-0"]
    for entry in entries:
        if entry["kind"] == "video":
            assert browser_of_then.get(f"/v1/{entry['url']}").content[4:8] == b"ftyp"
        assert browser_of_then.get(f"/v1/{entry['poster_url']}").content[:2] == b"\xff\xd8"
    assert {lora["name"] for entry in entries for lora in entry["loras"]} == {"fox.safetensors"}


def test_every_video_gives_its_settings_back(old: Path, browser_of_then: httpx.Client) -> None:
    prompts = set()
    for clip in sorted((old / "data" / "clips").glob("*.mp4")):
        response = browser_of_then.post("/v1/restore", files={"file": (clip.name, clip.read_bytes())})
        assert response.status_code == 200, response.text
        restored = response.json()
        (prompt,) = restored["request"]["prompts"]
        prompts.add(prompt["prompt"])
        assert restored["made"]["wan_ui"] == "0.1.0"
        assert restored["first_frame"] == ("here" if prompt["prompt"] == "it moves" else "none")
        if prompt["prompt"] == "a red circle":
            assert restored["request"]["loras"][0]["network_multiplier"] == 0.5
        sent = browser_of_then.post("/v1/restore", files={"file": (clip.name, clip.read_bytes())}).json()["request"]
        assert sent == restored["request"]
    assert prompts == {
        "a red circle",
        "a blue square",
        "a green circle",
        "it moves",
        "a sks fox runs",
        "sent by a program",
        "running at the kill",
    }


def test_uploads_and_first_frames_are_still_their_browsers(
    browser_of_then: httpx.Client, program: httpx.Client, facts: dict[str, Any]
) -> None:
    body = {"path": facts["upload"]}
    report = browser_of_then.post("/v1/loras/inspect", json=body).json()
    assert (report["type"], report["trainer"], report["step"]) == ("lora", "ai-toolkit 0.12.26", 500)
    assert program.post("/v1/loras/inspect", json=body).json()["detail"]["error"]["code"] == "LORA_NOT_FOUND"
    settings = get(browser_of_then, f"gallery/{facts['first_frame']}-0/settings.json")
    assert settings["request"]["prompts"][0]["ctrl_img"].startswith("upload://")
    assert browser_of_then.post("/v1/inference", json=settings["request"]).status_code == 200
    refused = program.post("/v1/inference", json=settings["request"]).json()
    assert refused["detail"]["error"]["code"] == "CONTROL_IMAGE_INVALID"


def test_the_imported_training_job_and_its_samples_are_there(
    server: Server, browser_of_then: httpx.Client, facts: dict[str, Any]
) -> None:
    job = server.services.service.imported_jobs.job(facts["imported"])
    assert [checkpoint.key for checkpoint in job.checkpoints] == ["250", "final"]
    assert len(job.imported.samples) == 2
    for step in (250, 500):
        for index in (0, 1):
            response = browser_of_then.get(f"/v1/jobs/{facts['imported']}/samples/{step}/{index}")
            assert response.headers["content-type"] == "image/webp"
    checklist = get(browser_of_then, f"requests/{facts['sample']}/checklist")
    assert len(checklist["rows"]) == 25 and checklist["comparison"]["exact"]
    uploaded = get(browser_of_then, f"requests/{facts['two_prompts']}/checklist?video=1")
    assert uploaded["comparison"] is not None


@pytest.mark.browser
def test_the_browser_finds_its_jobs_and_drafts(server: Server, browser: Browser, facts: dict[str, Any]) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    storage = [{"name": name, "value": value} for name, value in facts["storage"].items()]
    cookie = {**facts["cookie"], "url": origin}
    state: Any = {"cookies": [], "origins": [{"origin": origin, "localStorage": storage}]}
    with new_context(browser, storage_state=state) as context:
        context.add_cookies([cookie])  # type: ignore[list-item]
        page = context.new_page()
        page.goto(origin)
        expect(page.get_by_label("Prompt", exact=True).locator("visible=true")).to_have_value("a draft of version 0.1")
        expect(page.get_by_label("Seed", exact=True).locator("visible=true")).to_have_value("1234")
        expect(page.get_by_text("still waiting").first).to_be_visible()
