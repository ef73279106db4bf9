"""Notices that the system's clock was set, so that nothing is deleted for an age that it does not have."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

JUMP_SECONDS = 3600.0  # between the clock and the time that has passed
DISTRUST_SECONDS = 24 * 3600.0  # that the operator has to set the clock right


class ClockWatch:
    """Compares the system's clock with the monotonic one, which nobody can set."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._trusted_from = monotonic()

    def has_jumped(self) -> bool:
        """Whether the clock was set by more than JUMP_SECONDS, either way, within the last DISTRUST_SECONDS."""
        offset = self._wall() - self._monotonic()
        if abs(offset - self._offset) > JUMP_SECONDS:
            log.warning(
                "the clock of this machine was set: nothing is deleted for its age for a day",
                extra={"seconds": round(offset - self._offset)},
            )
            self._offset = offset
            self._trusted_from = self._monotonic() + DISTRUST_SECONDS
        return self._monotonic() < self._trusted_from
