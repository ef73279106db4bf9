"""A process made to be killed: `python -m tests.jobs.victim DATA_DIR SEED [written|half|behind]` runs until SEED.

It stands still in that seed's render, when what came before is written; or when its file is written and not yet listed;
or when it is half written; or in that seed's render while the file of the one before is half written.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fakes import PATIENCE, FakeRender, fake_write_video
from tests.jobs.helpers import until_made
from wan_ui.engine.result import Clip, OnProgress
from wan_ui.files import PART_PREFIX
from wan_ui.job import ClipRecord
from wan_ui.jobs.clip_writer import WriteVideo
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.request import Generation


class StuckRender(FakeRender):
    """Says so on standard output when it gets to the seed and all before is `ready`, and never comes back."""

    def __init__(self, seed: int, ready: Callable[[], None]) -> None:
        super().__init__()
        self.seed, self.ready = seed, ready

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        if generation.seed == self.seed:
            self.ready()
            stand_still()
        return super().__call__(generation, on_progress)


class StuckStore(Store):
    """Says so and never comes back when it is to list the seed's clip."""

    seed = -1

    def add_clip(self, job_id: str, clip: ClipRecord, epoch: int | None = None) -> bool:
        if clip.seed == self.seed:
            stand_still()
        return super().add_clip(job_id, clip, epoch)


def half_written(seed: int) -> WriteVideo:
    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        if metadata["generation"]["seed"] == seed:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART_PREFIX) as folder:
                Path(folder, "clip.mp4").write_bytes(b"half")
                stand_still()
        fake_write_video(path, frames, fps, metadata)

    return write


def until_written(store: Store, seed: int) -> None:
    """Returns once the clips before the seed's are listed: they are written while it is rendered."""
    job = next(job for job in store.unfinished() if seed in [one.seed for one in job.generations])
    until_made(store, job.id, [one.seed for one in job.generations].index(seed))


def assert_begun(writer: HalfWritten) -> None:
    assert writer.begun.wait(PATIENCE)


class HalfWritten:
    """A writer that stops in the middle of the first file, for ever."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(
        self, path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any
    ) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART_PREFIX) as folder:
            Path(folder, "clip.mp4").write_bytes(b"half")
            self.begun.set()
            threading.Event().wait()


def stand_still() -> None:
    print("stuck", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    data_dir, at = Path(sys.argv[1]), int(sys.argv[2])
    where = sys.argv[3] if len(sys.argv) > 3 else "render"
    lock = FolderLock(data_dir)
    store = StuckStore(data_dir / "jobs.sqlite")
    store.seed = at if where == "written" else -1
    behind = HalfWritten()
    writers: dict[str, WriteVideo] = {"half": half_written(at), "behind": behind}
    ready = {"render": lambda: until_written(store, at), "behind": lambda: assert_begun(behind)}
    render = StuckRender(at, ready[where]) if where in ready else FakeRender()
    Worker(store, render, data_dir / "clips", writers.get(where, fake_write_video)).start()
    threading.Event().wait()
