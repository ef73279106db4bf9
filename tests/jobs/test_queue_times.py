"""When jobs start and end on several slots: the simulation alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from wan_ui.jobs.queue_times import JobTimes, SlotTime, WaitingClip, queue_times

LOADED = SlotTime(0.0, "a")


def clips(*seconds: float, model: str = "a", load: float = 0.0) -> list[WaitingClip]:
    return [WaitingClip(each, model, load) for each in seconds]


def test_one_slot_renders_one_clip_after_another() -> None:
    assert queue_times([SlotTime(5.0, "a")], [clips(10, 20), clips(1)]) == [JobTimes(5, 35), JobTimes(35, 36)]


def test_clips_are_shared_out_and_a_short_job_ends_first() -> None:
    jobs = [clips(10, 10, 10), clips(3)]
    assert queue_times([LOADED, SlotTime(1.0, "a")], jobs) == [JobTimes(0, 20), JobTimes(11, 14)]


def test_a_slot_that_has_the_model_is_taken_and_another_loads_it() -> None:
    slots = [SlotTime(0.0, "b"), LOADED]
    assert queue_times(slots, [clips(10, load=30.0)]) == [JobTimes(0, 10)]
    assert queue_times(slots, [clips(10, 10, load=30.0), clips(5, load=30.0)]) == [JobTimes(0, 40), JobTimes(10, 15)]


def test_a_job_of_which_nothing_waits_takes_no_time() -> None:
    assert queue_times([LOADED], [[], clips(1)]) == [JobTimes(0, 0), JobTimes(0, 1)]


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_no_slot_is_idle_while_a_clip_waits(count: int, seed: int) -> None:
    draws = random.Random(seed)
    slots = [SlotTime(draws.choice([0.0, draws.uniform(0, 50)]), draws.choice(["a", "b", None])) for _ in range(count)]
    jobs = [clips(*(draws.uniform(1, 9) for _ in range(draws.randrange(4)))) for _ in range(30)]
    times = queue_times(slots, jobs)
    work = sum(clip.seconds for job in jobs for clip in job)
    busy = sum(min(slot.free, max(time.end for time in times)) for slot in slots)
    longest = max((clip.seconds for job in jobs for clip in job), default=0.0)
    assert max(time.end for time in times) <= (work + busy) / count + longest + 1e-6
    assert [time.start for time in times if time.end] == sorted(time.start for time in times if time.end)
