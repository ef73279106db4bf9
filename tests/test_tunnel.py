"""The public link over a stand-in for its program: opened, read, closed, and swept away after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.fake_frpc import program
from tests.ports import reserve_port
from wan_ui.errors import ShareFailed
from wan_ui.tunnel import RECORD, Relay, Tunnel, command_of

pytestmark = pytest.mark.slow


def relay(folder: Path, server: str) -> Relay:
    return Relay(program(folder), server, "http")


def test_a_link_is_opened_and_closed(tmp_path: Path) -> None:
    tunnel, port = Tunnel(tmp_path), reserve_port()
    url = tunnel.start(relay(tmp_path, f"abc:{port}"), reserve_port())
    assert (url, tunnel.url, tunnel.host) == (f"http://abc.localhost:{port}", url, f"abc.localhost:{port}")
    pid = json.loads((tmp_path / RECORD).read_text())["pid"]
    assert "frpc" in command_of(pid)
    tunnel.stop()
    tunnel.stop()
    assert tunnel.url is None and command_of(pid) == "" and not (tmp_path / RECORD).exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)


def test_a_link_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    tunnel = Tunnel(tmp_path)
    with pytest.raises(ShareFailed, match="login to server failed: the relay in relay is closed for today") as caught:
        tunnel.start(relay(tmp_path, "fails:1"), 1)
    assert "/home" not in caught.value.message
    assert tunnel.url is None and not (tmp_path / RECORD).exists()
    with pytest.raises(ShareFailed, match="cannot be started"):
        tunnel.start(Relay(tmp_path / "nothing", "abc:1", "http"), 1)
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nsleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(ShareFailed, match="sent no address within"):
        tunnel.start(Relay(silent, "abc:1", "http"), 1, seconds=0.5)


def test_what_a_killed_server_left_is_ended(tmp_path: Path) -> None:
    port = reserve_port()
    code = (
        "import sys\nfrom pathlib import Path\nfrom wan_ui.tunnel import Relay, Tunnel\n"
        "folder, program, port = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "Tunnel(folder).start(Relay(program, f'abc:{port}', 'http'), 1)\nprint('open', flush=True)\nsys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(program(tmp_path)), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None and server.stdout.readline() == b"open\n"
    server.send_signal(signal.SIGKILL)
    server.wait()
    pid = json.loads((tmp_path / RECORD).read_text())["pid"]
    assert "frpc" in command_of(pid)
    assert Tunnel(tmp_path).sweep()
    assert "frpc" not in command_of(pid) and not Tunnel(tmp_path).sweep()


def test_another_program_of_that_number_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"pid": os.getpid(), "token": "not-in-this-command-line"}))
    assert not Tunnel(tmp_path).sweep()
    (tmp_path / RECORD).write_text("damaged")
    assert not Tunnel(tmp_path).sweep() and not (tmp_path / RECORD).exists()
