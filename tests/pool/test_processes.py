"""Slots with processes of their own: renders, cancels, deaths, lost devices, and none left behind. A fake engine."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.fake_frames import fake_frames
from tests.fakes import PATIENCE, fake_service, fake_write_video
from tests.jobs.helpers import body
from tests.pool.helpers import process_slots
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.result import Progress, ignore_progress
from wan_ui.errors import Cancelled, OutOfMemory, RenderFailed, RenderTimedOut, SlotLost
from wan_ui.job import Job
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.runner import RenderLimits
from wan_ui.jobs.slot_use import SlotRules
from wan_ui.jobs.store import Store
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.worker_slot import ProcessLimits
from wan_ui.request import Generation, parse, resolve

pytestmark = pytest.mark.slow  # processes of their own
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("WAN_UI_KILLS", "10"))
JOBS = KILLS // 5  # at least
MANY = 10**6  # attempts


def clip_of(words: str, seed: int = 1, steps: int = 2) -> Generation:
    (generation,) = resolve(parse(body(seed, steps=steps)), store_image=str)
    return replace(generation, prompt=words)


def no_check() -> None:
    """A check that lets the render go on."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessSlot]:
    """A slot for the tests that leave its process as it was, or do not mind another one."""
    (slot,) = process_slots(tmp_path_factory.mktemp("slot"), 1, ProcessLimits(poll=0.01, cancel=0.5))
    yield slot
    slot.end()


def test_a_clip_comes_back_with_its_frames_and_progress(shared: ProcessSlot) -> None:
    generation, seen = clip_of("sea"), list[Progress]()
    clip = shared.render(generation, seen.append, no_check)
    assert np.array_equal(clip.frames, fake_frames(generation))
    assert clip.metadata == {"pid": shared.pid} and shared.pid != os.getpid()
    moments = [(progress.phase, progress.step) for progress in seen]
    assert moments[-3:] == [
        ("loading", 0),
        ("denoise", 1),
        ("denoise", 2),
    ]
    again = shared.render(generation, ignore_progress, no_check)
    assert again.metadata == clip.metadata  # the same process
    assert (shared.device_name, shared.is_started) == ("fake GPU", True)


def test_errors_come_back_with_their_types(shared: ProcessSlot) -> None:
    with pytest.raises(OutOfMemory, match=r"Not enough memory\."):
        shared.render(clip_of("fail"), ignore_progress, no_check)
    with pytest.raises(RenderFailed):
        shared.render(clip_of("broken"), ignore_progress, no_check)
    assert shared.render(clip_of("sea"), ignore_progress, no_check).seed == 1


def test_a_cancel_ends_the_render_before_its_next_step(shared: ProcessSlot) -> None:
    shared.render(clip_of("sea"), ignore_progress, no_check)
    pid, steps = shared.pid, list[int]()

    def on_progress(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 1:
            raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        shared.render(clip_of("slow", steps=150), on_progress, no_check)
    assert max(steps) == 1
    assert shared.render(clip_of("sea"), ignore_progress, no_check).metadata == {"pid": pid}


@pytest.mark.parametrize("error", [Cancelled("Canceled."), RenderTimedOut("Too long.")], ids=["cancel", "timeout"])
def test_a_process_that_does_not_stop_is_killed(shared: ProcessSlot, error: Exception) -> None:
    shared.render(clip_of("sea"), ignore_progress, no_check)
    pid, is_hanging = shared.pid, threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.step == 1:
            is_hanging.set()

    def check() -> None:
        if is_hanging.is_set():
            raise error

    with pytest.raises(type(error)):
        shared.render(clip_of("hang"), on_progress, check)
    assert not shared.is_started and pid is not None and not psutil.pid_exists(pid)


@pytest.mark.parametrize("error", [Cancelled("Canceled."), RenderTimedOut("Too long.")], ids=["cancel", "timeout"])
def test_one_that_is_still_being_started_is_ended(tmp_path: Path, error: Exception) -> None:
    (slot,) = process_slots(tmp_path, 1, ProcessLimits(poll=0.01))

    def check() -> None:
        raise error

    with pytest.raises(type(error)):
        slot.render(clip_of("sea"), ignore_progress, check)
    assert not slot.is_started
    assert slot.render(clip_of("sea"), ignore_progress, no_check).seed == 1
    assert slot.device_name == "fake GPU"
    slot.end()


def test_a_process_that_the_system_does_not_start_is_a_failed_start(tmp_path: Path) -> None:
    (slot,) = process_slots(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SlotLost, match="GPU 0 cannot be used: Too many open files") as lost:
            slot.render(clip_of("sea"), ignore_progress, no_check)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert lost.value.details["started"] is False and not slot.is_started


def test_a_signal_to_stop_that_reaches_all_processes_leaves_this_one_to_the_server(shared: ProcessSlot) -> None:
    shared.render(clip_of("sea"), ignore_progress, no_check)
    pid = shared.pid
    assert pid is not None

    def on_progress(progress: Progress) -> None:
        if progress.step == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(pid, number)

    clip = shared.render(clip_of("slow", steps=20), on_progress, no_check)
    assert clip.metadata == {"pid": pid}


def test_a_process_that_dies_is_reported_and_replaced(shared: ProcessSlot) -> None:
    with pytest.raises(SlotLost, match="exit code -9"):
        shared.render(clip_of("die", seed=11), ignore_progress, no_check)
    assert shared.render(clip_of("die", seed=11), ignore_progress, no_check).seed == 11


def test_a_lost_device_ends_the_process_and_not_the_server(shared: ProcessSlot) -> None:
    with pytest.raises(SlotLost, match=r"The GPU failed\.") as lost:
        shared.render(clip_of("lost", seed=12), ignore_progress, no_check)
    assert lost.value.details["after"] == "DEVICE_LOST"
    assert shared.render(clip_of("lost", seed=12), ignore_progress, no_check).seed == 12


def test_one_that_ended_while_unused_is_replaced_unnoticed(shared: ProcessSlot) -> None:
    shared.render(clip_of("sea"), ignore_progress, no_check)
    assert shared.pid is not None
    process = psutil.Process(shared.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie has threads that still run, for a moment
    assert not shared.is_started
    assert shared.render(clip_of("sea"), ignore_progress, no_check).metadata != {"pid": process.pid}


def test_a_device_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (slot,) = process_slots(tmp_path, 1, device="unusable")
    with pytest.raises(SlotLost, match=r"GPU 0 cannot be used: This device cannot be used\.") as lost:
        slot.render(clip_of("sea"), ignore_progress, no_check)
    assert lost.value.details["started"] is False and not slot.is_started


def test_killed_processes_end_every_job_once_with_whole_clips(tmp_path: Path) -> None:
    """KILLS seeded SIGKILLs over three slots and at least JOBS jobs: each clip is there once, with its own frames."""
    draws, began = random.Random(16), time.perf_counter()
    store = Store(tmp_path / "jobs.sqlite")
    slots = process_slots(tmp_path, 3, ProcessLimits(poll=0.02))
    dispatcher = Dispatcher(
        store,
        slots,
        tmp_path / "clips",
        fake_write_video,
        RenderLimits(max_attempts=MANY),
        rules=SlotRules(pause=0.01, longest_pause=0.05),
    )
    service = fake_service(store, dispatcher, tmp_path)
    dispatcher.start()
    jobs: list[Job] = []
    killed, seed = 0, 0
    while killed < KILLS or len(jobs) < JOBS:
        if service.waiting() < 2:
            request = body(seed, seed + 1, seed + 2, steps=draws.randrange(5, 30))
            seed += 3
            for prompt in request["prompts"]:
                prompt["prompt"] = "slow"
            jobs.append(service.submit(request, LOCAL_ACCESS))
        victim = draws.choice(slots)
        state = next(state for state in dispatcher.slots() if state.name == victim.name)
        on_its_way = state.running is not None and state.running.progress.step > 0
        if killed < KILLS and on_its_way and (pid := victim.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            killed += 1
            wait_until(lambda pid=pid, slot=victim: slot.pid != pid)  # type: ignore[misc]
        else:
            wait_until(lambda: any(each.running and each.running.progress.step for each in dispatcher.slots()))
    for job in jobs:
        assert dispatcher.wait(job.id, PATIENCE)
    ended = [store.job(job.id) for job in jobs]
    assert dispatcher.stop()
    assert {job.status for job in ended} == {"succeeded"}
    assert all([clip.index for clip in job.clips] == [0, 1, 2] for job in ended)
    files = {clip.file for job in ended for clip in job.clips}
    assert {f"clips/{path.name}" for path in (tmp_path / "clips").glob("*.mp4")} == files
    attempts = sum(job.attempts for job in ended)
    print(f"{killed} kills over {len(jobs)} jobs, {attempts} attempts counted, {time.perf_counter() - began:.0f} s")
    assert attempts <= KILLS
    assert not any(slot.is_started for slot in slots)
    store.close()


def test_no_process_outlives_a_killed_server(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.pool.slots_program", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    pids = [int(server.stdout.readline()) for _ in range(2)]
    assert all(psutil.pid_exists(pid) for pid in pids)
    server.kill()
    server.wait(PATIENCE)
    server.stdout.close()
    wait_until(lambda: not any(_runs(pid) for pid in pids), 10.0)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
