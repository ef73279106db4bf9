"""The page's sentences for refused requests."""

from __future__ import annotations

from typing import Any

import pytest

from wan_ui.errors import InvalidRequest, LoraNotFound
from wan_ui.models import MODELS
from wan_ui.request import PromptItem, parse
from wan_ui.ui import form_schema
from wan_ui.ui.error_texts import MOST_SENTENCES, field_sentence, sentences

MODEL = MODELS["wan22_5b"]


def refused(**changes: Any) -> list[str]:
    item = {"prompt": "x", **changes.pop("prompt", {})}
    with pytest.raises(InvalidRequest) as caught:
        parse({"model": MODEL.id, "prompts": [item], **changes})
    return sentences(caught.value, lambda location: form_schema.label_of(MODEL, location))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": {"width": 20}}, "Width must be between 64 and 4096."),
        ({"prompt": {"height": 9999}}, "Height must be between 64 and 4096."),
        ({"prompt": {"sample_steps": 500}}, "Steps must be between 1 and 150."),
        ({"prompt": {"seed": 1.5}}, "Seed must be a whole number."),
        ({"prompt": {"seed": "abc"}}, "Seed must be a whole number."),
        ({"prompt": {"guidance_scale": "abc"}}, "Guidance scale must be a number."),
        ({"prompt": {"guidance_scale": float("nan")}}, "Guidance scale must be a finite number."),
        ({"prompt": {"prompt": 5}}, "Prompt must be text."),
        ({"prompt": {"fsp": 5}}, "prompts.0.fsp is not a known field."),
        ({"recipe": "other"}, "Recipe must be 'reference', 'preview' or 'preview_unipc'."),
        ({"loras": [{"path": "a", "network_multiplier": 7}]}, "LoRA scale (strength) must be between -4 and 4."),
        ({"vae_tiling": "maybe"}, "Tiled VAE decoding must be true or false."),
    ],
)
def test_the_schemas_messages_become_sentences_about_the_control(changes: dict[str, Any], expected: str):
    assert refused(**changes) == [expected]


def test_bounds_of_the_schema_are_not_repeated_in_a_table():
    low, high = form_schema.bounds(PromptItem, "num_frames")
    assert refused(prompt={"num_frames": 0}) == [f"Frames must be between {low} and {high}."]


def test_a_value_of_an_axis_is_named():
    text = field_sentence("Columns", "compare.columns.values.1", "7: must be at most 2")
    assert text == "Columns: 7 must be at most 2."


def test_messages_of_this_app_stay_as_they_are():
    assert (
        field_sentence("LoRA", "loras", "the same file twice in one stack") == "LoRA: the same file twice in one stack"
    )
    assert sentences(LoraNotFound("There is no LoRA a.safetensors.")) == ["There is no LoRA a.safetensors."]


def test_many_wrong_fields_are_counted():
    error = InvalidRequest("x", fields=[{"loc": f"prompts.{i}.width", "msg": "no"} for i in range(20)])
    assert len(sentences(error)) == MOST_SENTENCES + 1 and sentences(error)[-1] == "and 12 more"
