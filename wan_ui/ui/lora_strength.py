"""A LoRA's strength as it is typed: a number, several that are spread over the steps, or the two ends of a ramp."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from wan_ui.scale import Ramp, Scale

LONGEST = 2000  # characters: more than a list of the most values needs
WRONG = "must be a number, several such as 1, 0.5, 0, or two ends such as 1 to 0.2"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RAMP = re.compile(rf"({_NUMBER})\s*(?:to|->|→|到|至)\s*({_NUMBER})")
_SEPARATOR = re.compile("[,;\uff0c\u3001\uff1b]")  # with those of Chinese


def typed(text: str) -> float | Sequence[float] | Mapping[str, float]:
    """A typed strength in wire form: `0.5`, `1, 0.5, 0`, `1 to 0.2`. Raises ValueError, whose text is WRONG."""
    ramp = _RAMP.fullmatch(text.strip())
    if ramp is not None:
        return {"from": float(ramp[1]), "to": float(ramp[2])}
    parts = [part.strip() for part in _SEPARATOR.split(text)]
    if not all(re.fullmatch(_NUMBER, part) for part in parts):
        raise ValueError(WRONG)
    values = [float(part) for part in parts]
    return values[0] if len(values) == 1 else values


def shown(scale: Scale) -> float | str:
    """A scale as the field holds it: a number, or the text that `typed` reads as this very scale."""
    if isinstance(scale, Ramp):
        return f"{_exact(scale.start)} to {_exact(scale.end)}"
    return ", ".join(map(_exact, scale)) if isinstance(scale, tuple) else scale


def read(value: Any) -> float | str | None:
    """A strength as a browser sent it: a number, a text that is no plain number yet, or None for an empty field."""
    if isinstance(value, str):
        return value if value.strip() and len(value) <= LONGEST else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _exact(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))
