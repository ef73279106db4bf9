"""When each job of the queue starts and ends where several slots render: a simulation, clip by clip in their order."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

COMPARED = 16  # slots that become free at the same moment, of which one that has the model loaded is taken


@dataclass(frozen=True)
class SlotTime:
    """A slot: the seconds until its present clip is finished, and the model that it has loaded then."""

    free: float = 0.0
    model: str | None = None


@dataclass(frozen=True)
class WaitingClip:
    """A clip that waits: its `seconds`, its model, and how long a slot that has not loaded it takes to do so."""

    seconds: float
    model: str
    load: float = 0.0


@dataclass(frozen=True)
class JobTimes:
    """Seconds until a job's first waiting clip starts and until its last one ends; 0 where none waits."""

    start: float
    end: float


def queue_times(slots: Sequence[SlotTime], jobs: Sequence[Sequence[WaitingClip]]) -> list[JobTimes]:
    """The times of each job, given as the clips of it that wait. Each clip goes to the slot that is free first.

    Of slots that are free at the same moment one with the clip's model is taken. What the scheduler does beyond that
    is left out: turns among visitors, clips that overtake others, and slots that help each other. Needs one slot.
    """
    models = [slot.model for slot in slots]
    free = [(slot.free, number) for number, slot in enumerate(slots)]
    heapq.heapify(free)
    times = []
    for clips in jobs:
        start, end = 0.0, 0.0
        for position, clip in enumerate(clips):
            began, number = _take(free, models, clip.model)
            ended = began + clip.seconds + (0.0 if models[number] == clip.model else clip.load)
            models[number] = clip.model
            heapq.heappush(free, (ended, number))
            start = began if not position else min(start, began)
            end = max(end, ended)
        times.append(JobTimes(start, end))
    return times


def _take(free: list[tuple[float, int]], models: Sequence[str | None], model: str) -> tuple[float, int]:
    """Takes the slot that is free first, one with the model where several are, from a heap of moments and slots."""
    taken = [heapq.heappop(free)]
    while models[taken[-1][1]] != model and free and free[0][0] == taken[0][0] and len(taken) < COMPARED:
        taken.append(heapq.heappop(free))
    has_model = models[taken[-1][1]] == model
    chosen = taken.pop(-1 if has_model else 0)
    for other in taken:
        heapq.heappush(free, other)
    return chosen
