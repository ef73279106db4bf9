"""Validation errors of pydantic in plain words, as the `{loc, msg}` fields of InvalidRequest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pydantic import ValidationError

from wan_ui.errors import InvalidRequest

MOST_VALUES = 100_000  # fields and list entries of a body; a request of 1,000 prompts has about 30,000
MOST_FIELDS = 200  # wrong fields that a response names
MOST_ERRORS = 5_000  # of a body, that are looked at: pydantic hands them over in one go, in which no other thread runs

_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "string_pattern_mismatch": "has a value that is not allowed",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
}


def check_count(body: Any) -> None:
    """Raises InvalidRequest for JSON values too many to validate: pydantic makes an error of every unknown field."""
    count, containers = 0, [body] if isinstance(body, (Mapping, list)) else []
    while containers:
        container = containers.pop()
        count += len(container)
        if count > MOST_VALUES:
            text = f"has more than {MOST_VALUES:,} fields and entries"
            raise InvalidRequest(f"body {text}.", fields=[{"loc": "body", "msg": text}])
        values = container.values() if isinstance(container, Mapping) else container
        containers += [value for value in values if isinstance(value, (Mapping, list))]


def items_of(error: ValidationError) -> list[Any]:
    """What pydantic says of each wrong field. Raises InvalidRequest, which names none, for more than MOST_ERRORS."""
    if error.error_count() > MOST_ERRORS:
        text = f"has {error.error_count():,} wrong or unknown fields, too many to name"
        raise InvalidRequest(f"body {text}.", fields=[{"loc": "body", "msg": text}])
    return list(error.errors(include_url=False, include_input=False))


def message(error: Mapping[str, Any]) -> str:
    """What one of pydantic's error items says about its field, as the end of a sentence that begins with its name."""
    text = _MESSAGES.get(error["type"])
    if text is None:
        return str(error["msg"]).removeprefix("Value error, ")  # of a validator of our own
    return text.format(**error.get("ctx", {}))


def location(error: Mapping[str, Any]) -> str:
    """The path of the field, such as `prompts.0.width`; `body` for the whole body.

    The forms of a field that takes several, whose names stand in parentheses, are left out.
    """
    return ".".join(str(part) for part in error["loc"] if not str(part).startswith("(")) or "body"


def invalid_request(errors: Iterable[Any]) -> InvalidRequest:
    """The error to answer with, for pydantic's error items; the message is about the first of them.

    Of more than MOST_FIELDS the first ones are named.
    """
    fields = [{"loc": location(error), "msg": message(error)} for error in islice(errors, MOST_FIELDS)]
    first = fields[0]
    colon = "" if first["msg"].startswith(("must ", "is ", "has ")) else ":"
    return InvalidRequest(f"{first['loc']}{colon} {first['msg'].rstrip('.')}.", fields=fields)
