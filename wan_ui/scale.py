"""A LoRA's scale: a number, or values that change over the steps of the LoRA's own transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

LEAST_SCALE, LARGEST_SCALE = -4, 4
MOST_VALUES = 150  # of a list: the largest number of steps


@dataclass(frozen=True)
class Ramp:
    """From `start` at the first step to `end` at the last, in equal changes."""

    start: float
    end: float


Scale = float | tuple[float, ...] | Ramp


def is_constant(scale: Scale) -> TypeGuard[float]:
    """Whether a scale is one number at all steps."""
    return not isinstance(scale, tuple | Ramp)


def simplified(scale: Scale) -> Scale:
    """The scale as a plain number where all its values are equal."""
    if isinstance(scale, Ramp):
        return scale.start if scale.start == scale.end else scale
    if isinstance(scale, tuple):
        return scale[0] if len(set(scale)) == 1 else scale
    return scale


def scale_at(scale: Scale, step: int, steps: int) -> float:
    """The scale at step `step` (from 0) of the `steps` of a transformer.

    A list of k values: list[⌊step × k / steps⌋], so that each holds for an equal share of the steps. A ramp from a to
    b: a + (b − a) × step / (steps − 1), and a where there is one step.
    """
    if isinstance(scale, tuple):
        return scale[step * len(scale) // steps]
    if isinstance(scale, Ramp):
        return scale.start if steps == 1 else scale.start + (scale.end - scale.start) * step / (steps - 1)
    return scale


def largest(scale: Scale) -> float:
    """The value of the largest magnitude, for figures that need one number."""
    if isinstance(scale, Ramp):
        return max(scale.start, scale.end, key=abs)
    return max(scale, key=abs) if isinstance(scale, tuple) else scale


def scale_body(scale: Scale) -> float | list[float] | dict[str, float]:
    """A scale as JSON: a number, a list, or {"from": a, "to": b}."""
    if isinstance(scale, Ramp):
        return {"from": scale.start, "to": scale.end}
    return list(scale) if isinstance(scale, tuple) else scale


def scale_from(body: float | Sequence[float] | Mapping[str, float]) -> Scale:
    """The scale that scale_body wrote. Raises KeyError for another mapping."""
    if isinstance(body, Mapping):
        return Ramp(body["from"], body["to"])
    return tuple(body) if isinstance(body, Sequence) else body


def scale_words(scale: Scale) -> str:
    """A scale for people: `0.5`, `1 to 0.2`, or `1, 0.5, 0`."""
    if isinstance(scale, Ramp):
        return f"{scale.start:g} to {scale.end:g}"
    return ", ".join(f"{value:g}" for value in scale) if isinstance(scale, tuple) else f"{scale:g}"
