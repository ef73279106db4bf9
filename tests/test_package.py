"""The wheel in an environment of its own, started from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from wan_ui._version import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SECONDS = 120.0  # that a start, or a render, may take on a busy machine
STOP = 10.0  # that a stop may take
BODY: dict[str, Any] = {
    "model": "wan21_1b",
    "prompts": [{"prompt": "a red circle", "width": 128, "height": 128, "num_frames": 5, "sample_steps": 2}],
}


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel; what it depends on comes from this environment."""
    wheels, environment = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("environment")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ".")
    venv.create(environment, symlinks=True)
    programs = environment / "bin"
    _pip("--python", programs / "python", "install", "--no-deps", "--no-index", next(wheels.glob("*.whl")))
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("WAN_UI_", "PYTHON"))}


@dataclass(frozen=True)
class Server:
    """A running `wan-ui --demo`."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`wan-ui --demo`, started in an empty folder and ready to render."""
    folder = tmp_path_factory.mktemp("elsewhere")
    process = subprocess.Popen(
        [installed / "wan-ui", "--demo", "--port", "0"],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        printed: list[str] = []
        while not any(line.startswith("Ready on ") for line in printed):
            printed.append(process.stdout.readline())
            assert printed[-1], "".join(printed)
        (page,) = (line for line in printed if line.startswith("Page: "))
        yield Server(process, page.split()[1])
        assert {path.name for path in folder.iterdir()} <= {"data", "loras"}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("command", [["wan-ui"], ["python", "-m", "wan_ui"]], ids=["script", "module"])
def test_both_commands_take_the_same_flags(installed: Path, tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [installed / command[0], *command[1:], "--help"],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: wan-ui ") and "--models-dir" in done.stdout


def test_the_installed_demo_renders_a_clip(server: Server) -> None:
    with httpx.Client(base_url=server.address, timeout=30, trust_env=False) as client:
        health = client.get("v1/health").json()
        assert (health["status"], health["version"]) == ("ready", __version__)
        submitted = client.post("v1/inference", json=BODY).json()
        deadline = time.monotonic() + SECONDS
        while client.get(submitted["status_url"]).json()["status"] in ("in_queue", "in_progress"):
            assert time.monotonic() < deadline
            time.sleep(0.1)  # as any client of this API polls
        result = client.get(submitted["result_url"]).json()
        (clip,) = result["outputs"]["videos"]
        assert client.get(clip["url"]).content[4:8] == b"ftyp"
        assert client.get(server.address).status_code == 200


def test_sigterm_ends_an_idle_server(server: Server) -> None:
    server.process.terminate()
    printed, _ = server.process.communicate(timeout=STOP)
    assert (server.process.returncode, printed.splitlines()[-1]) == (0, "Stopping.") and "Traceback" not in printed


def test_the_type_marker_is_installed(installed: Path, tmp_path: Path) -> None:
    program = "import pathlib, wan_ui; print((pathlib.Path(wan_ui.__file__).parent / 'py.typed').is_file())"
    done = subprocess.run(
        [installed / "python", "-c", program], cwd=tmp_path, env=_environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "True"
