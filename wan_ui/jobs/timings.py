"""What clips took on this machine, kept in the job database, and the outlook of jobs that follows from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from wan_ui.engine.result import Clip
from wan_ui.engine.split import ranks_of
from wan_ui.jobs.estimates import Known, SizeKey, Timing, measured, size_key
from wan_ui.jobs.store import Store
from wan_ui.request import Generation

UNKNOWN_DEVICE = "unknown"
_KEYS = tuple(column.name for column in fields(SizeKey))
_VALUES = tuple(column.name for column in fields(Timing))
_NAMES = (*_KEYS, *_VALUES)
_WRITE = (
    f"INSERT INTO timings ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)}) "
    "ON CONFLICT DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _VALUES)
)


class Timings:
    """The table of timings, read once and written after each clip. Any thread may call any method.

    Raises HostError when the database cannot be read or written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: Known = {
            SizeKey(*(row[name] for name in _KEYS)): Timing(*(row[name] for name in _VALUES))
            for row in store.rows("SELECT * FROM timings", {})
        }

    @property
    def known(self) -> Known:
        """The timings by size; the mapping is replaced, never changed."""
        return self._known

    def record(self, generation: Generation, clip: Clip, seconds: Mapping[str, float], encode: float) -> None:
        """Keep what a finished clip took: `seconds` by phase, and its encoding.

        The denoising of several GPUs counts as that of one, which takes so many times as long, about.
        """
        steps: Mapping[str, Any] = clip.metadata.get("steps", {})
        computed = int(steps.get("total", generation.sample_steps)) - int(steps.get("shared", 0))
        key = size_key(generation, str(clip.metadata.get("device", UNKNOWN_DEVICE)))
        of_one = {**seconds, "denoise": seconds.get("denoise", 0.0) * ranks_of(clip.metadata.get("split"))}
        newest = measured(generation, of_one, encode, computed)
        with self._lock:
            timing = self._known[key].after(newest) if key in self._known else newest
            self._store.rows(_WRITE, {**asdict(key), **asdict(timing)})
            self._known = {**self._known, key: timing}
