"""What is installed, and what the container and the service may do."""

from __future__ import annotations

import configparser
import re
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from deploy.healthcheck import address
from tools import pin_image, split_lock

ROOT = Path(__file__).parent.parent
DIGEST = "sha256:" + "5a" * 32


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(*files: str) -> dict[str, str]:
    texts = [(ROOT / file).read_text() for file in files]
    return {normal(name): entry for text in texts for name, entry in split_lock.entries(text).items()}


def test_every_locked_package_but_torch_has_hashes() -> None:
    entries = locked("requirements.txt", "requirements-dev.txt")
    assert len(entries) > 80
    assert [name for name, entry in entries.items() if "--hash=sha256:" not in entry] == []
    assert list(locked("requirements-torch.txt")) == ["torch"]


def test_the_lock_has_every_package_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_tests = [name for extra in ("gguf", "dev") for name in project["optional-dependencies"][extra]]
    wanted = {normal(re.split(r"[><=;\[ ]", text)[0]) for text in [*project["dependencies"], *of_tests]}
    assert wanted - locked("requirements-torch.txt", "requirements.txt", "requirements-dev.txt").keys() == set()


def test_a_lock_is_split_into_torch_what_runs_and_what_tests_need() -> None:
    run = split_lock.entries(
        "numpy==2 \\\n    --hash=sha256:aa\ntorch==2.13.0 ; sys_platform == 'linux' \\\n    --hash=sha256:bb\n"
        "nvidia-cublas==13 \\\n    --hash=sha256:cc\ntriton==3.7 \\\n    --hash=sha256:dd\n"
    )
    dev = {**run, **split_lock.entries("pytest==9 \\\n    --hash=sha256:ee\n")}
    torch, own, tests = split_lock.split(run, dev)
    assert torch.endswith("\ntorch==2.13.0\n")
    assert own.endswith("\nnumpy==2 \\\n    --hash=sha256:aa\n") and "nvidia" not in own and "triton" not in own
    assert tests.endswith("\ntriton==3.7 \\\n    --hash=sha256:dd\npytest==9 \\\n    --hash=sha256:ee\n")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "http://127.0.0.1:7860/v1/health"),
        (["--host", "0.0.0.0", "--port", "8000", "--demo"], "http://127.0.0.1:8000/v1/health"),
        (["--host", "::"], "http://[::1]:7860/v1/health"),
        (["--host=10.0.0.7"], "http://10.0.0.7:7860/v1/health"),
    ],
)
def test_the_containers_health_check_knows_the_servers_flags(
    flags: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAN_UI_PORT", raising=False)
    monkeypatch.delenv("WAN_UI_HOST", raising=False)
    assert address(flags) == expected


def test_the_container_runs_with_the_least() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "\nUSER wan\n" in dockerfile and "--require-hashes" in dockerfile
    (service,) = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"].values()
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_unit_runs_with_the_least() -> None:
    """`systemd-analyze security --offline=true deploy/wan-ui.service` rates it 1.6."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy" / "wan-ui.service")
    service = unit["Service"]
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectKernelModules", "RestrictSUIDSGID", "LockPersonality"):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    assert service["ReadWritePaths"] == "/srv/wan-ui"
    # What the GPU's driver, torch.compile and the network need must not be taken away.
    for name in ("MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork", "PrivateUsers"):
        assert name not in service, name


class Registry(BaseHTTPRequestHandler):
    """The two answers of an image registry that the tool reads."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"token": "t"}')

    def do_HEAD(self) -> None:
        tag = self.path.removeprefix("/v2/library/python/manifests/")
        right = tag in ("3.11-slim", "without-digest") and self.headers["Authorization"] == "Bearer t"
        self.send_response(200 if right else 404)
        if tag == "3.11-slim":
            self.send_header("Docker-Content-Digest", DIGEST)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_base_image_is_pinned_by_the_registrys_digest(registry: str) -> None:
    digest = pin_image.digest_of("python", "3.11-slim", registry, registry + "/token?{name}")
    assert digest == DIGEST
    once = pin_image.pinned("# a\nFROM python:3.11-slim\nRUN x\n", digest)
    assert once == f"# a\nFROM python:3.11-slim@{DIGEST}\nRUN x\n"
    assert pin_image.pinned(once, "sha256:" + "6b" * 32) == once.replace("5a", "6b")
    with pytest.raises(OSError, match="404"):
        pin_image.digest_of("python", "gone", registry, registry + "/token?{name}")


def test_no_digest_is_invented(registry: str) -> None:
    with pytest.raises(ValueError, match="no digest"):
        pin_image.digest_of("python", "without-digest", registry, registry + "/token?{name}")
