"""The page's sentences for refused requests: a field's label and bounds in place of the schema's own wording."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from wan_ui.errors import WanUIError
from wan_ui.request import LoraItem, PromptItem
from wan_ui.ui.form_schema import bounds

MOST_SENTENCES = 8
_BOUND = re.compile(r"(?P<value>.+: )?Input should be (?P<which>greater|less) than or equal to (?P<bound>\S+)")
_SCHEMA_SENTENCES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Input should be a valid integer"), "must be a whole number"),
    (re.compile(r"Input should be a (valid|finite) number"), "must be a number"),
    (re.compile(r"Input should be a valid string"), "must be text"),
    (re.compile(r"Input should be a valid boolean"), "must be true or false"),
    (re.compile(r"Input should be a valid (?:dictionary|object)\b.*"), "must be an object"),
    (re.compile(r"Input should be a valid (?:list|tuple|array)"), "must be a list"),
    (re.compile(r"Input should be (.+)"), r"must be \1"),
    (re.compile(r"Field required"), "is required"),
    (re.compile(r"a number is needed"), "is empty: enter a number"),
    (re.compile(r"Extra inputs are not permitted"), "is not a known field"),
    (re.compile(r"String should have (at (?:most|least)) (\d+ characters?)"), r"must have \1 \2"),
    (re.compile(r"String should match pattern .*"), "has a value that is not allowed"),
    (re.compile(r"(?:Tuple|List) should have (at (?:most|least)) (\d+) items?.*"), r"must have \1 \2 entries"),
    (re.compile(r"Value error, true or false is needed"), "must be true or false"),
    (re.compile(r"Value error, (.*)"), r"is not valid: \1"),
)
"""What a message of pydantic's begins with, and what follows the field's label instead."""


def sentences(error: WanUIError, label_of: Callable[[str], str] = str) -> list[str]:
    """What is wrong, one sentence for each wrong field, else the error's message.

    `label_of` turns a field's `loc`, such as `prompts.0.width`, into the label of its control.
    """
    fields: Sequence[Any] = error.details.get("fields") or []
    if not fields:
        return [error.message]
    texts = [field_sentence(label_of(item["loc"]), item["loc"], item["msg"]) for item in fields[:MOST_SENTENCES]]
    more = len(fields) - MOST_SENTENCES
    return [*texts, f"and {more} more"] if more > 0 else texts


def field_sentence(label: str, location: str, message: str) -> str:
    """One field's error as a sentence about its control, from a message of the schema or of this app."""
    bound = _BOUND.match(message)
    if bound is not None:
        return _bound_sentence(label, location, bound)
    for pattern, text in _SCHEMA_SENTENCES:
        match = pattern.match(message)
        if match is not None:
            return f"{label} {match.expand(text)}."
    return f"{label}: {message}"


def _bound_sentence(label: str, location: str, match: re.Match[str]) -> str:
    low, high = field_bounds(location)
    if match["value"]:  # one of an axis's values, which the message begins with
        subject = f"{label}: {match['value'].removesuffix(': ')}"
    else:
        subject = label
        if low is not None and high is not None:
            return f"{subject} must be {between(low, high)}."
    return f"{subject} must be at {'least' if match['which'] == 'greater' else 'most'} {match['bound']}."


def field_bounds(location: str) -> tuple[float | None, float | None]:
    """The smallest and largest value of the field at a `loc`; None for a side without a bound."""
    name = location.rsplit(".", 1)[-1]
    for schema in (PromptItem, LoraItem):
        if name in schema.model_fields:
            return bounds(schema, name)
    return None, None


def between(low: float, high: float) -> str:
    """`between 64 and 4096`."""
    return f"between {int(low) if low == int(low) else low} and {int(high) if high == int(high) else high}"
