"""What was rendered here of a training job's samples: the newest clip of each sample at each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_ui.job import Job


@dataclass(frozen=True)
class SampleRender:
    """One generation of a request that names a training sample; `is_done`: its clip is there."""

    step: int | None
    sample: int
    request_id: str
    video: int
    status: str
    is_done: bool


def sample_renders(jobs: Iterable[Job], job_id: str) -> list[SampleRender]:
    """The newest render of each step and sample of a training job, of `jobs` from the newest to the oldest.

    A render that waits or runs counts; one that failed or was canceled without a clip does not.
    """
    newest: dict[tuple[int | None, int], SampleRender] = {}
    for job in jobs:
        for render in _of(job, job_id):
            newest.setdefault((render.step, render.sample), render)
    return sorted(newest.values(), key=lambda render: (render.step or 0, render.sample))


def _of(job: Job, job_id: str) -> Iterator[SampleRender]:
    made = {clip.index for clip in job.clips}
    is_live = job.status in ("in_queue", "in_progress")
    for index in range(len(job.generations)):
        if index not in made and not is_live:
            continue
        sample = job.training_sample(index)
        if sample is not None and sample.job == job_id and sample.sample is not None:
            yield SampleRender(sample.step, sample.sample, job.id, index, job.status, index in made)
