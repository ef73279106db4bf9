"""Progress of one render: phases and their seconds, and the estimate of what is left of the denoising."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wan_ui.engine.result import OnProgress, Phase, Progress


class RenderProgress:
    """Reports a render's phases and measures their `seconds`. `note` returns the sentence shown with each report."""

    def __init__(self, on_progress: OnProgress, note: Callable[[], str]) -> None:
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress
        self._note = note

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Adds the time spent in the block to the phase's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.perf_counter() - start, 4)

    def report(self, phase: Phase, step: int = 0, steps: int = 0) -> None:
        """Reports that a phase is under way. May raise Cancelled, as every report may."""
        self._on_progress(Progress(phase, step, steps, note=self._note()))

    def denoising(self, estimate: StepEstimate, step: int, note: str, picture: bytes | None = None) -> None:
        """Reports `step` finished denoising steps, with the memory's note or, where there is none, `note`."""
        each, left = estimate.after(step)
        note = self._note() or note
        self._on_progress(Progress("denoise", step, estimate.steps, each, left, note=note, picture=picture))

    def decoding(self, steps: int, fraction: float) -> None:
        """Reports how much of the decoding is done, after all denoising steps."""
        self._on_progress(Progress("decode", steps, steps, note=self._note(), fraction=fraction))


class StepEstimate:
    """Seconds per step, the mean since the last `restart`, and seconds left of `steps` denoising steps."""

    def __init__(self, steps: int, first: int) -> None:
        """`first` is the number of steps that an earlier run has done."""
        self.steps = steps
        self.restart(first)

    def restart(self, step: int) -> None:
        """Measures from here on: `step` steps are done, and what they took does not predict the rest."""
        self._first, self._began = step, time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Does not count so many of the past seconds: they went into something else."""
        self._began += seconds

    def after(self, step: int) -> tuple[float | None, float | None]:
        """Seconds per step and seconds left after `step` steps; None before the first measured step."""
        if step <= self._first:
            return None, None
        each = (time.perf_counter() - self._began) / (step - self._first)
        return each, each * (self.steps - step)
