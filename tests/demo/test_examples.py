"""What a demo tab starts with is a request that runs as it stands, with a LoRA that fits."""

from __future__ import annotations

import pytest

from tools import demo_scenes as scenes
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.demo import examples
from wan_ui.demo.checkpoints import Demo
from wan_ui.errors import LoraMismatch
from wan_ui.lora.fit import check_fit
from wan_ui.lora.header import read_header
from wan_ui.models import MODELS, WanModel
from wan_ui.request import parse, resolve
from wan_ui.ui import form_schema

ROWS = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def _values(model: WanModel) -> form_schema.Values:
    loras = {form_schema.lora_name(slot): path for slot, path in examples.loras_of(model).items()}
    return {
        control.name: control.default for control in form_schema.controls(model, {**examples.starting(model), **loras})
    }


@ROWS
def test_a_tab_starts_with_a_whole_request(model: WanModel) -> None:
    body = form_schema.body(model, _values(model))
    assert [entry["path"] for entry in body["loras"]] == list(examples.loras_of(model).values())
    if model.control_image == "required":
        body["prompts"][0]["ctrl_img"] = "upload://" + "0" * 64
    (made,) = resolve(parse(body), lambda image: image)
    words = scenes.parse(made.prompt)
    assert words.trigger and None not in (words.shape, words.colour, words.background, words.motion)
    assert (made.width, made.height, made.num_frames) == (scenes.SIDE, scenes.SIDE, scenes.FRAMES)


@ROWS
def test_its_lora_fits_and_the_wrong_one_does_not(trained_demo: Demo, model: WanModel) -> None:
    found = Checkpoints(trained_demo.models_dir, offline=True)
    for slot, path in examples.loras_of(model).items():
        config = found.transformer_config(model, model.slots[slot])
        check_fit(read_header(trained_demo.lora_dir / path), model, slot, config)
        with pytest.raises(LoraMismatch):
            check_fit(read_header(trained_demo.lora_dir / examples.WRONG), model, slot, config)


def test_the_vocabulary_of_the_package_is_what_the_models_were_trained_on() -> None:
    assert (*scenes.COLOURS,) == examples.COLOURS and (*scenes.BACKGROUNDS,) == examples.BACKGROUNDS


def test_every_example_is_understood_and_every_word_said_is_known() -> None:
    for prompt in (*examples.PROMPTS, examples.FROM_IMAGE):
        words = scenes.parse(prompt.replace("[trigger]", examples.TRIGGER))
        assert words.trigger and None not in (words.shape, words.colour, words.background, words.motion), prompt
    for word in (*examples.SHAPES, *examples.COLOURS, *examples.BACKGROUNDS):
        assert word in examples.WORDS
