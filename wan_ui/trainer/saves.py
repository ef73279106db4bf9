"""The complete saves in a training job's folder: whole files that nobody writes to any more, and whole pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.safetensors_header import read_safetensors_header
from wan_ui.trainer.folder import CheckpointFiles, JobFolder

SETTLE_SECONDS = 4.0  # without a change, before a file counts as written


@dataclass(frozen=True)
class _Seen:
    """A file's size and time, since when they are so, and whether its header fits its size (None: not read yet)."""

    mark: tuple[int, int]
    since: float
    is_whole: bool | None = None


class CompleteSaves:
    """Looks at the same folders again and again, and remembers since when each file has not changed.

    A file is whole when its header lists exactly the bytes that are there, and when it has not changed for
    `settle_seconds`: a writer may set a file's size before its content.
    """

    def __init__(self, settle_seconds: float = SETTLE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._seen: dict[Path, _Seen] = {}

    def of(self, folder: JobFolder, slots: Collection[str]) -> tuple[CheckpointFiles, ...]:
        """The complete saves, newest first; a pair is complete when the halves for all `slots` are."""
        complete: list[tuple[int, CheckpointFiles]] = []
        for checkpoint in folder.checkpoints:
            times = [self._whole_since(folder.root / path) for path in checkpoint.files.values()]
            if has_all_halves(checkpoint.files, slots) and None not in times:
                complete.append((max(filter(None, times)), checkpoint))
        return tuple(checkpoint for _, checkpoint in sorted(complete, key=lambda pair: pair[0], reverse=True))

    def _whole_since(self, path: Path) -> int | None:
        """When a whole file was last changed, in nanoseconds; None for a file that may still be written."""
        try:
            state = path.stat()
        except FileNotFoundError:
            self._seen.pop(path, None)
            return None
        mark, now = (state.st_size, state.st_mtime_ns), self._clock()
        seen = self._seen.get(path)
        if seen is None or seen.mark != mark:
            seen = self._seen[path] = _Seen(mark, now)
        if now - seen.since < self._settle_seconds:
            return None
        if seen.is_whole is None:
            seen = self._seen[path] = _Seen(mark, seen.since, _fits_its_header(path))
        return max(1, state.st_mtime_ns) if seen.is_whole else None


def has_all_halves(files: Mapping[str, Path], slots: Collection[str]) -> bool:
    """Whether a save has a file for each transformer that its job trains, or one file for all."""
    return "whole" in files or set(slots) & {"high", "low"} <= set(files)


def save_label(checkpoint: CheckpointFiles) -> str:
    """A save's name, the same at every start: `step 500`, `final`."""
    return "final" if checkpoint.step is None else f"step {checkpoint.step}"


def _fits_its_header(path: Path) -> bool:
    try:
        read_safetensors_header(path)
    except (LoraInvalid, LoraNotFound):
        return False
    return True
