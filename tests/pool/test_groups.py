"""Slots that render one clip together: real engines in processes of their own, over gloo on the CPU."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.fakes import PATIENCE
from tests.golden_cases import CHECKPOINTS, LORAS, cases, differences
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import Settings
from wan_ui.engine.result import Progress, ignore_progress
from wan_ui.engine.split import Split, split_of
from wan_ui.errors import Cancelled, SlotLost
from wan_ui.intake import prepare
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore
from wan_ui.pool.groups import SlotGroup
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.slots import SlotDevice
from wan_ui.pool.worker_slot import ProcessLimits
from wan_ui.request import Generation

pytestmark = pytest.mark.slow
CASE = "wan22_14b_t2v"
LARGE = {"width": 832, "height": 480, "num_frames": 81}


def no_check() -> None:
    """A check that lets the render go on."""


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ProcessSlot]]:
    """Two slots with real engines over the golden checkpoints."""
    data = tmp_path_factory.mktemp("group")
    options = EngineOptions.of(Settings(models_dir=CHECKPOINTS, lora_dir=LORAS, data_dir=data))
    devices = [SlotDevice(f"GPU {number}", device="cpu") for number in range(2)]
    made = [ProcessSlot(device, options, ProcessLimits(poll=0.02, cancel=PATIENCE)) for device in devices]
    yield made
    for slot in made:
        slot.end()


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    (case,) = (case for case in cases() if case.name == CASE)
    folder = tmp_path_factory.mktemp("files")
    images = ImageStore(folder, lambda url: b"")
    sources = CheckpointSources(Checkpoints(CHECKPOINTS), models_dir=CHECKPOINTS)
    prepared = prepare(case.request, Library(LORAS), images, sources.transformer_config, LOCAL_ACCESS)
    return prepared.generations[0]


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_joining_and_leaving_again_and_again_gives_the_golden_frames(
    slots: list[ProcessSlot], generation: Generation, times: int
) -> None:
    (case,) = (case for case in cases() if case.name == CASE)
    split = split_of(generation, 2)
    group = SlotGroup(slots, split)
    first = slots[0].render(generation, ignore_progress, no_check)
    mean, most = differences(first.frames, case.cpu_frames)
    assert mean <= 0.1 and most <= 2 and "split" not in first.metadata
    pids = None
    for number in range(times):
        varied = replace(generation, seed=generation.seed + number % 2)  # nothing is kept from the run before
        together = group.render(varied, ignore_progress, no_check)
        assert together.metadata["split"] == "guidance 2"
        alone = slots[number % 2].render(varied, ignore_progress, no_check)
        assert "split" not in alone.metadata
        assert np.array_equal(together.frames, alone.frames)
        if number % 2 == 0:
            assert np.array_equal(together.frames, first.frames)
        pids = pids or [slot.pid for slot in slots]
        assert [slot.pid for slot in slots] == pids  # nothing was loaded again


def test_a_divided_sequence_gives_the_same_frames(slots: list[ProcessSlot], generation: Generation) -> None:
    unguided = replace(generation, guidance_scale=1.0, guidance_scale_2=None)
    together = SlotGroup(slots, Split(1, 2)).render(unguided, ignore_progress, no_check)
    alone = slots[1].render(unguided, ignore_progress, no_check)
    assert together.metadata["split"] == "sequence 2"
    assert np.array_equal(together.frames, alone.frames)


def test_a_cancel_stops_all_and_ends_no_process(slots: list[ProcessSlot], generation: Generation) -> None:
    group = SlotGroup(slots, Split(2))
    group.render(generation, ignore_progress, no_check)
    pids = [slot.pid for slot in slots]

    def on_progress(progress: Progress) -> None:
        if progress.phase == "denoise" and progress.step == 1:
            raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        group.render(replace(generation, seed=77), on_progress, no_check)
    assert [slot.pid for slot in slots] == pids
    assert len(group.render(generation, ignore_progress, no_check).frames)


def test_a_lost_member_ends_the_attempt_and_the_group(slots: list[ProcessSlot], generation: Generation) -> None:
    group = SlotGroup(slots, Split(2))
    killed = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.phase == "denoise" and not killed.is_set() and slots[1].pid is not None:
            killed.set()
            os.kill(slots[1].pid, signal.SIGKILL)

    with pytest.raises(SlotLost):
        group.render(replace(generation, seed=78), on_progress, no_check)
    assert not any(slot.is_started for slot in slots)


@pytest.mark.parametrize(
    ("changes", "gpus", "split"),
    [
        (LARGE, 1, Split()),
        (LARGE, 2, Split(2)),
        (LARGE, 7, Split(2, 2)),
        ({**LARGE, "guidance_scale": 1.0, "guidance_scale_2": None}, 4, Split(1, 2)),
        ({"guidance_scale": 1.0, "guidance_scale_2": 4.0}, 2, Split(2)),
        ({**LARGE, "model": "wan21_1b"}, 16, Split(2, 2)),
        (LARGE, 16, Split(2, 2)),
        ({}, 16, Split(2)),  # too few tokens to be divided
        ({"guidance_scale": 1.0, "guidance_scale_2": None}, 4, Split()),
        ({"speedup": "step_cache"}, 4, Split()),
        ({"speedup": "fp8_products"}, 4, Split()),
    ],
)
def test_what_is_divided(generation: Generation, changes: dict[str, Any], gpus: int, split: Split) -> None:
    assert split_of(replace(generation, **changes), gpus) == split
