"""app.py with an engine that cannot use the device that was named: `python -m tests.no_device_app FLAGS`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from wan_ui.config import Settings, read
from wan_ui.errors import DeviceUnavailable
from wan_ui.lora.library import Library
from wan_ui.server import serve


def build(settings: Settings, library: Library) -> NoReturn:
    raise DeviceUnavailable(f"The device {settings.device!r} cannot be used here.")


if __name__ == "__main__":
    code = serve(read(sys.argv[1:], os.environ), build)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
