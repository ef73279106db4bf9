"""POST /v1/loras/inspect on a real job service and library: paths, addresses, files sent along, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.api.test_app import error_of
from tests.fakes import FakeImages, FakeRender, fake_write_video
from tests.lora.writers import WIDTHS
from tests.web_files import FileServer, lora_bytes, serving
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.api.dependencies import SizeLimits
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles
from wan_ui.models import MODELS, WanModel
from wan_ui.provenance.restoring import Environment

pytestmark = pytest.mark.slow

LORA = lora_bytes()
WHERE = "/v1/loras/inspect"
LIMIT = 200_000


def config(row: WanModel, component: str) -> dict[str, Any] | None:
    """One row's checkpoint is here, and tiny."""
    return WIDTHS["48"].config if row.id == "wan21_1b" else None


@pytest.fixture
def client(tmp_path: Path, render: FakeRender) -> Iterator[TestClient]:
    store = Store(tmp_path / "jobs.sqlite")
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "job_high_noise.safetensors").write_bytes(LORA)
    (tmp_path / "scratch").mkdir()
    uploads = tmp_path / "uploads"
    library = Library(tmp_path / "loras", uploads, RemoteFiles(uploads, allow_hosts=["127.0.0.1"], seconds=10))
    images: Any = FakeImages()
    service = JobService(library, images, store, worker, tmp_path, environment=Environment(transformer_config=config))
    door = create_api(
        service,
        dict,
        lambda: LOCAL_ACCESS,
        limits=SizeLimits(small_body=1000, file=LIMIT),
        scratch=tmp_path / "scratch",
    )
    app = Starlette(routes=[Mount("/v1", app=door)])
    yield TestClient(app, base_url="http://localhost:7860", raise_server_exceptions=False)
    assert list((tmp_path / "scratch").iterdir()) == []  # whatever was asked
    store.close()


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    with serving() as file_server:
        yield file_server


def test_a_path_is_judged_by_the_checkpoints_own_sizes(client: TestClient) -> None:
    reply = client.post(WHERE, json={"path": "job_high_noise.safetensors"})
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert (said["slot"], said["type"], said["partner"]) == ("high", "lora", None)
    assert said["fits"] == {name: "yes" if name == "wan21_1b" else "no" for name in MODELS}
    assert said["candidates"] == ["wan21_1b"]
    assert list(said) == [
        "family", "candidates", "slot", "type", "rank", "alpha", "dtype", "modules", "blocks", "trainer", "step",
        "trigger_word", "partner", "fits", "coverage", "messages",
    ]  # fmt: skip


def test_a_file_is_judged_under_the_name_it_had(client: TestClient, tmp_path: Path) -> None:
    path = client.post(WHERE, json={"path": "job_high_noise.safetensors"}).json()
    sent = client.post(WHERE, files={"file": ("C:\\x\\job_high_noise.safetensors", LORA)})
    assert sent.status_code == 200, sent.text
    assert sent.json() == path
    assert client.post(WHERE, files={"file": ("ü_low_noise.safetensors", LORA)}).json()["slot"] == "low"
    assert not list((tmp_path / "uploads").glob("*.safetensors"))


def test_an_address_is_fetched_and_kept(client: TestClient, file_server: FileServer) -> None:
    url = file_server.put("j_low_noise.safetensors", LORA, etag='"1"')
    for _ in range(2):
        reply = client.post(WHERE, json={"path": url})
        assert reply.status_code == 200 and reply.json()["slot"] == "low"
    assert [status for _, status in file_server.asked] == [200, 304]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("none.safetensors", 400, "LORA_NOT_FOUND"),
        ("../job.safetensors", 400, "LORA_NOT_FOUND"),
        ("job.ckpt", 400, "LORA_INVALID"),
        ("upload://none", 400, "LORA_NOT_FOUND"),
        ("hf://nobody", 400, "LORA_NOT_FOUND"),
        ("ftp://example.org/a.safetensors", 400, "LORA_NOT_FOUND"),
        ("http://10.0.0.1/a.safetensors", 400, "FETCH_FAILED"),
    ],
)
def test_a_source_that_gives_no_lora(client: TestClient, path: str, status: int, code: str) -> None:
    error_of(client.post(WHERE, json={"path": path}), status, code)


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, "path"),
        ({"path": ""}, "path"),
        ({"path": 3}, "path"),
        ({"path": None}, "path"),
        ({"path": "a", "colour": 1}, "colour"),
        ([], "body"),
    ],
)
def test_a_body_of_another_form(client: TestClient, body: Any, loc: str) -> None:
    error = error_of(client.post(WHERE, json=body), 422, "INVALID_REQUEST")
    assert error["details"]["fields"][0]["loc"] == loc


def test_a_body_that_is_no_json_or_too_large(client: TestClient) -> None:
    error_of(client.post(WHERE, content=b"{"), 400, "BAD_JSON")
    error_of(client.post(WHERE, content=b" " * 2000), 413, "PAYLOAD_TOO_LARGE")


def test_a_file_that_is_no_lora_or_too_large(client: TestClient) -> None:
    error_of(client.post(WHERE, files={"file": ("a.safetensors", b"<html>")}), 400, "LORA_INVALID")
    error_of(client.post(WHERE, files={"file": ("a.safetensors", LORA[:-1])}), 400, "LORA_INVALID")
    error_of(client.post(WHERE, files={"file": ("a.safetensors", b"x" * (LIMIT + 1))}), 413, "PAYLOAD_TOO_LARGE")
    error_of(client.post(WHERE, files={"file": ("a.safetensors", b"x" * (2 * LIMIT))}), 413, "PAYLOAD_TOO_LARGE")


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.safetensors"\r\n\r\n'


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", FORM),
        (b"nothing of the kind", FORM),
        (PART + LORA, FORM),  # the last boundary never comes
        (PART + LORA + b"\r\n" + PART + LORA + b"\r\n--b--\r\n", FORM),
        (PART.replace(b'"file"', b'"style"') + LORA + b"\r\n--b--\r\n", FORM),
        (b"--b\r\n\r\n" + LORA + b"\r\n--b--\r\n", FORM),
        (b"--b--\r\n", FORM),
        (PART + LORA + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data"}),
        (PART + LORA + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=" + "b" * 500}),
        (b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\n\r\n--b--\r\n", FORM),
    ],
)
def test_a_form_of_another_form(client: TestClient, content: bytes, headers: dict[str, str]) -> None:
    error_of(client.post(WHERE, content=content, headers=headers), 422, "INVALID_REQUEST")


def test_a_body_without_a_length_is_counted(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield PART
        yield from (b"x" * 50_000 for _ in range(6))
        yield b"\r\n--b--\r\n"

    error_of(client.post(WHERE, content=pieces(), headers=FORM), 413, "PAYLOAD_TOO_LARGE")
