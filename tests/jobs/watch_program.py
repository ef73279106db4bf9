"""Watches one training job until it is killed: `python -m tests.jobs.watch_program FOLDER`.

FOLDER holds `loras/fox`, the training job, and gets `data`. While FOLDER/hold exists, the render stops before a step.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.fakes import FakeRender, fake_write_video
from tests.trainer.tiny_transformers import tiny
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import HostError
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.watch_store import WatchStore
from wan_ui.jobs.watcher import Watcher
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore
from wan_ui.provenance.restoring import Environment
from wan_ui.request import Generation
from wan_ui.trainer.saves import CompleteSaves

QUICK = 0.02  # seconds between two looks at the folder
SETTLE = 0.1  # seconds without a change


def _no_fetch(url: str) -> bytes:
    raise HostError("nothing is fetched here")


def services(folder: Path, store: Store, worker: Worker) -> JobService:
    """A job service with a real library over FOLDER/loras."""
    data = folder / "data"
    library, images = Library(folder / "loras", data / "uploads"), ImageStore(data / "images", _no_fetch)
    return JobService(library, images, store, worker, data, environment=Environment(transformer_config=tiny))


def watcher_of(service: JobService, store: Store, worker: Worker, settle: float = SETTLE) -> Watcher:
    """A watcher that waits less than a server's."""
    return Watcher(store, service.imported_jobs, service.plan, lambda: None, worker.wake, CompleteSaves(settle))


def main(folder: Path) -> None:
    (folder / "data").mkdir(exist_ok=True)
    store = Store(folder / "data" / "jobs.sqlite")
    render = FakeRender()

    def held_render(generation: Generation, on_progress: OnProgress) -> Clip:
        on_progress(Progress("loading"))
        wait_until(lambda: not (folder / "hold").exists())
        return render(generation, on_progress)

    worker = Worker(store, held_render, folder / "data" / "clips", fake_write_video)
    service = services(folder, store, worker)
    watcher = watcher_of(service, store, worker)
    if not WatchStore(store).all():
        watcher.begin(service.imported_jobs.import_folder("fox", LOCAL_ACCESS).id, False, LOCAL_ACCESS)
    worker.start()
    watcher.start(QUICK)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
