"""Slots for the tests: fakes in this process, and real processes over a fake engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wan_ui.config import Settings
from wan_ui.engine.result import Clip, OnProgress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import SlotLost, SlotUnfit
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.slots import Check, SlotDevice
from wan_ui.pool.worker_slot import ProcessLimits
from wan_ui.request import Generation

FAKE_PROGRAM = ("-m", "tests.pool.fake_slot")


Render = Callable[[Generation, OnProgress], Clip]


def ignore(check: Check) -> None:
    """A script that does nothing."""


class FakeSlot:
    """Renders in this process. `lose` makes so many renders raise SlotLost, `fails_in_groups` all that it joins.

    `lacks` are models that it refuses. `script` is called at the start of each render, with the render's check.
    """

    def __init__(self, name: str, render: Render, script: Callable[[Check], object] = ignore) -> None:
        self.name = name
        self.device_name = "fake GPU"
        self.machine = ""
        self.is_started = False
        self.joined: GroupPlace | None = None
        self.rendered: list[int] = []
        self.places: list[GroupPlace | None] = []
        self.lose = 0
        self.fails_in_groups = False
        self.lacks: set[str] = set()
        self.ended = threading.Event()
        self._render = render
        self._script = script

    def render(
        self,
        generation: Generation,
        on_progress: OnProgress,
        check: Check,
        place: GroupPlace | None = None,
        lossless: bool = False,
    ) -> Clip:
        if generation.model in self.lacks:
            raise SlotUnfit(f"{self.name} lacks the checkpoint.")
        self.is_started = True
        self._script(check)
        if self.lose:
            self.lose -= 1
            raise SlotLost("The process ended.")
        self.places.append(place)
        self.joined = place or self.joined
        if place is not None and self.fails_in_groups:
            raise SlotLost("The GPUs do not reach each other.")
        if place is not None and place.rank:
            return Clip(np.empty((0, 1, 1, 3), np.uint8), 1, 1, 0, 16, generation.seed)
        clip = self._render(generation, on_progress)
        self.rendered.append(generation.seed)
        return clip

    def end(self) -> None:
        self.is_started = False
        self.joined = None
        self.ended.set()


def options(data_dir: Path) -> EngineOptions:
    return EngineOptions.of(Settings(data_dir=data_dir, lora_dir=data_dir / "loras"))


def process_slots(
    data_dir: Path, count: int, limits: ProcessLimits | None = None, device: str = "cpu"
) -> list[ProcessSlot]:
    """Slots with processes of their own over a fake engine."""
    devices = [SlotDevice(f"GPU {number}", device=device) for number in range(count)]
    return [ProcessSlot(each, options(data_dir), limits, FAKE_PROGRAM) for each in devices]
