"""What is wrong with a field, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from wan_ui.errors import InvalidRequest
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
