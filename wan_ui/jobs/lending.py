"""Which idle slots help to render a clip, as one group with the slot that it was given to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from wan_ui.engine.split import Split, split_of
from wan_ui.jobs.scheduler import Unit
from wan_ui.request import Generation

log = logging.getLogger(__name__)

WORTH_A_LOAD = 120.0  # seconds of a clip on one GPU from which another one loads the model first, to help
MOST_LOST = 3  # groups that fail one after another, until none is made any more


@dataclass(frozen=True)
class Helper:
    """A slot as far as it may help: its GPU's model, None where it is not known, and the node that it is on.

    `fit`: how much of what the clip needs it has loaded, 0 to 31.
    """

    name: str
    gpu: str | None
    fit: int = 0
    node: str | None = None


def choose_helpers(
    generation: Generation, leader: Helper, idle: Sequence[Helper], most: int, seconds: float, leader_loads: bool
) -> tuple[Split, tuple[str, ...]]:
    """How a clip of so many `seconds` on one GPU is divided, among `most` slots, and the slots that help the leader.

    Only GPUs of the leader's model help, since another model's numbers may differ in their last bits. One that has to
    load the model first helps where the leader loads it too, or where the clip is long enough.
    """
    able = [
        helper
        for helper in idle
        if helper.node == leader.node
        and (helper.gpu is None or leader.gpu is None or helper.gpu == leader.gpu)
        and (helper.fit or leader_loads or seconds >= WORTH_A_LOAD)
    ]
    split = split_of(generation, min(1 + len(able), most))
    best = sorted(able, key=lambda helper: -helper.fit)[: split.ranks - 1]
    return split, tuple(helper.name for helper in best)


class LostGroups:
    """The groups that failed. A clip that one failed with is rendered by one slot; many in a row end all groups.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._clips: set[tuple[str, int]] = set()
        self._in_a_row = 0

    def allow(self, unit: Unit) -> bool:
        """Whether a group may render a clip."""
        return self._in_a_row < MOST_LOST and (unit.job_id, unit.index) not in self._clips

    def add(self, unit: Unit) -> None:
        """A group has failed with this clip."""
        self._clips.add((unit.job_id, unit.index))
        self._in_a_row += 1
        if self._in_a_row == MOST_LOST:
            log.error("GPUs fail when they render a video together: from now on each video gets one (--split off)")

    def succeeded(self) -> None:
        """A group has rendered a clip."""
        self._in_a_row = 0

    def forget(self, job_id: str) -> None:
        """A job has ended."""
        self._clips = {clip for clip in self._clips if clip[0] != job_id}
