"""Small requests for the tests of the queue."""

from __future__ import annotations

from typing import Any

from tests.waiting import wait_until
from wan_ui.jobs.store import Store


def until_made(store: Store, job_id: str, clips: int) -> None:
    """Returns once the job has so many clips: they are written while the next one is rendered."""
    wait_until(lambda: len(store.job(job_id).clips) >= clips, state=lambda: store.job(job_id).clips)


def body(*seeds: int, steps: int = 2, **fields: Any) -> dict[str, Any]:
    """A text-to-video request with one tiny prompt per seed."""
    prompts = [
        {"prompt": f"clip {seed}", "width": 64, "height": 64, "num_frames": 1, "sample_steps": steps, "seed": seed}
        for seed in seeds
    ]
    return {"model": "wan21_1b", "prompts": prompts, **fields}
