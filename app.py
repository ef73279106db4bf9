"""The front door: flags and environment to settings, settings to a running server. It knows nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from wan_ui.config import read
from wan_ui.server import serve


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serves until SIGTERM or Ctrl-C. The exit code: 0, or 1 where the server could not start and said why."""
    return serve(read(arguments, environment))


if __name__ == "__main__":
    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # A render in the middle of a step cannot be called back, and Python would wait for its thread, or crash around it.
    os._exit(code)
