"""The command line: `wan-ui`, `python -m wan_ui` and `python app.py` all run `main`; `wan-ui cleanup` tidies."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from wan_ui.config import read

CLEANUP = "cleanup"


def main() -> NoReturn:
    """Serves until SIGTERM or Ctrl-C, then ends the process with the exit code of `server.serve`."""
    if sys.argv[1:2] == [CLEANUP]:
        from wan_ui.cleanup import cleanup

        sys.exit(cleanup(sys.argv[2:], os.environ))
    settings = read(sys.argv[1:], os.environ)
    # Only now: its import takes a second, which neither --help nor a wrong flag needs.
    from wan_ui.server import serve

    code = serve(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    # A denoising step cannot be interrupted: a normal exit would wait for the render thread, or crash beside it.
    os._exit(code)


if __name__ == "__main__":
    main()
