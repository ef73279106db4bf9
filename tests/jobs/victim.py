"""A process made to be killed: `python -m tests.jobs.victim DATA_DIR SEED [written|half]` runs the line until SEED.

It stands still in that seed's render; or when its file is written and not yet listed; or when it is half written.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fakes import FakeRender, fake_write_video
from wan_ui.engine.clip import Clip, OnProgress
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.store import ClipRecord, Store
from wan_ui.jobs.worker import Worker, WriteVideo
from wan_ui.media.disk import PART_PREFIX
from wan_ui.request import Generation


class StuckRender(FakeRender):
    """Says so on standard output when it gets to the seed, and never comes back."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        if generation.seed == self.seed:
            stand_still()
        return super().__call__(generation, on_progress)


class StuckStore(Store):
    """Says so and never comes back when it is to list the seed's clip."""

    seed = -1

    def add_clip(self, job_id: str, clip: ClipRecord) -> bool:
        if clip.seed == self.seed:
            stand_still()
        return super().add_clip(job_id, clip)


def half_written(seed: int) -> WriteVideo:
    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any]) -> None:
        if metadata["generation"]["seed"] == seed:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART_PREFIX) as folder:
                Path(folder, "clip.mp4").write_bytes(b"half")
                stand_still()
        fake_write_video(path, frames, fps, metadata)

    return write


def stand_still() -> None:
    print("stuck", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    data_dir, at = Path(sys.argv[1]), int(sys.argv[2])
    where = sys.argv[3] if len(sys.argv) > 3 else "render"
    lock = FolderLock(data_dir)
    store = StuckStore(data_dir / "jobs.sqlite")
    store.seed = at if where == "written" else -1
    render = StuckRender(at) if where == "render" else FakeRender()
    Worker(store, render, data_dir / "clips", half_written(at) if where == "half" else fake_write_video).start()
    threading.Event().wait()
