"""High and low in the names of LoRA files: the two halves of one save differ in nothing else."""

from __future__ import annotations

import re

_NOISE = re.compile(r"(high|low)(?=[ _.-]*noise)", re.IGNORECASE)
_DESCRIPTION = "poly|res|resolution|quality|key|angle|contrast|details?|speed|fps|fi|end|fashion|definition"
# A word of its own that does not describe something else: low_poly and high-res name no half.
_HIGH_OR_LOW = re.compile(rf"(?<![a-z0-9])(high|low)(?![a-z0-9])(?![ _.-](?:{_DESCRIPTION})(?![a-z]))", re.IGNORECASE)
_OTHER = {"high": "low", "low": "high", "High": "Low", "Low": "High", "HIGH": "LOW", "LOW": "HIGH"}


def slot_of_name(name: str) -> str | None:
    """The half that a file's name states, "high" or "low"; None when it states neither or both."""
    words = {word.lower() for word in _NOISE.findall(name) or _HIGH_OR_LOW.findall(name)}
    return words.pop() if len(words) == 1 else None


def states_noise(name: str) -> bool:
    """Whether a file's name says high or low noise, not just high or low."""
    return _NOISE.search(name) is not None


def partner_name(name: str) -> str | None:
    """The name of the other half of a pair: `x_high_noise.safetensors` <-> `x_low_noise.safetensors`."""
    if slot_of_name(name) is None:
        return None
    pattern = _NOISE if _NOISE.search(name) else _HIGH_OR_LOW
    return pattern.sub(lambda word: _OTHER.get(word.group(1), _OTHER[word.group(1).lower()]), name)
