"""The worker: what a job leaves behind, cancel's four races, failures, the stop. Gates instead of sleeps."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.fake_frames import fake_frames
from tests.fakes import PATIENCE, FakeRender, Gate, fake_service, fake_write_video
from tests.jobs.helpers import body, until_made
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Progress
from wan_ui.errors import DiskFull, OutOfMemory, VideoEncodingFailed
from wan_ui.job import Job
from wan_ui.jobs.clip_writer import WriteVideo
from wan_ui.jobs.runner import RenderLimits, WorkerHooks
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.media import poster, video
from wan_ui.media.clip_frames import LAST_SUFFIX
from wan_ui.request import parse, resolve


def ended(service: JobService, worker: Worker, job: Job) -> Job:
    assert worker.wait(job.id, PATIENCE), f"still {service.job(job.id, LOCAL_ACCESS).status}"
    return service.job(job.id, LOCAL_ACCESS)


def files(tmp_path: Path) -> set[str]:
    """The clips, each of which has its poster and its last frame beside it, and nothing else."""
    found = set((tmp_path / "clips").iterdir())
    beside = (poster.SUFFIX, LAST_SUFFIX)
    clips = {path for path in found if path.suffix not in beside}
    assert found - clips == {path.with_suffix(s) for path in clips if path.suffix == ".mp4" for s in beside}
    return {f"clips/{path.name}" for path in clips}


def test_one_job_with_three_prompts_leaves_three_clips(
    service: JobService, worker: Worker, render: FakeRender, tmp_path: Path
) -> None:
    worker.start()
    job = ended(service, worker, service.submit(body(7, 8, 9, trigger_word="sks"), LOCAL_ACCESS))
    assert (job.status, job.error, job.position) == ("succeeded", None, None)
    assert job.started_at and job.finished_at and job.created_at <= job.started_at <= job.finished_at
    assert [(clip.index, clip.seed) for clip in job.clips] == [(0, 7), (1, 8), (2, 9)]
    assert files(tmp_path) == {clip.file for clip in job.clips}
    for clip, generation in zip(job.clips, job.generations, strict=True):
        assert (clip.width, clip.height, clip.num_frames, clip.fps) == (64, 64, 1, 16)
        assert clip.metadata == {"recipe": "reference"}
        written = json.loads((tmp_path / clip.file).read_text())
        assert written["shape"] == list(fake_frames(generation).shape)
        assert written["fps"] == 16
    assert render.steps(8) == [1, 2]


def test_the_file_carries_the_request_that_makes_this_clip_again(
    service: JobService, worker: Worker, render: FakeRender, tmp_path: Path
) -> None:
    worker.start()
    job = ended(service, worker, service.submit(body(-1, -1, trigger_word="sks"), LOCAL_ACCESS))
    text = (tmp_path / job.clips[1].file).read_text()
    inside = json.loads(text)["metadata"]
    assert job.id not in text
    assert inside["request"]["prompts"] == [{**job.request["prompts"][1], "seed": job.clips[1].seed}]
    assert inside["request"]["trigger_word"] == "sks"
    assert inside["generation"]["seed"] == job.clips[1].seed
    again = ended(service, worker, service.submit(inside["request"], LOCAL_ACCESS))
    assert again.generations == job.generations[1:]


def test_jobs_run_one_at_a_time_in_order(service: JobService, worker: Worker, render: FakeRender) -> None:
    gate = render.gate(1, 1)
    jobs = [service.submit(body(seed), LOCAL_ACCESS) for seed in (1, 2, 3)]
    assert [job.position for job in jobs] == [1, 2, 3]
    worker.start()
    gate.await_arrival()
    assert [service.job(job.id, LOCAL_ACCESS).position for job in jobs] == [None, 1, 2]
    assert [job.id for job in service.queue(LOCAL_ACCESS)] == [job.id for job in jobs]
    assert (len(service.queue(LOCAL_ACCESS, 1)), service.waiting()) == (1, 2)
    gate.open()
    ended(service, worker, jobs[2])
    assert list(dict.fromkeys(seed for seed, _, _ in render.seen)) == [1, 2, 3]


def test_what_waits_next_is_told_while_a_clip_denoises(store: Store, render: FakeRender, tmp_path: Path) -> None:
    announced: list[int] = []
    worker = Worker(
        store,
        render,
        tmp_path / "clips",
        fake_write_video,
        hooks=WorkerHooks(next_up=lambda generation: announced.append(generation.seed)),
    )
    service = fake_service(store, worker, tmp_path)
    for seeds in ((1, 2), (3, 4), (5,)):
        job = service.submit(body(*seeds, steps=3), LOCAL_ACCESS)
    worker.start()
    ended(service, worker, job)
    assert worker.stop()
    assert announced == [3, 3, 5, 5]  # once a clip; behind the last job nothing waits


def test_a_job_whose_files_are_fetched_is_not_next(store: Store, render: FakeRender, tmp_path: Path) -> None:
    seeds: list[int] = []
    worker = Worker(
        store,
        render,
        tmp_path / "clips",
        fake_write_video,
        hooks=WorkerHooks(next_up=lambda generation: seeds.append(generation.seed)),
    )
    job = store.add(body(1), resolve(parse(body(1)), store_image=str))
    store.add(body(2), resolve(parse(body(2)), store_image=str), ready=False)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    assert worker.stop()
    assert seeds == []


def test_a_job_added_to_an_idle_worker_runs(service: JobService, worker: Worker) -> None:
    worker.start()
    assert ended(service, worker, service.submit(body(1), LOCAL_ACCESS)).status == "succeeded"
    assert ended(service, worker, service.submit(body(2), LOCAL_ACCESS)).status == "succeeded"


def test_progress_is_the_latest_moment_of_the_running_job(
    service: JobService, worker: Worker, render: FakeRender
) -> None:
    gate = render.gate(1, 2)
    job, other = service.submit(body(1, steps=5), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    assert service.progress(job.id) == Progress("denoise", 1, 5)
    assert service.progress(other.id) is None
    gate.open()
    ended(service, worker, other)
    assert worker.stop()
    assert service.progress(job.id) is None


def test_writing_the_file_is_a_phase(store: Store, render: FakeRender, tmp_path: Path) -> None:
    gate = Gate()

    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        gate.hold()
        fake_write_video(path, frames, fps, metadata)

    worker, service = _on(store, render, tmp_path, write)
    job = service.submit(body(1), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    assert service.progress(job.id) == Progress("encode", 2, 2)
    gate.open()
    ended(service, worker, job)
    assert worker.stop()


def _on(
    store: Store, render: FakeRender, tmp_path: Path, write: WriteVideo, retry_seconds: float = 5.0
) -> tuple[Worker, JobService]:
    worker = Worker(store, render, tmp_path / "clips", write, RenderLimits(retry_seconds=retry_seconds))
    return worker, fake_service(store, worker, tmp_path)


# Cancel, at each moment it can come.


def test_cancel_before_the_claim(service: JobService, worker: Worker, render: FakeRender) -> None:
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    assert service.cancel(first.id, LOCAL_ACCESS).status == "canceled"
    worker.start()
    assert ended(service, worker, second).status == "succeeded"
    assert service.job(first.id, LOCAL_ACCESS).status == "canceled"
    assert {seed for seed, _, _ in render.seen} == {2}


class GatedStore(Store):
    """Holds the worker when it has claimed a job and does not know of it yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = Gate()

    def claim_next(self) -> str | None:
        claimed = super().claim_next()
        if claimed is not None:
            self.gate.hold()
        return claimed


def test_cancel_between_claim_and_start(render: FakeRender, tmp_path: Path) -> None:
    store = GatedStore(tmp_path / "jobs.sqlite")
    worker, service = _on(store, render, tmp_path, fake_write_video)
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    store.gate.await_arrival()
    asked = service.cancel(first.id, LOCAL_ACCESS)
    assert (asked.status, asked.cancel_requested) == ("in_progress", True)
    store.gate.open()
    assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert (job.status, job.error, job.clips) == ("canceled", None, ())
    assert {seed for seed, _, _ in render.seen} == {2}
    assert worker.stop()
    store.close()


def test_cancel_while_running_stops_before_the_next_step_and_never_decodes(
    service: JobService, worker: Worker, render: FakeRender, tmp_path: Path
) -> None:
    gate = render.gate(2, 3)
    first, second = service.submit(body(1, 2, steps=9), LOCAL_ACCESS), service.submit(body(3), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    service.cancel(first.id, LOCAL_ACCESS)
    gate.open()
    assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert (job.status, job.error, [clip.index for clip in job.clips]) == ("canceled", None, [0])
    assert job.finished_at
    assert render.steps(2) == [1, 2]
    assert {phase for seed, phase, _ in render.seen if seed == 2} == {"loading", "denoise"}
    assert files(tmp_path) == {job.clips[0].file, service.job(second.id, LOCAL_ACCESS).clips[0].file}


def test_cancel_after_the_end_changes_nothing(service: JobService, worker: Worker) -> None:
    worker.start()
    job = ended(service, worker, service.submit(body(1), LOCAL_ACCESS))
    assert service.cancel(job.id, LOCAL_ACCESS) == job
    assert ended(service, worker, service.submit(body(2), LOCAL_ACCESS)).status == "succeeded"


def test_cancel_while_the_last_file_is_written_ends_canceled_and_keeps_the_clip(
    store: Store, render: FakeRender, tmp_path: Path
) -> None:
    gate = Gate()

    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        gate.hold()
        fake_write_video(path, frames, fps, metadata)

    worker, service = _on(store, render, tmp_path, write)
    job = service.submit(body(1), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    service.cancel(job.id, LOCAL_ACCESS)
    gate.open()
    job = ended(service, worker, job)
    assert (job.status, len(job.clips)) == ("canceled", 1)
    assert worker.stop()


def test_cancelling_a_waiting_job_does_not_touch_the_running_one(
    service: JobService, worker: Worker, render: FakeRender
) -> None:
    gate = render.gate(1, 1)
    running, waiting = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    assert service.cancel(waiting.id, LOCAL_ACCESS).status == "canceled"
    assert service.cancel(waiting.id, LOCAL_ACCESS).status == "canceled"
    gate.open()
    assert ended(service, worker, running).status == "succeeded"
    assert render.steps(2) == []


def test_a_cancel_never_carries_over_to_the_next_job(service: JobService, worker: Worker, render: FakeRender) -> None:
    """Cancels of the first job keep coming while the second starts."""
    gates = render.gate(1, 1), render.gate(2, 1)
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    gates[0].await_arrival()
    service.cancel(first.id, LOCAL_ACCESS)
    gates[0].open()
    gates[1].await_arrival()
    service.cancel(first.id, LOCAL_ACCESS)
    gates[1].open()
    assert ended(service, worker, second).status == "succeeded"


# Failures: the job says why, the queue goes on.


def test_a_failed_prompt_keeps_the_clips_before_it_and_is_named(
    service: JobService, worker: Worker, render: FakeRender
) -> None:
    render.errors[2] = OutOfMemory("Not enough GPU memory. Try a smaller size.", free=1)
    first, second = service.submit(body(1, 2, 3), LOCAL_ACCESS), service.submit(body(4), LOCAL_ACCESS)
    worker.start()
    assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert (job.status, [clip.index for clip in job.clips]) == ("failed", [0])
    assert job.error == {
        "code": "OUT_OF_MEMORY",
        "message": "Prompt 2 of 3: Not enough GPU memory. Try a smaller size.",
        "details": {"free": 1, "prompt": 1},
    }
    assert render.steps(3) == []


def test_an_unforeseen_failure_is_logged_whole_and_told_without_internals(
    service: JobService, worker: Worker, render: FakeRender, caplog: pytest.LogCaptureFixture
) -> None:
    render.errors[1] = KeyError("/secret/path")
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    with caplog.at_level(logging.INFO):
        worker.start()
        assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["details"]) == ("failed", "RENDER_FAILED", {"prompt": 0})
    assert "secret" not in json.dumps(job.error)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert vars(record)["request_id"] == first.id
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_a_writer_that_fails_fails_the_job(store: Store, render: FakeRender, tmp_path: Path) -> None:
    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        raise VideoEncodingFailed("The encoder broke.")

    worker, service = _on(store, render, tmp_path, write)
    worker.start()
    job = ended(service, worker, service.submit(body(1), LOCAL_ACCESS))
    assert job.error is not None
    assert (job.status, job.error["code"], job.clips) == ("failed", "VIDEO_ENCODING_FAILED", ())
    assert worker.stop()


def test_a_clips_folder_that_is_in_the_way_fails_the_job_and_the_line_goes_on(
    service: JobService, worker: Worker, render: FakeRender, tmp_path: Path
) -> None:
    gate = render.gate(2, 1)
    (tmp_path / "clips").write_text("not a folder")
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    job = ended(service, worker, first)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "HOST_ERROR")
    (tmp_path / "clips").unlink()
    gate.open()
    assert ended(service, worker, second).status == "succeeded"


def test_a_clips_folder_that_is_deleted_is_made_again(
    service: JobService, worker: Worker, render: FakeRender, store: Store, tmp_path: Path
) -> None:
    gate = render.gate(2, 1)
    job = service.submit(body(1, 2), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    until_made(store, job.id, 1)
    shutil.rmtree(tmp_path / "clips")
    gate.open()
    assert ended(service, worker, job).status == "succeeded"
    assert files(tmp_path) == {service.job(job.id, LOCAL_ACCESS).clips[1].file}


def test_a_data_folder_that_is_deleted_fails_each_job_with_the_reason(render: FakeRender, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    store = Store(data / "jobs.sqlite")
    worker, service = _on(store, render, data, fake_write_video)
    gate = render.gate(1, 1)
    jobs = [service.submit(body(seed), LOCAL_ACCESS) for seed in (1, 2)]
    worker.start()
    gate.await_arrival()
    shutil.rmtree(data)
    gate.open()
    for job in jobs:
        error = ended(service, worker, job).error
        assert error is not None
        assert (error["code"], data.exists()) == ("HOST_ERROR", False)
        assert "The folder for videos cannot be created (No such file or directory)" in error["message"]
    assert worker.stop()
    store.close()


def test_a_folder_that_cannot_be_written_fails_the_job_with_the_reason_and_the_line_goes_on(
    store: Store, render: FakeRender, tmp_path: Path
) -> None:
    """With the real writer, whose folder is a link into a file system that takes no files from anybody."""
    worker, service = _on(store, render, tmp_path, video.write)
    gate = render.gate(2, 1)
    (tmp_path / "clips").symlink_to("/proc/self")
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    error = ended(service, worker, first).error
    assert error is not None
    assert error["code"] == "VIDEO_ENCODING_FAILED"
    assert error["message"].startswith("The video could not be written (")
    (tmp_path / "clips").unlink()
    gate.open()
    assert ended(service, worker, second).status == "succeeded"
    assert worker.stop()


def test_a_full_disk_fails_the_job_with_the_reason_and_the_line_goes_on(
    store: Store, render: FakeRender, tmp_path: Path
) -> None:
    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        if metadata["generation"]["seed"] == 1:
            raise DiskFull("There is no space left on the disk for the video. Free some space and generate again.")
        fake_write_video(path, frames, fps, metadata)

    worker, service = _on(store, render, tmp_path, write)
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    assert ended(service, worker, second).status == "succeeded"
    error = service.job(first.id, LOCAL_ACCESS).error
    assert error is not None
    assert (error["code"], service.job(first.id, LOCAL_ACCESS).status) == ("DISK_FULL", "failed")
    assert worker.stop()


def test_an_end_that_cannot_be_written_is_written_later(render: FakeRender, tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite", busy_seconds=0.01)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None, check_same_thread=False)
    refused = threading.Event()

    class Refused(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Trying again" in record.getMessage() and record.threadName == "wan-ui-writer":  # the clip was refused
                refused.set()

    handler = Refused()
    logging.getLogger("wan_ui.jobs.runner").addHandler(handler)
    worker, service = _on(store, render, tmp_path, fake_write_video, retry_seconds=0.01)
    gate = render.gate(1, 1)
    first, second = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    other.execute("BEGIN IMMEDIATE")
    gate.open()
    assert refused.wait(PATIENCE)
    assert service.job(first.id, LOCAL_ACCESS).status == "in_progress"
    other.execute("ROLLBACK")
    other.close()
    assert ended(service, worker, second).status == "succeeded"
    job = service.job(first.id, LOCAL_ACCESS)
    assert job.error is not None  # its clip could not be recorded either
    assert (job.status, job.error["code"], job.clips) == ("failed", "HOST_ERROR", ())
    assert files(tmp_path) == {service.job(second.id, LOCAL_ACCESS).clips[0].file}
    assert worker.stop()
    logging.getLogger("wan_ui.jobs.runner").removeHandler(handler)
    store.close()


# The stop.


def test_stop_puts_the_running_job_back_and_counts_no_attempt(
    service: JobService, worker: Worker, render: FakeRender, store: Store, tmp_path: Path
) -> None:
    gate = render.gate(2, 2)
    first, second = service.submit(body(1, 2), LOCAL_ACCESS), service.submit(body(3), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    wait_until(lambda: worker.is_stopping)
    gate.open()
    stopper.join(PATIENCE)
    job = service.job(first.id, LOCAL_ACCESS)
    assert (job.status, job.position, job.attempts, len(job.clips)) == ("in_queue", 1, 0, 1)
    assert (service.job(second.id, LOCAL_ACCESS).status, render.steps(2), render.steps(3)) == ("in_queue", [1], [])

    rest = FakeRender()
    again, service = _on(store, rest, tmp_path, fake_write_video)
    again.start()
    assert ended(service, again, second).status == "succeeded"
    assert service.job(first.id, LOCAL_ACCESS).status == "succeeded"
    assert rest.steps(1) == []  # its clip was there
    assert again.stop()


def test_stop_of_a_canceled_job_cancels_it(service: JobService, worker: Worker, render: FakeRender) -> None:
    gate = render.gate(1, 1)
    job = service.submit(body(1), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    service.cancel(job.id, LOCAL_ACCESS)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    wait_until(lambda: worker.is_stopping)
    gate.open()
    stopper.join(PATIENCE)
    assert service.job(job.id, LOCAL_ACCESS).status == "canceled"


def test_a_step_that_outlasts_the_stop_leaves_its_job_in_line_and_its_clip_is_dropped(
    store: Store, render: FakeRender, tmp_path: Path
) -> None:
    gate, written = Gate(), []

    def write(path: Path, frames: npt.NDArray[np.uint8], fps: int, metadata: Mapping[str, Any], **_: Any) -> None:
        gate.hold()
        fake_write_video(path, frames, fps, metadata)
        written.append(path)

    worker, service = _on(store, render, tmp_path, write)
    job = service.submit(body(1), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    assert not worker.stop(timeout=0.01)
    assert (service.job(job.id, LOCAL_ACCESS).status, service.job(job.id, LOCAL_ACCESS).attempts) == ("in_queue", 0)
    gate.open()
    assert worker.stop()
    assert (len(written), files(tmp_path)) == (1, set())
    after = service.job(job.id, LOCAL_ACCESS)
    assert (after.status, after.clips) == ("in_queue", ())


def test_stop_of_an_idle_or_unstarted_worker_is_at_once(store: Store, render: FakeRender, tmp_path: Path) -> None:
    for started in (False, True):
        worker, _ = _on(store, render, tmp_path, fake_write_video)
        if started:
            worker.start()
        assert worker.stop(timeout=PATIENCE)


def test_hammering_submit_and_cancel_ends_every_job_once(
    service: JobService, worker: Worker, render: FakeRender
) -> None:
    """Four threads submit and cancel while the queue runs: nothing lost, nothing of a canceled waiting job rendered."""
    worker.start()
    ids: list[tuple[str, bool]] = []

    def client(number: int) -> None:
        for k in range(10):
            job = service.submit(body(number * 100 + k), LOCAL_ACCESS)
            canceled = k % 2 == 1 and service.cancel(job.id, LOCAL_ACCESS).status == "canceled"
            ids.append((job.id, canceled))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 40
    for job_id, _ in ids:
        assert worker.wait(job_id, PATIENCE)
    rendered = {seed for seed, _, _ in render.seen}
    for job_id, canceled in ids:
        job = service.job(job_id, LOCAL_ACCESS)
        assert job.status in ({"canceled"} if canceled else {"succeeded", "canceled"})
        if not job.cancel_requested:
            assert job.status == "succeeded"
        if job.started_at is None:
            assert job.generations[0].seed not in rendered
