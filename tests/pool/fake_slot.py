"""A slot process over a fake engine: `python -m tests.pool.fake_slot DESCRIPTOR`. Words of the prompt say what it does.

`gate`: before step 2 it writes `arrived-SEED` into the data folder and waits for `open-SEED`. `die`: it kills itself at
step 1, once for each seed; `die always`: every time. `hang`: after step 1 it hears nothing any more. `lost`: its device
is lost at step 1, once for each seed. `fail`: an error of the request. `broken`: an error without a type.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping

from tests.fake_frames import fake_frames
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import DeviceLost, DeviceUnavailable, OutOfMemory
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.slot_process import main
from wan_ui.request import Generation


class FakeEngine:
    """See the module."""

    versions: Mapping[str, str] = {}

    def __init__(self, options: EngineOptions) -> None:
        self._folder = options.data_dir
        self._is_lost = False
        is_named = (options.device or "").startswith("fake ")
        self.device_name = str(options.device) if is_named else "fake GPU"
        if options.device == "unusable":
            raise DeviceUnavailable("This device cannot be used.")

    def render(self, generation: Generation, on_progress: OnProgress) -> Clip:
        words = generation.prompt.split()
        on_progress(Progress("loading", 0, generation.sample_steps))
        for step in range(1, generation.sample_steps + 1):
            if step == 1:
                self._misbehave(words, generation.seed)
            if step == 2 and "gate" in words:
                self._wait(generation.seed)
            on_progress(Progress("denoise", step, generation.sample_steps))
            if "hang" in words:
                threading.Event().wait()
            if "slow" in words:
                time.sleep(0.02)
        frames = fake_frames(generation)
        size = (generation.width, generation.height, generation.num_frames)
        return Clip(frames, *size, generation.fps, generation.seed, {"pid": os.getpid()})

    def join(self, place: GroupPlace) -> None:
        """It renders as alone."""

    def leave(self) -> None:
        """It renders as before."""

    def check(self) -> None:
        if self._is_lost:
            raise DeviceLost("The GPU failed.")

    def _misbehave(self, words: list[str], seed: int) -> None:
        if "die" in words and ("always" in words or self._first("died", seed)):
            os.kill(os.getpid(), signal.SIGKILL)
        if "lost" in words and self._first("lost", seed):
            self._is_lost = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if "fail" in words:
            raise OutOfMemory("Not enough memory.")
        if "broken" in words:
            raise KeyError("broken")

    def _first(self, what: str, seed: int) -> bool:
        mark = self._folder / f"{what}-{seed}"
        if mark.exists():
            return False
        mark.touch()
        return True

    def _wait(self, seed: int) -> None:
        (self._folder / f"arrived-{seed}").touch()
        while not (self._folder / f"open-{seed}").exists():
            time.sleep(0.005)


if __name__ == "__main__":
    main(FakeEngine)
