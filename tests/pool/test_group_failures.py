"""A group of which a slot fails, stops late or is not there yet: what is raised, and which processes are ended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.fakes import PATIENCE
from tests.jobs.helpers import body
from tests.pool.helpers import FakeSlot, ignore
from tests.waiting import wait_until
from wan_ui.engine.result import Clip, OnProgress, ignore_progress
from wan_ui.engine.split import Split
from wan_ui.errors import Cancelled, FramesNotFinite, GroupLost, OutOfMemory, RenderFailed, RenderTimedOut, SlotLost
from wan_ui.pool.groups import GroupLimits, SlotGroup
from wan_ui.pool.slots import Check
from wan_ui.request import Generation, parse, resolve

CLIP = Clip(np.zeros((1, 64, 64, 3), np.uint8), 64, 64, 1, 16, 1)
(GENERATION,) = resolve(parse(body(1)), store_image=str)


def rendered(generation: Generation, on_progress: OnProgress) -> Clip:
    return CLIP


def waits(check: Check) -> None:
    """Renders until it is told to stop: a slot that has not started yet, or waits for the others."""
    wait_until(lambda: check())


def fails(error: Exception) -> Callable[[Check], None]:
    def script(check: Check) -> None:
        raise error

    return script


def group_of(leader: Callable[[Check], object], member: Callable[[Check], object], **limits: float) -> SlotGroup:
    slots = [FakeSlot("GPU 0", rendered, leader), FakeSlot("GPU 1", rendered, member)]
    return SlotGroup(slots, Split(2), GroupLimits(**limits))


def ended(group: SlotGroup) -> list[bool]:
    return [slot.ended.is_set() for slot in group.slots if isinstance(slot, FakeSlot)]


def run(group: SlotGroup, check: Check = lambda: None) -> Clip:
    return group.render(GENERATION, ignore_progress, check)


@pytest.mark.parametrize(
    ("leader", "member", "after"),
    [
        (waits, fails(SlotLost("The process ended.")), "SLOT_LOST"),
        (waits, fails(OutOfMemory("Not enough memory.")), "OUT_OF_MEMORY"),
        (fails(RenderFailed("The other one closed the connection.")), waits, "RENDER_FAILED"),
        (fails(SlotLost("The process ended.")), ignore, "SLOT_LOST"),
        pytest.param(
            waits,
            fails(ValueError("unexpected")),
            "RENDER_FAILED",
            marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
        ),
    ],
)
def test_one_that_fails_ends_the_group_and_all_its_processes(
    leader: Callable[[Check], object], member: Callable[[Check], object], after: str
) -> None:
    group = group_of(leader, member)
    with pytest.raises(GroupLost) as lost:
        run(group)
    assert lost.value.details["after"] == after
    assert ended(group) == [True, True]


@pytest.mark.parametrize("error", [FramesNotFinite("No numbers."), Cancelled("Canceled.")])
def test_an_error_of_the_request_and_a_cancel_leave_those_that_stop(error: Exception) -> None:
    group = group_of(fails(error), waits, stop=PATIENCE)
    with pytest.raises(type(error)):
        run(group)
    assert ended(group) == [False, False]


def test_a_time_limit_ends_all() -> None:
    def is_late() -> None:
        raise RenderTimedOut("Too long.")

    group = group_of(waits, waits)
    with pytest.raises(RenderTimedOut):
        run(group, is_late)
    assert ended(group) == [True, True]


def test_one_that_does_not_end_its_part_is_ended() -> None:
    group: SlotGroup

    def stays(check: Check) -> None:
        wait_until(lambda: ended(group)[1])

    group = group_of(ignore, stays, end=0.01)
    assert run(group) is CLIP
    assert ended(group) == [False, True]
