"""The public link: starts and stops a tunnel program, and ends one that a killed server left running."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from wan_ui.errors import ShareFailed
from wan_ui.files import write_file
from wan_ui.text import one_line

log = logging.getLogger(__name__)

RECORD = "tunnel.json"
START_SECONDS = 30.0
STOP_SECONDS = 3.0
_SUCCESS = re.compile(r"start proxy success: (\S+)")
_FAILURE = re.compile(r"login to server failed|start error|no such|refused|denied", re.IGNORECASE)


@dataclass(frozen=True)
class Relay:
    """What makes the link: the tunnel's program (frpc, as Gradio uses it), its server, and the server's certificate.

    `scheme` is that of the link. `certificate` None: the way to the server is not encrypted.
    """

    program: Path
    server: str
    scheme: str
    certificate: Path | None = None


class Tunnel:
    """A link to a port of this machine. `folder` stores what the next start needs to end a tunnel left running.

    Only one process may use a folder. Thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        self._record = folder / RECORD
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._url: str | None = None

    @property
    def url(self) -> str | None:
        """The link, ending in no slash; None without one, also when the tunnel ended by itself."""
        process, url = self._process, self._url
        return url if process is not None and process.poll() is None else None

    @property
    def host(self) -> str | None:
        """The link's host as a Host header has it, with a port if there is one."""
        url = self.url
        return None if url is None else urlsplit(url).netloc.lower()

    def sweep(self) -> bool:
        """Ends the tunnel that a killed server left running; returns whether there was one."""
        try:
            record = json.loads(self._record.read_text("ascii"))
            pid, token = int(record["pid"]), str(record["token"])
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError):
            self._record.unlink(missing_ok=True)
            return False
        left = token in command_of(pid)  # another program may have this number by now, but not the token
        if left:
            _end(pid, token)
        self._record.unlink(missing_ok=True)
        return left

    def start(self, relay: Relay, port: int, seconds: float = START_SECONDS) -> str:
        """Opens the link to `port` and returns it. Raises ShareFailed with the reason."""
        token = secrets.token_hex(32)
        command = [str(relay.program), "http", "-n", token, "-l", str(port), "-i", "127.0.0.1"]
        command += ["--uc", "--sd", "random", "--ue", "--server_addr", relay.server, "--disable_log_color"]
        if relay.certificate is not None:
            command += ["--tls_enable", "--tls_trusted_ca_file", str(relay.certificate)]
        with self._lock:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            except OSError as error:
                raise _failed(f"its program cannot be started ({error.strerror})") from error
            self._process = process
            write_file(self._record, json.dumps({"pid": process.pid, "token": token}).encode("ascii"))
        assert process.stdout is not None
        try:
            address = self._read(process.stdout, process, seconds)
        except ShareFailed:
            self.stop()
            raise
        self._url = f"{relay.scheme}://{urlsplit(address).netloc or address}"
        log.info("the public link is open")
        return self._url

    def stop(self) -> None:
        """Closes the link, if there is one, and waits until its program has ended."""
        with self._lock:
            process, self._process, self._url = self._process, None, None
            if process is None:
                return
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._record.unlink(missing_ok=True)
        log.info("the public link is closed")

    def _read(self, pipe: IO[bytes], process: subprocess.Popen[bytes], seconds: float) -> str:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # As long as the tunnel runs: it would block on a full pipe.
        threading.Thread(target=_pass_on, args=(pipe, lines), name="wan-ui-tunnel", daemon=True).start()
        end, last = time.monotonic() + seconds, ""
        for line in _until(lines, end):
            match = _SUCCESS.search(line)
            if match is not None:
                return match[1]
            last = line or last
            if _FAILURE.search(line):
                raise _failed(_reason(last))
        if process.poll() is not None or time.monotonic() < end:
            raise _failed(_reason(last) if last else "its program ended immediately")
        raise _failed(f"the tunnel's server sent no address within {seconds:g} s")


def _pass_on(pipe: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    for line in pipe:
        lines.put(line.decode("utf-8", "replace").strip())
    lines.put(None)


def _until(lines: queue.SimpleQueue[str | None], end: float) -> Iterator[str]:
    """Lines until the program closes its output or the time is over."""
    while (left := end - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            return
        if line is None:
            return
        yield line


def _reason(line: str) -> str:
    return re.sub(r"/[^\s:]*/", "", one_line(line, 200))


def _failed(reason: str) -> ShareFailed:
    return ShareFailed(
        f"The public link could not be opened: {reason}. Check this machine's internet connection, or start without "
        "--share."
    )


def command_of(pid: int) -> str:
    """A process's command line; "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except FileNotFoundError:
        if Path("/proc/self/cmdline").exists():
            return ""
    except OSError:
        return ""
    listed = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout


def _end(pid: int, token: str) -> None:
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return
        end = time.monotonic() + seconds
        never = threading.Event()
        while time.monotonic() < end:
            if token not in command_of(pid):
                return
            never.wait(0.05)
