"""app.py with two slots on the CPU, each a process with the real engine: `python -m tests.pool.slots_app FLAGS`."""

from __future__ import annotations

import os
import sys

from wan_ui.config import Settings, read
from wan_ui.pool.slots import SlotDevice
from wan_ui.server import build_engine, serve


def find_devices(settings: Settings) -> tuple[SlotDevice, ...]:
    return tuple(SlotDevice(f"GPU {number}", device="cpu") for number in range(2))


if __name__ == "__main__":
    code = serve(read(sys.argv[1:], os.environ), build_engine, find_devices)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
