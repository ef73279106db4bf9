"""A short run of the queue, to be recorded: a first frame, three requests, two of them rendered into real MP4s.

`python -m tests.jobs.recorded_run DATA_DIR`; a line of DATA_DIR/../accepted.txt is written when a request is accepted.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.fakes import FakeRender
from wan_ui.access import LOCAL_ACCESS
from wan_ui.files import create_folder
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore

SIZE = {"width": 64, "height": 64, "num_frames": 5}


def no_fetch(url: str) -> bytes:
    """Nothing is fetched here."""
    raise AssertionError(url)


def main(data: Path) -> None:
    """Accepts three requests and renders the first two."""
    create_folder(data)
    store, render = Store(data / "jobs.sqlite"), FakeRender()
    worker = Worker(store, render, data / "clips", video.write)
    library = Library(data.parent, data / "uploads", owners=store)
    service = JobService(library, ImageStore(data / "images", no_fetch, owners=store), store, worker, data)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    image = service.images.put_bytes(buffer.getvalue(), LOCAL_ACCESS)
    with (data.parent / "accepted.txt").open("wb", buffering=0) as accepted:
        jobs = []
        for seed in (1, 2, 3):
            prompt = {"prompt": f"fox {seed}", "seed": seed, **SIZE, "ctrl_img": f"upload://{image}"}
            jobs.append(service.submit({"model": "wan21_i2v_14b", "prompts": [prompt]}, LOCAL_ACCESS).id)
            accepted.write(f"{jobs[-1]}\n".encode())
        worker.start()
        assert worker.wait(jobs[0], 120) and worker.wait(jobs[1], 120)
        service.cancel(jobs[2], LOCAL_ACCESS)
        assert worker.wait(jobs[2], 120) and worker.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
