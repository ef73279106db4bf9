"""What ends the process instead of the job alone: a dead device, a render that never returns, a line that broke."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import PATIENCE, FakeRender, fake_service, fake_write_video
from tests.forked import run_forked
from tests.jobs.helpers import body
from tests.jobs.queue_program import run_process
from tests.jobs.supervised import a_dead_context_ends_its_job_and_the_rest_runs_after_a_restart
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import DeviceLost, OutOfMemory, QueueStopped, RenderTimedOut
from wan_ui.inference import Engine, device_lost
from wan_ui.jobs.runner import RenderLimits, WorkerHooks
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.request import Generation, parse, resolve

pytestmark = pytest.mark.slow


def until_broken(worker: Worker) -> None:
    wait_until(lambda: worker.broken is not None)


@pytest.mark.slow
def test_a_process_whose_device_died_ends_with_70_and_the_next_finishes_the_line(tmp_path: Path) -> None:
    def run(arguments: list[str]) -> tuple[int, str]:
        return run_forked(run_process, arguments, output=tmp_path / "output.txt")

    a_dead_context_ends_its_job_and_the_rest_runs_after_a_restart(tmp_path, "cpu", run)


def test_a_dead_device_fails_its_job_and_no_other_is_begun(store: Store, render: FakeRender, tmp_path: Path) -> None:
    render.errors[1] = RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")

    def check() -> None:
        raise device_lost(RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it"))

    worker = Worker(store, render, tmp_path / "clips", fake_write_video, hooks=WorkerHooks(check_device=check))
    service = fake_service(store, worker, tmp_path)
    struck, waiting = service.submit(body(1), LOCAL_ACCESS), service.submit(body(2), LOCAL_ACCESS)
    worker.start()
    until_broken(worker)
    assert isinstance(worker.broken, DeviceLost)
    assert worker.broken.exit_code == 70
    job = service.job(struck.id, LOCAL_ACCESS)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["details"]["after"]) == ("failed", "DEVICE_LOST", "RENDER_FAILED")
    assert "(CUDA error: an illegal memory access was encountered)" in job.error["message"]
    assert "more of it" not in json.dumps(job.error)
    assert service.job(waiting.id, LOCAL_ACCESS).status == "in_queue"
    assert worker.stop()
    assert render.steps(2) == []


def test_a_dead_device_ends_a_comparison_instead_of_one_cell(store: Store, tmp_path: Path) -> None:
    def check() -> None:
        raise device_lost(RuntimeError("CUDA error: unknown error"))

    render = FakeRender(errors={2: OutOfMemory("Not enough.")})
    worker = Worker(store, render, tmp_path / "clips", fake_write_video, hooks=WorkerHooks(check_device=check))
    service = fake_service(store, worker, tmp_path)
    job = service.submit({**body(1), "compare": {"columns": {"field": "seed", "values": [1, 2, 3]}}}, LOCAL_ACCESS)
    worker.start()
    until_broken(worker)
    job = service.job(job.id, LOCAL_ACCESS)
    assert job.error is not None
    assert (job.status, job.error["code"], len(job.clips)) == ("failed", "DEVICE_LOST", 1)
    assert worker.stop()


def test_nothing_of_a_failed_render_is_held_when_the_device_is_checked(store: Store, tmp_path: Path) -> None:
    """Else the next render finds the memory of the last one still taken."""
    made: list[weakref.ref[np.ndarray]] = []
    left: list[bool] = []

    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        activations = np.zeros(1000)
        made.append(weakref.ref(activations))
        try:
            raise RuntimeError(f"no room for {activations.nbytes}")
        except RuntimeError as error:
            raise OutOfMemory("The GPU ran out of memory.") from error

    worker = Worker(
        store,
        render,
        tmp_path / "clips",
        fake_write_video,
        hooks=WorkerHooks(check_device=lambda: left.append(made[-1]() is not None)),
    )
    service = fake_service(store, worker, tmp_path)
    job = service.submit({**body(1), "compare": {"columns": {"field": "seed", "values": [1, 2]}}}, LOCAL_ACCESS)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    assert worker.stop()
    assert left and not any(left)


class Stuck(FakeRender):
    """Never returns from a seed's first step, until the test is over."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.over = seed, threading.Event()

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        on_progress(Progress("denoise", 0, 2))
        if generation.seed == self.seed:
            self.over.wait()
        return super().__call__(generation, on_progress)


def test_a_render_that_never_returns_fails_its_job(store: Store, tmp_path: Path) -> None:
    render = Stuck(2)
    worker = Worker(store, render, tmp_path / "clips", fake_write_video, RenderLimits(timeout=4.0))
    service = fake_service(store, worker, tmp_path)
    stuck, waiting = service.submit(body(1, 2), LOCAL_ACCESS), service.submit(body(3), LOCAL_ACCESS)
    worker.start()
    until_broken(worker)
    assert isinstance(worker.broken, RenderTimedOut)
    job = service.job(stuck.id, LOCAL_ACCESS)
    assert job.error is not None
    assert (job.status, job.error["code"], [clip.index for clip in job.clips]) == ("failed", "RENDER_TIMED_OUT", [0])
    assert job.error["message"].startswith("Prompt 2 of 2: This took longer than the 4 s")
    assert not worker.stop(timeout=PATIENCE)  # at once: that thread will not come back
    render.over.set()  # should it come back before the process ends, it changes nothing any more
    wait_until(worker.stop)  # when its threads have ended
    assert service.job(stuck.id, LOCAL_ACCESS) == job
    assert (service.job(waiting.id, LOCAL_ACCESS).status, render.steps(3)) == ("in_queue", [])


@pytest.mark.slow
def test_the_time_of_a_download_does_not_count(store: Store, tmp_path: Path) -> None:
    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        end = time.monotonic() + 3.0

        def downloaded() -> bool:
            on_progress(Progress("downloading"))
            return time.monotonic() >= end

        wait_until(downloaded)
        return FakeRender()(generation, on_progress)

    worker = Worker(store, render, tmp_path / "clips", fake_write_video, RenderLimits(timeout=2.0))
    service = fake_service(store, worker, tmp_path)
    job = service.submit(body(1), LOCAL_ACCESS)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    assert worker.stop()
    assert (service.job(job.id, LOCAL_ACCESS).status, worker.broken) == ("succeeded", None)


@pytest.mark.slow
def test_the_limit_is_each_videos_own(store: Store, tmp_path: Path) -> None:
    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        end = time.monotonic() + 0.75  # seven of these are longer than the limit
        wait_until(lambda: time.monotonic() >= end)
        return FakeRender()(generation, on_progress)

    worker = Worker(store, render, tmp_path / "clips", fake_write_video, RenderLimits(timeout=5.0))
    service = fake_service(store, worker, tmp_path)
    job = service.submit(body(*range(7)), LOCAL_ACCESS)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    assert worker.stop()
    assert service.job(job.id, LOCAL_ACCESS).status == "succeeded"


class LineBreaks(Store):
    def claim_next(self) -> str | None:
        raise sqlite3.OperationalError("no such column")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_is_said(tmp_path: Path, render: FakeRender) -> None:
    store = LineBreaks(tmp_path / "jobs.sqlite")
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    worker.start()
    until_broken(worker)
    assert isinstance(worker.broken, QueueStopped)
    assert worker.stop()
    store.close()


def test_a_cpu_and_a_good_device_pass_the_check(tmp_path: Path) -> None:
    engine = Engine(tmp_path, tmp_path, "cpu")
    engine.check()
    engine.close()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory\nmore"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_way_in_which_gpu_memory_runs_out_is_said_and_lets_the_model_go(
    tmp_path: Path, error: RuntimeError
) -> None:
    engine = Engine(tmp_path, tmp_path, "cpu")
    closed: list[bool] = []

    class NoRoom:
        def generate(self, *_: object) -> Clip:
            raise error

        def close(self) -> None:
            closed.append(True)

    engine.core = NoRoom()  # type: ignore[assignment]
    (generation,) = resolve(parse(body(1)), store_image=str)
    with pytest.raises(OutOfMemory):
        engine.render(generation, lambda progress: None)
    assert closed == [True]
