"""Nothing waits for a clip's file: it is written while the next clip, cell or job is rendered. Gates, no clock."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from tests.fakes import PATIENCE, FakeRender, Gate, fake_service, fake_write_video
from tests.jobs.helpers import body, until_made
from tests.jobs.test_crash import add, kill, start_stuck
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.serializers import progress_of
from wan_ui.engine.result import Progress
from wan_ui.errors import DiskFull, QueueStopped, RenderTimedOut, VideoEncodingFailed, WanUIError
from wan_ui.job import Job, Status
from wan_ui.jobs.runner import RenderLimits, Running
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.ui import player


class GatedWriter:
    """The fake writer, held before the file of a seed, and failing where it should."""

    def __init__(self) -> None:
        self.gates: dict[int, Gate] = {}
        self.errors: dict[int, WanUIError] = {}
        self.written: list[int] = []

    def __call__(
        self, path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any
    ) -> None:
        seed = metadata["generation"]["seed"]
        if seed in self.gates:
            self.gates[seed].hold()
        if seed in self.errors:
            raise self.errors[seed]
        fake_write_video(path, frames, fps, metadata)
        self.written.append(seed)

    def gate(self, seed: int) -> Gate:
        gate = self.gates[seed] = Gate()
        return gate


@pytest.fixture
def writer() -> GatedWriter:
    return GatedWriter()


@pytest.fixture
def worker(store: Store, render: FakeRender, writer: GatedWriter, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(store, render, tmp_path / "clips", writer, RenderLimits(retry_seconds=0.01))
    yield worker
    for gate in (*writer.gates.values(), *render.gates.values()):
        gate.open()
    assert worker.stop(PATIENCE)


@pytest.fixture
def service(store: Store, worker: Worker, tmp_path: Path) -> JobService:
    return fake_service(store, worker, tmp_path)


def ended(service: JobService, worker: Worker, job: Job) -> Job:
    assert worker.wait(job.id, PATIENCE), f"still {service.job(job.id, LOCAL_ACCESS).status}"
    return service.job(job.id, LOCAL_ACCESS)


def seeds(*values: int) -> dict[str, Any]:
    return {**body(1), "compare": {"columns": {"field": "seed", "values": list(values)}}}


def both_held(writer: GatedWriter, render: FakeRender, worker: Worker) -> tuple[Gate, Gate]:
    """The writer stands before seed 1's file while the render stands in seed 2's first step."""
    writing, rendering = writer.gate(1), render.gate(2, 1)
    worker.start()
    writing.await_arrival()
    rendering.await_arrival()
    return writing, rendering


def status(service: JobService, *jobs: Job) -> list[Status]:
    return [service.job(job.id, LOCAL_ACCESS).status for job in jobs]


def test_the_next_clip_is_rendered_while_one_is_written(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    job = service.submit(body(1, 2), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    assert service.running(job.id, LOCAL_ACCESS) == Running(job.id, 1, 2, Progress("loading", 0, 2), writing=0)
    assert (service.job(job.id, LOCAL_ACCESS).status, service.job(job.id, LOCAL_ACCESS).clips) == ("in_progress", ())
    rendering.open()
    writing.open()
    job = ended(service, worker, job)
    assert (job.status, [clip.seed for clip in job.clips]) == ("succeeded", [1, 2])


def test_the_next_job_is_rendered_and_ends_after(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    assert status(service, first, second) == ["in_progress", "in_progress"]
    assert [job.id for job in service.queue(LOCAL_ACCESS)] == [first.id, second.id]
    assert service.progress(first.id) == Progress("encode", 2, 2)
    assert service.progress(second.id) == Progress("loading", 0, 2)
    at_work = worker.at_work()
    assert at_work is not None and at_work.job_id == second.id
    rendering.open()
    writing.open()
    first, second = ended(service, worker, first), ended(service, worker, second)
    assert first.status == second.status == "succeeded"
    assert first.finished_at and second.finished_at and first.finished_at <= second.finished_at
    assert writer.written == [1, 2]


def test_a_job_that_fails_meanwhile_ends_after_the_one_before(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    writing, third = writer.gate(1), render.gate(3, 1)
    render.errors[2] = VideoEncodingFailed("The encoder broke.")
    jobs = [service.submit(body(seed), LOCAL_ACCESS) for seed in (1, 2, 3)]
    worker.start()
    third.await_arrival()
    assert status(service, *jobs) == ["in_progress"] * 3
    writing.open()
    third.open()
    ended(service, worker, jobs[2])
    assert status(service, *jobs) == ["succeeded", "failed", "succeeded"]


def test_a_cell_is_written_while_the_next_is_rendered(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    job = service.submit(seeds(1, 2, 3), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    running, job = service.running(job.id, LOCAL_ACCESS), service.job(job.id, LOCAL_ACCESS)
    assert running is not None
    assert [player.state(job, cell, running) for cell in job.cells] == ["writing", "running", "waiting"]
    assert [progress_of(running, index) for index in range(3)] == [Progress("encode"), running.progress, None]
    assert running.progress.note == "cell 2 of 3"
    rendering.open()
    writing.open()
    assert ended(service, worker, job).status == "succeeded"


# Failures


def until_failed(worker: Worker, job_id: str) -> None:
    """Returns when the writer has noted what ends the job: it writes nothing of it any more."""
    wait_until(lambda: (running := worker.running(job_id)) is not None and running.writing is None)


def test_a_file_that_cannot_be_written_ends_its_job_and_what_is_rendered_of_it(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter, tmp_path: Path
) -> None:
    writer.errors[1] = VideoEncodingFailed("The encoder broke.")
    first, second = service.submit(body(1, 2, 3), LOCAL_ACCESS), service.submit(body(4), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    writing.open()
    until_failed(worker, first.id)
    rendering.open()
    assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert (job.status, job.clips) == ("failed", ())
    assert job.error is not None
    assert (job.error["code"], job.error["message"]) == (
        "VIDEO_ENCODING_FAILED",
        "Prompt 1 of 3: The encoder broke.",
    )
    assert (render.steps(2), render.steps(3)) == ([], [])
    assert writer.written == [4]
    assert {path.suffix for path in (tmp_path / "clips").iterdir()} == {".mp4", ".jpg", ".png"}


def test_a_file_that_cannot_be_written_marks_its_cell_and_the_rest_goes_on(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    writer.errors[1] = VideoEncodingFailed("The encoder broke.")
    job = service.submit(seeds(1, 2, 3), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    rendering.open()
    writing.open()
    job = ended(service, worker, job)
    assert job.error is not None
    assert (job.status, job.error["code"], [clip.seed for clip in job.clips]) == ("failed", "CELLS_FAILED", [2, 3])
    assert {index: error["code"] for index, error in job.failures.items()} == {0: "VIDEO_ENCODING_FAILED"}


def test_a_full_disk_ends_a_comparison_and_what_is_rendered_of_it(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    writer.errors[1] = DiskFull("There is no space left on the disk for the video.")
    job = service.submit(seeds(1, 2, 3), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    writing.open()
    until_failed(worker, job.id)
    rendering.open()
    job = ended(service, worker, job)
    assert job.error is not None
    assert (job.status, job.error["code"], job.clips, job.failures) == ("failed", "DISK_FULL", (), {})
    assert render.steps(2) == []


# Cancel


def test_a_cancel_keeps_the_clip_that_is_being_written(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    first, second = service.submit(body(1, 2), LOCAL_ACCESS), service.submit(body(3), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    assert service.cancel(first.id, LOCAL_ACCESS).status == "in_progress"
    rendering.open()
    writing.open()
    assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert (job.status, job.error, [clip.seed for clip in job.clips]) == ("canceled", None, [1])
    assert render.steps(2) == []


@pytest.mark.parametrize("struck", [0, 1])
def test_a_cancel_of_one_of_two_jobs_does_not_touch_the_other(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter, struck: int
) -> None:
    jobs = [service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)]
    writing, rendering = both_held(writer, render, worker)
    service.cancel(jobs[struck].id, LOCAL_ACCESS)
    rendering.open()
    writing.open()
    ended(service, worker, jobs[1])
    assert status(service, *jobs) == [["canceled", "succeeded"], ["succeeded", "canceled"]][struck]
    assert [len(service.job(job.id, LOCAL_ACCESS).clips) for job in jobs] == [1, 1 - struck]


# The stop


def test_a_stop_writes_what_was_rendered(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter, store: Store
) -> None:
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2, 3), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    stopper = threading.Thread(target=worker.stop, args=(PATIENCE,))
    stopper.start()
    wait_until(lambda: worker.is_stopping)
    rendering.open()
    writing.open()
    stopper.join(PATIENCE)
    assert status(service, first, second) == ["succeeded", "in_queue"]
    assert [service.job(job.id, LOCAL_ACCESS).attempts for job in (first, second)] == [0, 0]
    assert render.steps(2) == []


def test_a_file_that_outlasts_the_stop_leaves_both_jobs_in_line(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter, tmp_path: Path
) -> None:
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    assert not worker.stop(timeout=0.01)
    assert status(service, first, second) == ["in_queue", "in_queue"]
    assert [service.job(job.id, LOCAL_ACCESS).attempts for job in (first, second)] == [0, 0]
    rendering.open()
    writing.open()
    assert worker.stop(PATIENCE)
    assert writer.written == [1]
    assert list((tmp_path / "clips").iterdir()) == []  # nobody waits for it any more
    assert status(service, first, second) == ["in_queue", "in_queue"]


def test_a_file_that_is_never_done_fails_its_job_and_the_next_stays_in_line(
    service: JobService, worker: Worker, render: FakeRender, writer: GatedWriter
) -> None:
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    writing, rendering = both_held(writer, render, worker)
    worker.watch(1e-6)  # both take longer than that by now; the older one is given up, and it ends
    job = service.job(first.id, LOCAL_ACCESS)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "RENDER_TIMED_OUT")
    assert isinstance(worker.broken, RenderTimedOut)
    assert not worker.stop(PATIENCE)  # at once
    assert (service.job(second.id, LOCAL_ACCESS).status, service.job(second.id, LOCAL_ACCESS).attempts) == (
        "in_queue",
        0,
    )
    rendering.open()
    writing.open()
    wait_until(worker.stop)  # when both threads have ended
    assert status(service, first, second) == ["failed", "in_queue"]


class EndBreaks(Store):
    def finish(
        self, job_id: str, status: Literal["succeeded", "failed", "canceled"], error: Mapping[str, Any] | None = None
    ) -> Status | None:
        raise sqlite3.OperationalError("no such column")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writing_thread_that_ends_is_said(tmp_path: Path, render: FakeRender) -> None:
    store = EndBreaks(tmp_path / "jobs.sqlite")
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    service = fake_service(store, worker, tmp_path)
    job = service.submit(body(1), LOCAL_ACCESS)
    worker.start()
    wait_until(lambda: worker.broken is not None)
    assert isinstance(worker.broken, QueueStopped)
    until_made(store, job.id, 1)
    assert worker.stop(PATIENCE)
    store.close()


# A killed process


@pytest.mark.slow
def test_a_kill_while_one_is_written_and_the_next_is_rendered_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    first, second, third = add(store, -1), add(store, 2), add(store, 3)
    kill(start_stuck(tmp_path, 2, "behind"))
    assert [store.job(job.id).status for job in (first, second, third)] == ["in_progress", "in_progress", "in_queue"]
    assert store.job(first.id).clips == ()
    render = FakeRender()
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    worker.recover()
    assert [job.id for job in store.unfinished()] == [first.id, second.id, third.id]
    assert {path.name for path in (tmp_path / "clips").iterdir()} == set()
    worker.start()
    assert worker.wait(third.id, PATIENCE)
    assert worker.stop(PATIENCE)
    drawn = first.generations[0].seed
    assert list(dict.fromkeys(seed for seed, _, _ in render.seen)) == [drawn, 2, 3]
    for job in (first, second, third):
        done = store.job(job.id)
        assert (done.status, len(done.clips)) == ("succeeded", 1)
        assert (tmp_path / done.clips[0].file).is_file()
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 3
    store.close()
