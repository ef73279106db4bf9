"""Several slots of one machine that render one clip together."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wan_ui.engine.result import Clip, OnProgress, ignore_progress
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.errors import Cancelled, GroupLost, RenderFailed, RenderTimedOut, RequestError, WanUIError
from wan_ui.pool.slots import Check, Slot
from wan_ui.request import Generation


@dataclass(frozen=True)
class GroupLimits:
    """Seconds for those that do not lead, until they are ended.

    `stop`: after a cancel, or an error of the request. `end`: after the leader has sent the clip.
    """

    stop: float = 5.0
    end: float = 60.0


class SlotGroup:
    """Slots that render one clip together. The first by name leads: its progress and its frames are the clip's.

    The processes join before the clip and leave after it, and stay connected for the next one of the same slots. A
    process that is still connected to others is ended first, and loads again.

    When one of them ends or fails, GroupLost is raised and all of them are ended: those that wait for the lost one's
    tokens cannot be told to stop. A cancel is passed on by the leader between two steps; a process that it does not
    reach is ended. An error of the request, such as a LoRA that is not there, leaves those that have ended the clip by
    themselves as they are.
    """

    def __init__(self, slots: Sequence[Slot], split: Split, limits: GroupLimits | None = None) -> None:
        self.slots = tuple(sorted(slots, key=lambda slot: slot.name))  # the same ranks, whichever was free first
        self.split = split
        self._limits = limits or GroupLimits()

    def render(self, generation: Generation, on_progress: OnProgress, check: Check, lossless: bool = False) -> Clip:
        """One clip. See Slot.render. Raises GroupLost when one of the slots fails: another way may succeed."""
        leader, *members = self.slots
        leads, *places = self._places()
        errors: dict[str, WanUIError] = {}
        is_over = threading.Event()
        threads = [
            threading.Thread(
                target=self._render_member,
                args=(slot, generation, place, errors, is_over),
                name=f"group {slot.name}",
            )
            for slot, place in zip(members, places, strict=True)
        ]

        def check_group() -> None:
            check()
            if errors:
                raise _lost(errors)

        seconds = 0.0  # for the others to end by themselves
        for thread in threads:
            thread.start()
        try:
            clip = leader.render(generation, on_progress, check_group, leads, lossless)
            seconds = self._limits.end
        except (Cancelled, RequestError):
            seconds = self._limits.stop
            raise
        except (GroupLost, RenderTimedOut):
            leader.end()
            raise
        except WanUIError as error:
            leader.end()
            raise _lost(errors or {leader.name: error}) from error
        finally:
            is_over.set()
            self._stop(members, threads, seconds)
        return clip

    def _places(self) -> list[GroupPlace]:
        """The slots' places for the next clip, in the group that they are connected in, or in a new one."""
        joined = [place for slot in self.slots if (place := slot.joined) is not None]
        connections = {place.rendezvous for place in joined}
        ranks = [place.rank for place in joined if place.split.ranks == self.split.ranks]
        if len(connections) == 1 and ranks == list(range(self.split.ranks)):
            clip = 1 + max(place.clip for place in joined)
            return [GroupPlace(self.split, rank, joined[0].rendezvous, clip) for rank in ranks]
        for slot in self.slots:
            if slot.joined is not None:
                slot.end()
        rendezvous = uuid.uuid4().hex
        return [GroupPlace(self.split, rank, rendezvous) for rank in range(self.split.ranks)]

    def _stop(self, members: Sequence[Slot], threads: Sequence[threading.Thread], seconds: float) -> None:
        """Waits for the slots that do not lead, and ends those that take longer; at 0 seconds all of them."""
        end = time.monotonic() + seconds
        for slot, thread in zip(members, threads, strict=True):
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive() or not seconds:
                slot.end()
        for thread in threads:
            thread.join()

    def _render_member(
        self,
        slot: Slot,
        generation: Generation,
        place: GroupPlace,
        errors: dict[str, WanUIError],
        is_over: threading.Event,
    ) -> None:
        """Renders on a slot that does not lead, and keeps what went wrong.

        After an error that is not the request's the others may wait for it, and its process is ended.
        """

        def check() -> None:
            if is_over.is_set():
                raise Cancelled("The group has ended.")

        problem: WanUIError | None = RenderFailed("Unexpected error while generating. Details are in the server log.")
        try:
            slot.render(generation, ignore_progress, check, place)
            problem = None
        except Cancelled:
            problem = None
        except WanUIError as error:
            problem = error
        finally:  # also after an unexpected error: the others must not wait for this one
            if problem is not None and not isinstance(problem, RequestError):
                slot.end()
            if problem is not None and not is_over.is_set():
                errors[slot.name] = problem


def _lost(errors: Mapping[str, WanUIError]) -> GroupLost:
    """The error of a group of which a slot failed."""
    name, error = next(iter(errors.items()))
    return GroupLost(f"{name} failed while it rendered together with others: {error.message}", after=error.code)
