"""What is wrong with a field, in plain words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wan_ui import field_errors
from wan_ui.api.bodies import MOST_MARKS, decode_json
from wan_ui.errors import BadJson, InvalidRequest
from wan_ui.request import parse


def prompt(**fields: Any) -> dict[str, Any]:
    return {"model": "wan21_1b", "prompts": [{"prompt": "a", **fields}]}


@pytest.mark.parametrize(
    ("body", "loc", "words"),
    [
        (prompt(width=8), "prompts.0.width", "must be at least 64"),
        (prompt(num_frames=10**6), "prompts.0.num_frames", "must be at most"),
        (prompt(width="wide"), "prompts.0.width", "must be a whole number"),
        (prompt(guidance_scale="much"), "prompts.0.guidance_scale", "must be a number"),
        (prompt(prompt=3), "prompts.0.prompt", "must be text"),
        ({"model": "wan21_1b"}, "prompts", "is missing"),
        ({"model": "wan21_1b", "prompts": []}, "prompts", "must have at least 1"),
        ({"model": "wan21_1b", "prompts": 1}, "prompts", "must be a list"),
        ([], "body", "must be an object"),
        (prompt() | {"colour": 1}, "colour", "is not a known field"),
    ],
)
def test_pydantics_errors_in_plain_words(body: Any, loc: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    (field,) = caught.value.details["fields"]
    assert field["loc"] == loc and words in field["msg"]
    assert caught.value.message == f"{loc} {field['msg']}."
    assert "Input" not in field["msg"]


@pytest.mark.parametrize(
    "body",
    [
        prompt(**{f"unknown_{number}": 1 for number in range(field_errors.MOST_VALUES)}),
        {"model": "wan21_1b", "prompts": [{"prompt": "a", **dict.fromkeys(map(str, range(200)), 1)}] * 1_000},
        prompt() | {"loras": [{"path": "a.safetensors", "network_multiplier": [1.0] * field_errors.MOST_VALUES}]},
    ],
)
def test_a_body_of_too_many_values_is_not_validated(body: Any) -> None:
    """pydantic makes an error of each unknown field: a million of them took 7 s, during which no other thread ran."""
    with pytest.raises(InvalidRequest) as caught:
        decode_json(json.dumps(body).encode())
    assert [field["loc"] for field in caught.value.details["fields"]] == ["body"]


def test_the_first_of_many_wrong_fields_are_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(prompt(**{f"unknown_{number}": 1 for number in range(2 * field_errors.MOST_FIELDS)}))
    assert len(caught.value.details["fields"]) == field_errors.MOST_FIELDS


def test_very_many_wrong_fields_are_counted() -> None:
    """pydantic hands over 90,000 errors within 160 ms, in which no other thread runs."""
    with pytest.raises(InvalidRequest) as caught:
        parse(prompt(**{f"unknown_{number}": 1 for number in range(2 * field_errors.MOST_ERRORS)}))
    (field,) = caught.value.details["fields"]
    assert (field["loc"], field["msg"].split()[:2]) == ("body", ["has", f"{2 * field_errors.MOST_ERRORS + 1:,}"])


def test_a_body_of_millions_of_values_is_not_decoded() -> None:
    with pytest.raises(BadJson, match="too many values"):
        decode_json(b'{"prompts": [' + b"1," * MOST_MARKS + b"1]}")
    assert decode_json(b'{"prompts": ["' + b"," * 900_000 + b'"]}')
