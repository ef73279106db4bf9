"""Asks the server that runs as process 1 of this container for its health, at the port and host that its flags name."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from wan_ui.config import read

TIMEOUT_SECONDS = 4.0


def address(arguments: list[str]) -> str:
    """Where a server with these flags (and this environment) answers."""
    settings = read(arguments, os.environ)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{host}:{settings.port}/v1/health"


def main() -> None:
    """Exits with 0 if the server answers. Raises URLError, which Docker shows, if not."""
    words = Path("/proc/1/cmdline").read_text().rstrip("\0").split("\0")
    flags = words[words.index("app.py") + 1 :]
    urllib.request.urlopen(address(flags), timeout=TIMEOUT_SECONDS).close()


if __name__ == "__main__":
    main()
