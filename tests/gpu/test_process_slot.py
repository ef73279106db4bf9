"""A GPU whose engine runs in a process of its own: inline's frames, a cancel, a process that is killed, and the end.

The jobs go through the dispatcher, as in a server that was started with `--gpus 0`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import fake_service, fake_write_video
from tests.golden_cases import CHECKPOINTS, LORAS, cases
from tests.jobs.helpers import body
from tests.waiting import wait_until
from wan_ui import Engine
from wan_ui.access import LOCAL_ACCESS
from wan_ui.config import Settings
from wan_ui.engine.result import ignore_progress
from wan_ui.intake import prepare
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.lora.library import Library
from wan_ui.pool.gpus import gpu_memory, list_gpus, slot_devices, visible
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.slots import SlotDevice
from wan_ui.request import Generation

pytestmark = pytest.mark.gpu
CASES = ("wan22_14b_t2v", "wan22_5b_t2v")
STEPS = 150  # of a render that is stopped before its end
LIMIT = 120.0  # seconds for a process that imports torch, and its render
LEFT = 64 << 20  # bytes of GPU memory that may differ with nothing of ours on it


@pytest.fixture(scope="module")
def device() -> SlotDevice:
    """The first GPU, found as the server finds it with `--gpus 0`."""
    (found,) = slot_devices((0,), visible(list_gpus(), os.environ))
    return found


@pytest.fixture
def slot(device: SlotDevice, tmp_path: Path) -> Iterator[ProcessSlot]:
    settings = Settings(models_dir=CHECKPOINTS, lora_dir=LORAS, data_dir=tmp_path, compile="off")
    slot = ProcessSlot(device, EngineOptions.of(settings))
    yield slot
    slot.end()


@pytest.fixture
def dispatcher(slot: ProcessSlot, store: Store, tmp_path: Path) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(store, [slot], tmp_path / "clips", fake_write_video)
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()


@pytest.fixture
def service(dispatcher: Dispatcher, store: Store, tmp_path: Path) -> JobService:
    return fake_service(store, dispatcher, tmp_path)


def free(device: SlotDevice) -> int:
    """Bytes of the GPU's memory that nothing uses, by nvidia-smi."""
    memory = gpu_memory([device])
    assert memory is not None
    return memory.free


def generation_of(name: str, engine: Engine) -> Generation:
    (case,) = (case for case in cases() if case.name == name)
    prepared = prepare(case.request, Library(LORAS), engine.images, engine.checkpoints.transformer_config, LOCAL_ACCESS)
    return prepared.generations[0]


def until_at_work(dispatcher: Dispatcher, slot: ProcessSlot, after: int | None = None) -> int:
    """The id of the slot's process once it is in the middle of a render, and not the process `after`."""

    def process() -> int | None:
        (state,) = dispatcher.slots()
        at_work = state.running is not None and state.running.progress.step > 0
        return slot.pid if at_work and slot.pid != after else None

    found = wait_until(process, LIMIT, state=dispatcher.slots)
    assert found is not None
    return found


def test_the_frames_of_the_servers_own_process_and_nothing_left_on_the_card(
    slot: ProcessSlot, device: SlotDevice, tmp_path: Path
) -> None:
    before = free(device)
    engine = Engine(CHECKPOINTS, LORAS, data_dir=tmp_path / "inline", compile="off")
    generations = [generation_of(name, engine) for name in CASES]
    inline = [engine.render(generation, ignore_progress).frames for generation in generations]
    engine.close()
    for generation, frames in zip(generations, inline, strict=True):
        clip = slot.render(generation, ignore_progress, lambda: None)
        assert clip.metadata["device"] == device.model == slot.device_name
        assert np.array_equal(clip.frames, frames)
    with_process = free(device)
    slot.end()
    wait_until(lambda: free(device) > with_process + LEFT, every=0.2, state=lambda: free(device))
    # This process's own CUDA context may have been made in this test.
    print(f"\nGPU memory free: {before} before, {with_process} with the process, {free(device)} after its end")


def test_a_cancel_ends_the_job_and_keeps_the_process(
    dispatcher: Dispatcher, service: JobService, slot: ProcessSlot, store: Store
) -> None:
    canceled = service.submit(body(1, steps=STEPS), LOCAL_ACCESS)
    process = until_at_work(dispatcher, slot)
    dispatcher.cancel(canceled.id)
    assert dispatcher.wait(canceled.id, LIMIT)
    assert store.job(canceled.id).status == "canceled"
    following = service.submit(body(2), LOCAL_ACCESS)
    assert dispatcher.wait(following.id, LIMIT)
    assert store.job(following.id).status == "succeeded"
    assert slot.pid == process


def test_a_killed_process_costs_an_attempt_and_leaves_nothing_on_the_card(
    dispatcher: Dispatcher, service: JobService, slot: ProcessSlot, store: Store, device: SlotDevice
) -> None:
    before = free(device)
    job = service.submit(body(1, steps=STEPS), LOCAL_ACCESS)
    killed = until_at_work(dispatcher, slot)
    os.kill(killed, signal.SIGKILL)
    second = until_at_work(dispatcher, slot, after=killed)
    assert dispatcher.wait(job.id, LIMIT)
    ended = store.job(job.id)
    assert (ended.status, [clip.index for clip in ended.clips]) == ("succeeded", [0])
    assert slot.pid == second != killed
    assert dispatcher.stop()
    assert not slot.is_started
    wait_until(lambda: abs(free(device) - before) < LEFT, every=0.2, state=lambda: free(device))
