"""Splits a sample prompt at `--` into its text and the flags that AI Toolkit reads from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "n": "neg",
        "w": "width",
        "h": "height",
        "d": "seed",
        "seed": "seed",
        "l": "guidance_scale",
        "cfg": "guidance_scale",
        "s": "sample_steps",
        "steps": "sample_steps",
        "m": "network_multiplier",
        "network_multiplier": "network_multiplier",
        "frames": "num_frames",
        "num_frames": "num_frames",
        "fps": "fps",
        "ctrl_img": "ctrl_img",
        "ctrl_idx": "ctrl_idx",
    }
)
WITHOUT_EFFECT = frozenset({"p2", "n2", "gr", "a", "ref", "ev", "extra_values"})  # read for other families
TEXTS = frozenset({"neg", "ctrl_img"})
FRACTIONS = frozenset({"guidance_scale", "network_multiplier"})
LONGEST_NUMBER = 40  # characters


@dataclass(frozen=True)
class Flagged:
    """A prompt without its flags, what they set, the unknown ones that were dropped with their text, and the faults."""

    prompt: str
    values: Mapping[str, str | int | float]
    dropped: tuple[str, ...]
    wrong: tuple[str, ...]


def split_flags(prompt: str) -> Flagged:
    """As the trainer does: cut at every `--`, the first word of a piece is its flag, the rest its value; last wins."""
    text, *pieces = prompt.strip().split("--")
    values: dict[str, str | int | float] = {}
    dropped: list[str] = []
    wrong: list[str] = []
    for piece in pieces:
        flag = piece.split(" ")[0].strip()
        content = piece[len(flag) :].strip()
        name = FLAGS.get(flag)
        if name is None:
            if flag not in WITHOUT_EFFECT:
                dropped.append(piece.strip())
        elif name in TEXTS:
            values[name] = content
        else:
            number = _number(content, whole=name not in FRACTIONS)
            if number is None:
                wrong.append(f"--{flag} takes a number")
            else:
                values[name] = number
    return Flagged(text.strip(), values, tuple(dropped), tuple(wrong))


def _number(text: str, whole: bool) -> int | float | None:
    if len(text) > LONGEST_NUMBER:
        return None
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
