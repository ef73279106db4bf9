"""Memory as measured on the machine that runs the tests."""

from __future__ import annotations

import psutil
import torch

from wan_ui.engine.memory import MemoryPolicy

CPU = torch.device("cpu")


def test_host_room_is_the_available_memory_beside_a_reserve() -> None:
    policy = MemoryPolicy("auto", CPU)
    assert policy.has_host_room(0)
    assert not policy.has_host_room(psutil.virtual_memory().total)
