"""A process made to be killed: `python -m tests.jobs.victim DATA_DIR SEED` runs the line and stands still in SEED."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.fakes import FakeRender, fake_write_video
from wan_ui.engine.clip import Clip, OnProgress
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.request import Generation


class StuckRender(FakeRender):
    """Says so on standard output when it gets to the seed, and never comes back."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        if generation.seed == self.seed:
            print("stuck", flush=True)
            threading.Event().wait()
        return super().__call__(generation, on_progress)


if __name__ == "__main__":
    data_dir = Path(sys.argv[1])
    lock = FolderLock(data_dir)
    Worker(Store(data_dir / "jobs.sqlite"), StuckRender(int(sys.argv[2])), data_dir / "clips", fake_write_video).start()
    threading.Event().wait()
