"""Two real GPUs that render one video: frames, ten joins, a lost member, and memory that does not suffice.

A cancel goes over the same connection as on the CPU (tests/pool/test_groups.py).

The slots are the server's own processes, each of which sees one GPU. The checkpoints are tiny, so that a minute or two
suffices; full-size figures come from `benchmarks/gpus.py` and `benchmarks/slots.py`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.fakes import PATIENCE
from tests.golden_cases import CHECKPOINTS, LORAS, Case, cases, differences
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import Settings
from wan_ui.engine.result import Progress, ignore_progress
from wan_ui.engine.split import Split
from wan_ui.errors import GroupLost
from wan_ui.intake import prepare
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore
from wan_ui.pool.gpus import list_gpus, slot_devices, visible
from wan_ui.pool.groups import SlotGroup
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.worker_slot import ProcessLimits
from wan_ui.request import Generation

GPUS = slot_devices("auto", visible(list_gpus(), os.environ))[:2]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(len(GPUS) < 2, reason="needs two GPUs")]
CASE = "wan22_14b_t2v"
MEAN, MOST = 0.5, 12  # as tests/gpu/test_golden_cuda.py


def no_check() -> None:
    """A check that lets the render go on."""


def unguided(generation: Generation) -> Generation:
    return replace(generation, guidance_scale=1.0, guidance_scale_2=None)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    return EngineOptions.of(Settings(models_dir=CHECKPOINTS, lora_dir=LORAS, data_dir=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def slots(options: EngineOptions) -> Iterator[list[ProcessSlot]]:
    made = [ProcessSlot(device, options, ProcessLimits(poll=0.02, cancel=PATIENCE)) for device in GPUS]
    yield made
    for slot in made:
        slot.end()


@pytest.fixture(scope="module")
def generations(options: EngineOptions) -> dict[str, Generation]:
    """The golden cases, resolved; their first frames are stored where the slots' processes look for them."""
    images = ImageStore(options.data_dir / "images", lambda url: b"")
    sources = CheckpointSources(Checkpoints(CHECKPOINTS), models_dir=CHECKPOINTS)
    library = Library(LORAS)
    return {
        case.name: prepare(case.request, library, images, sources.transformer_config, LOCAL_ACCESS).generations[0]
        for case in cases()
    }


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_golden_frames_of_two_gpus(
    slots: list[ProcessSlot], generations: dict[str, Generation], case: Case
) -> None:
    """Divided by guidance where there is any, else by tokens: the reference's frames, and those of one GPU."""
    generation = generations[case.name]
    split = Split(2) if generation.is_guided else Split(1, 2)
    together = SlotGroup(slots, split).render(generation, ignore_progress, no_check)
    mean, most = differences(together.frames, case.cuda_frames)
    alone = slots[1].render(generation, ignore_progress, no_check)
    equal = np.array_equal(together.frames, alone.frames)
    print(f"{case.name}: {split}, mean {mean:.4f}, most {most}, equal to one GPU: {equal}")
    assert together.metadata["split"] == str(split)
    assert mean <= MEAN and most <= MOST
    assert equal or split.sequence > 1  # so few tokens may take other kernels when they are halved


def test_joining_and_leaving_ten_times_loads_nothing_again(
    slots: list[ProcessSlot], generations: dict[str, Generation]
) -> None:
    generation = generations[CASE]
    alone = [slot.render(generation, ignore_progress, no_check) for slot in slots]
    assert np.array_equal(alone[0].frames, alone[1].frames)
    pids = [slot.pid for slot in slots]
    for number in range(10):
        split, wanted = (Split(2), generation) if number % 2 else (Split(1, 2), unguided(generation))
        varied = replace(wanted, seed=generation.seed + number)  # nothing is kept from the run before
        together = SlotGroup(slots, split).render(varied, ignore_progress, no_check)
        single = slots[number % 2].render(varied, ignore_progress, no_check)
        assert together.metadata["split"] == str(split) and "split" not in single.metadata
        assert split.sequence > 1 or np.array_equal(together.frames, single.frames)
        assert np.array_equal(slots[0].render(generation, ignore_progress, no_check).frames, alone[0].frames)
        assert [slot.pid for slot in slots] == pids


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_group_and_another_one_renders(
    slots: list[ProcessSlot], generations: dict[str, Generation], lost: int
) -> None:
    """The other waits for its tokens in the middle of a step, and is ended too."""
    generation, is_killed = generations[CASE], threading.Event()
    expected = slots[1].render(generation, ignore_progress, no_check)

    def on_progress(progress: Progress) -> None:
        pid = slots[lost].pid
        if progress.phase == "denoise" and progress.step == 1 and not is_killed.is_set() and pid is not None:
            is_killed.set()
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(GroupLost):
        SlotGroup(slots, Split(2)).render(replace(generation, seed=78), on_progress, no_check)
    assert not any(slot.is_started for slot in slots)
    again = SlotGroup(slots, Split(2)).render(generation, ignore_progress, no_check)
    assert np.array_equal(again.frames, expected.frames)


def test_weights_that_stay_on_the_host_are_rendered_together_too(
    options: EngineOptions, generations: dict[str, Generation]
) -> None:
    streamed = replace(options, memory="stream")
    slots = [ProcessSlot(device, streamed, ProcessLimits(poll=0.02, cancel=PATIENCE)) for device in GPUS]
    try:
        for split, generation in ((Split(2), generations[CASE]), (Split(1, 2), unguided(generations[CASE]))):
            together = SlotGroup(slots, split).render(generation, ignore_progress, no_check)
            alone = slots[1].render(generation, ignore_progress, no_check)
            assert (together.metadata["memory"], together.metadata["split"]) == ("stream", str(split))
            assert split.sequence > 1 or np.array_equal(together.frames, alone.frames)
    finally:
        for slot in slots:
            slot.end()
