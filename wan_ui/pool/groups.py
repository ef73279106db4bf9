"""Several slots of one machine that render one clip together."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from wan_ui.engine.result import Clip, OnProgress, ignore_progress
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.errors import Cancelled, SlotLost, WanUIError
from wan_ui.pool.slots import Check, Slot
from wan_ui.request import Generation

STOP_SECONDS = 5.0  # for the others to stop after a cancel


class SlotGroup:
    """Slots that render one clip together, the first of which leads: its progress and its frames are the clip's.

    The processes join before the clip and leave after it. When one of them ends or fails, the clip's attempt ends, and
    so do all its processes: those that wait for the lost one's tokens cannot be told to stop. A cancel is passed on by
    the leader between two steps; a process that it does not reach is ended.
    """

    def __init__(self, slots: Sequence[Slot], split: Split) -> None:
        self.slots = tuple(slots)
        self.split = split

    def render(self, generation: Generation, on_progress: OnProgress, check: Check) -> Clip:
        """One clip. See Slot.render."""
        folder = Path(tempfile.mkdtemp(prefix="wan-ui-group-"))
        try:
            return self._render(generation, on_progress, check, str(folder / "rendezvous"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _render(self, generation: Generation, on_progress: OnProgress, check: Check, rendezvous: str) -> Clip:
        leader, *members = self.slots
        errors: list[WanUIError] = []
        is_over = threading.Event()
        threads = [
            threading.Thread(
                target=self._render_member,
                args=(slot, generation, GroupPlace(self.split, rank, rendezvous), errors, is_over),
                name=f"group {slot.name}",
            )
            for rank, slot in enumerate(members, 1)
        ]

        def check_group() -> None:
            check()
            if errors:
                raise SlotLost(f"The group of {leader.name} lost a member: {errors[0].message}")

        for thread in threads:
            thread.start()
        try:
            clip = leader.render(generation, on_progress, check_group, GroupPlace(self.split, 0, rendezvous))
        except Cancelled:
            is_over.set()
            self._stop(members, threads, STOP_SECONDS)
            raise
        except WanUIError:
            is_over.set()
            leader.end()
            self._stop(members, threads, 0.0)
            raise
        for thread in threads:
            thread.join()
        return clip

    def _stop(self, members: Sequence[Slot], threads: Sequence[threading.Thread], seconds: float) -> None:
        """Waits for the slots that do not lead, and ends those that take longer."""
        end = time.monotonic() + seconds
        for slot, thread in zip(members, threads, strict=True):
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                slot.end()
                thread.join()

    def _render_member(
        self,
        slot: Slot,
        generation: Generation,
        place: GroupPlace,
        errors: list[WanUIError],
        is_over: threading.Event,
    ) -> None:
        """Renders on a slot that does not lead, and keeps what went wrong."""
        try:
            slot.render(generation, ignore_progress, lambda: None, place)
        except Cancelled:
            return
        except WanUIError as error:
            if not is_over.is_set():
                errors.append(error)
