"""The speed-ups for people: what each saves, and how far its videos are from exact ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wan_ui.models import Speedup


@dataclass(frozen=True)
class Distance:
    """Distance from the exact videos of the same requests: mean PSNR and the worst clip's in dB, and mean SSIM.

    Measured by `python -m benchmarks.lossy`.
    """

    psnr: float
    worst_psnr: float
    ssim: float


@dataclass(frozen=True)
class SpeedupChoice:
    """One speed-up: `saves` continues its label; `distance` is None for exact videos."""

    id: Speedup
    label: str
    saves: str
    distance: Distance | None = None

    @property
    def sentence(self) -> str:
        """What it saves and what it costs."""
        if self.distance is None:
            return self.saves
        distance = self.distance
        return (
            f"{self.saves} Against the exact videos of the demo: PSNR {distance.psnr:.0f} dB (worst clip "
            f"{distance.worst_psnr:.0f} dB), SSIM {distance.ssim:.3f}."
        )


# Measured on a CPU (float32), torch 2.13.0, diffusers 0.42.1, 2026-11-21; docs/performance.md has the whole table.
CHOICES: Mapping[Speedup, SpeedupChoice] = MappingProxyType(
    {
        choice.id: choice
        for choice in (
            SpeedupChoice("none", "None", "every step computed, in the model's own precision."),
            SpeedupChoice(
                "step_cache",
                "Step cache",
                "skips the blocks where little changes from one step to the next: a third to a half of the work at 25 "
                "steps, less at fewer.",
                Distance(41.2, 33.0, 0.996),
            ),
            SpeedupChoice(
                "fp8_storage",
                "FP8 weights",
                "half the memory for the transformers' weights; unpacking them at each use takes a little time.",
                Distance(35.8, 26.7, 0.990),
            ),
            SpeedupChoice(
                "fp8_products",
                "FP8 products",
                "half the memory too, and faster matrix products on GPUs that have them (Ada, Hopper, Blackwell).",
                Distance(34.8, 25.8, 0.989),
            ),
        )
    }
)

WARNING = "Each makes a slightly different video; none goes with a trainer preview."


def describe(speedup: Speedup, forwards: Mapping[str, int] | None = None) -> str:
    """How a finished video was made: `Step cache, 34 of 50 forwards computed`."""
    label = CHOICES[speedup].label
    return label if forwards is None else f"{label}, {forwards['computed']} of {forwards['total']} forwards computed"
