"""The composition, piece by piece and without a server; tests/test_app.py starts it whole."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.lora_files import write_lora
from wan_ui import __version__
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.compose import SignIn, compose
from wan_ui.config import Settings
from wan_ui.errors import DeviceUnavailable, HostError, LoraNotFound
from wan_ui.inference import choose_device
from wan_ui.lora.library import Library
from wan_ui.models import MODELS
from wan_ui.pool.slots import SlotDevice
from wan_ui.server import (
    StopSignal,
    build_engine,
    demo_loras,
    free_port,
    greeting,
    prepare_environment,
    wait_until,
    wants_demo,
)
from wan_ui.tunnel import Tunnel
from wan_ui.web.origin import refusal

BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a"}]}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    (tmp_path / "models").mkdir()
    return Settings(models_dir=tmp_path / "models", lora_dir=tmp_path / "loras", data_dir=tmp_path / "data")


def test_several_gpus_need_no_engine_in_the_server(settings: Settings) -> None:
    services = compose(settings, [SlotDevice("GPU 0", "GPU-a", model="NVIDIA H200"), SlotDevice("GPU 1", "GPU-b")])
    body = services.health()
    assert (body["status"], body["device"]) == ("ready", "NVIDIA H200, GPU 1")
    assert [(slot["name"], slot["state"]) for slot in body["slots"]] == [("GPU 0", "stopped"), ("GPU 1", "stopped")]
    services.close()


def test_an_engine_is_not_built_on_a_device_that_is_none(settings: Settings) -> None:
    library = Library(settings.lora_dir)
    with pytest.raises(DeviceUnavailable, match="nonsense"):
        build_engine(replace(settings, device="nonsense"), library)


def test_requests_are_taken_before_the_engine_is_there(settings: Settings) -> None:
    services = compose(settings)
    job = services.service.submit(BODY, LOCAL_ACCESS)
    assert (job.status, job.position) == ("in_queue", 1)
    same = {"version": __version__, "queue": 1, "slots": [], "machines": []}
    assert services.health() == {**same, "status": "starting", "device": None}
    services.engine.set_result(cast(Any, SimpleNamespace(device_name="a device")))
    assert services.health() == {
        "status": "ready",
        "version": __version__,
        "device": "a device",
        "queue": 1,
        "slots": [],
        "machines": [],
    }
    services.close()


def test_the_lora_folder_is_made_and_is_the_root_of_paths(settings: Settings) -> None:
    services = compose(settings)
    assert settings.lora_dir.is_dir()
    with pytest.raises(LoraNotFound):
        services.service.submit(BODY | {"loras": [{"path": "none.safetensors"}]}, LOCAL_ACCESS)
    services.close()


def test_folders_that_cannot_be_used(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="--models-dir"):
        compose(replace(settings, models_dir=tmp_path / "typo"))
    with pytest.raises(HostError, match="file"):
        compose(replace(settings, lora_dir=tmp_path / "file"))


def test_a_device_that_is_none() -> None:
    with pytest.raises(DeviceUnavailable, match="nonsense"):
        choose_device("nonsense")


def test_the_greeting_counts_models(settings: Settings) -> None:
    said = "\n".join(greeting(settings, 7861, CheckpointSources(Checkpoints(settings.models_dir))))
    assert __version__ in said and "torch" in said
    assert f"Models: 0 of {len(MODELS)} found" in said
    assert "http://127.0.0.1:7861/" in said


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "localhost"),
        ("::1", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
    ],
)
def test_the_address_that_is_printed_is_answered(settings: Settings, host: str, address: str) -> None:
    settings = replace(settings, host=host)
    assert f"http://{address}:7861/" in "\n".join(
        greeting(settings, 7861, CheckpointSources(Checkpoints(settings.models_dir)))
    )
    entry = SignIn.of(settings, Tunnel(settings.data_dir))
    assert refusal([(b"host", f"{address}:7861".encode())], entry.hosts(settings)) is None


@pytest.mark.parametrize(
    ("settings", "cuda", "demo"),
    [
        (Settings(), True, False),
        (Settings(), False, True),
        (Settings(device="cpu"), False, False),
        (Settings(models_dir=Path("m")), False, False),
        (Settings(demo=True), True, True),
        (Settings(demo=True, device="cpu", models_dir=Path("m")), False, True),
    ],
)
def test_when_the_demo_is_used(settings: Settings, cuda: bool, demo: bool) -> None:
    assert wants_demo(settings, lambda: cuda) is demo


def test_the_demo_takes_the_lora_folder_that_was_named_if_it_holds_any(settings: Settings, tmp_path: Path) -> None:
    settings.lora_dir.mkdir()
    named, own = replace(settings, chose_lora_dir=True), tmp_path / "own"
    assert demo_loras(named, own) == own
    write_lora(settings.lora_dir / "mine.safetensors")
    assert demo_loras(named, own) == settings.lora_dir
    assert demo_loras(settings, own) == own


def test_the_gpu_is_not_asked_for_when_it_does_not_matter() -> None:
    def never() -> bool:
        raise AssertionError

    for settings in (Settings(demo=True), Settings(device="cpu"), Settings(models_dir=Path("m"))):
        wants_demo(settings, never)


def test_free_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HostError, match="--port"):
            free_port(taken.getsockname()[1])
    assert 1024 <= free_port(0) <= 65535


def test_what_gradio_reads_when_it_is_imported() -> None:
    environment = {"NO_PROXY": "a.example", "GRADIO_ANALYTICS_ENABLED": "True"}
    prepare_environment(environment, Path("/data"))
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["GRADIO_TEMP_DIR"] == "/data/gradio"
    assert environment["NO_PROXY"] == "a.example,127.0.0.1,localhost"
    assert environment["no_proxy"] == "127.0.0.1,localhost"


def test_the_loras_of_comfyui_and_of_jobs_are_listed(tmp_path: Path) -> None:
    comfy, jobs = tmp_path / "ComfyUI", tmp_path / "output"
    for path in (comfy / "models/loras/wan/style.safetensors", jobs / "fox/fox.safetensors"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    data = tmp_path / "data"
    data.mkdir()
    settings = Settings(lora_dir=tmp_path / "loras", data_dir=data, comfy_dir=comfy / "models", jobs_dir=jobs)
    services = compose(settings)
    try:
        assert services.service.library.listing() == ("ComfyUI/wan/style.safetensors", "jobs/fox/fox.safetensors")
    finally:
        services.close()
    with pytest.raises(HostError, match="--jobs-dir"):
        compose(replace(settings, jobs_dir=tmp_path / "none"))


def test_a_signal_whose_exception_was_swallowed_still_stops_the_server() -> None:
    stop = StopSignal()
    with suppress(KeyboardInterrupt):  # as Python does in the callback of a weak reference
        stop(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        wait_until(lambda: False, stop)
