"""Which idle slots help to render a clip, as one group with the slot that it was given to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wan_ui.engine.split import GroupPlace, Split, split_of
from wan_ui.jobs.scheduler import Unit
from wan_ui.request import Generation

log = logging.getLogger(__name__)

WORTH_A_LOAD = 120.0  # seconds of a clip on one GPU from which another one loads the model first, to help
MOST_LOST = 3  # groups that fail one after another, until none is made any more


@dataclass(frozen=True)
class Helper:
    """A slot as far as it may help: its GPU's model, None where it is not known, and its machine, see Slot.machine.

    `fit`: how much of what the clip needs it has loaded, 0 to 31. `joined` is its place in the group that its process
    is still connected to.
    """

    name: str
    gpu: str | None
    fit: int = 0
    machine: str = ""
    joined: GroupPlace | None = None


def choose_helpers(
    generation: Generation, leader: Helper, idle: Sequence[Helper], most: int, seconds: float, leader_loads: bool
) -> tuple[Split, tuple[str, ...]]:
    """How a clip of so many `seconds` on one GPU is divided, among `most` slots, and the slots that help the leader.

    Only GPUs of the leader's model help, since another one's numbers may differ in their last bits. One that has to
    load the model first helps where the leader loads it too, or where the clip is long enough. The slots that the
    leader is connected to come first, then those that are connected to none: a process that changes its group is
    started anew.
    """
    able = [
        helper
        for helper in idle
        if helper.machine == leader.machine
        and helper.gpu is not None
        and helper.gpu == leader.gpu
        and (helper.fit or leader_loads or seconds >= WORTH_A_LOAD)
    ]
    split = split_of(generation, min(1 + len(able), most))
    connected = [helper for helper in able if _are_connected(helper, leader)]
    if leader.joined is not None and leader.joined.split.ranks == split.ranks == 1 + len(connected):
        return split, tuple(helper.name for helper in connected)
    ready_first = sorted(able, key=lambda helper: (helper.joined is not None, -helper.fit))
    return split, tuple(helper.name for helper in ready_first[: split.ranks - 1])


def _are_connected(helper: Helper, leader: Helper) -> bool:
    """Whether the processes of two slots are in the same group."""
    if helper.joined is None or leader.joined is None:
        return False
    return helper.joined.rendezvous == leader.joined.rendezvous


class LostGroups:
    """The groups that failed. A clip that one failed with is rendered by one slot; many in a row end groups there.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._clips: set[tuple[str, int]] = set()
        self._in_a_row: Counter[str] = Counter()

    def allow(self, unit: Unit, machine: str) -> bool:
        """Whether a group of a machine's slots may render a clip."""
        return self._in_a_row[machine] < MOST_LOST and (unit.job_id, unit.index) not in self._clips

    def add(self, unit: Unit, machine: str) -> None:
        """A machine's group has failed with this clip."""
        self._clips.add((unit.job_id, unit.index))
        self._in_a_row[machine] += 1
        if self._in_a_row[machine] == MOST_LOST:
            log.error(
                "GPUs fail when they render a video together: from now on each video gets one (--split off)",
                extra={"machine": machine},
            )

    def succeeded(self, machine: str) -> None:
        """A machine's group has rendered a clip."""
        del self._in_a_row[machine]

    def forget(self, job_id: str) -> None:
        """A job has ended."""
        self._clips = {clip for clip in self._clips if clip[0] != job_id}
