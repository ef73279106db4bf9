"""The page's sentences for refused requests: a field's label and bounds in place of the schema's own wording."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wan_ui.errors import (
    ControlImageInvalid,
    ControlImageRequired,
    LoraInvalid,
    LoraMismatch,
    LoraNotFound,
    WanUIError,
)
from wan_ui.request import LoraItem, PromptItem
from wan_ui.ui.form_schema import bounds
from wan_ui.ui.texts import text_of, translated

MOST_SENTENCES = 8
LORA_ERRORS = (LoraInvalid, LoraNotFound, LoraMismatch)
FIRST_FRAME_ERRORS = (ControlImageRequired, ControlImageInvalid)
_BOUND = re.compile(r"(?P<value>.+: )?must be at (?P<which>least|most) (?P<bound>\S+)")
_PREDICATES = ("must ", "is ", "has ")
"""What a message begins with that completes a sentence about its field, see wan_ui.field_errors."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and the request's field that it concerns; "" where it is none or not known."""

    text: str
    field: str = ""


def problems(error: WanUIError, label_of: Callable[[str], str] = str) -> list[Problem]:
    """What is wrong, one sentence for each wrong field, else the error's message.

    `label_of` turns a field's `loc`, such as `prompts.0.width`, into the label of its control.
    """
    fields: Sequence[Any] = error.details.get("fields") or []
    if not fields:
        # What follows the colon tells programs which field to set.
        message = f"{error.message.partition(':')[0]}." if isinstance(error, ControlImageRequired) else error.message
        return [Problem(translated(message), "ctrl_img" if isinstance(error, FIRST_FRAME_ERRORS) else "")]
    found = [
        Problem(field_sentence(label_of(item["loc"]), item["loc"], item["msg"]), field_of(item["loc"]))
        for item in fields[:MOST_SENTENCES]
    ]
    more = len(fields) - MOST_SENTENCES
    return [*found, Problem(text_of("error.and_more", more=more))] if more > 0 else found


def field_of(location: str) -> str:
    """The field of a request at a `loc`: `width` of `prompts.0.width`, `loras` of `loras.1.path`.

    Each LoRA has a strength of its own: `loras.1.network_multiplier`, without what follows it.
    """
    parts = location.split(".")
    if parts[0] == "loras" and parts[2:3] == ["network_multiplier"]:
        return ".".join(parts[:3])
    if parts[0] != "prompts":
        return parts[0]
    return parts[2] if len(parts) > 2 else ""


def concerns_loras(error: WanUIError) -> bool:
    """Whether an error is about the LoRAs alone, and is shown where they are chosen."""
    fields: Sequence[Any] = error.details.get("fields") or []
    named = {field_of(item["loc"]).partition(".")[0] for item in fields}
    return isinstance(error, LORA_ERRORS) or (bool(named) and named <= {"loras", "speed_lora", "stack"})


def field_sentence(label: str, location: str, message: str) -> str:
    """One field's error as a sentence about its control, from a message of the schema or of this app."""
    bound = _BOUND.fullmatch(message)
    if bound is not None:
        return _bound_sentence(label, location, bound)
    if message.startswith(_PREDICATES):
        return text_of("error.field", label=label, message=translated(message))
    return text_of("error.field_says", label=label, message=translated(message))


def _bound_sentence(label: str, location: str, match: re.Match[str]) -> str:
    low, high = field_bounds(location)
    if match["value"]:  # one of an axis's values, which the message begins with
        subject = f"{label}: {match['value'].removesuffix(': ')}"
    else:
        subject = label
        if low is not None and high is not None:
            return text_of("error.must_be", label=subject, bounds=between(low, high))
    return text_of(f"error.at_{match['which']}", label=subject, bound=match["bound"])


def field_bounds(location: str) -> tuple[float | None, float | None]:
    """The smallest and largest value of the field at a `loc`; None for a side without a bound."""
    parts = location.split(".")
    name = "network_multiplier" if "network_multiplier" in parts else parts[-1]  # one of several values has its bounds
    for schema in (PromptItem, LoraItem):
        if name in schema.model_fields:
            return bounds(schema, name)
    return None, None


def between(low: float, high: float) -> str:
    """`between 64 and 4096`."""
    shown = [int(bound) if bound == int(bound) else bound for bound in (low, high)]
    return text_of("error.between", low=shown[0], high=shown[1])


def sentences(error: WanUIError, label_of: Callable[[str], str] = str) -> list[str]:
    """The texts of `problems`."""
    return [problem.text for problem in problems(error, label_of)]
