"""Schema to controls, and values to request and back."""

from __future__ import annotations

import inspect
import re

import pytest

from wan_ui.errors import InvalidRequest
from wan_ui.models import MODELS, WanModel
from wan_ui.request import LoraItem, PromptItem, parse
from wan_ui.ui import form_layout, form_notes, form_schema

ROWS = list(MODELS.values())
SHA = "a" * 64


def filled(model: WanModel) -> form_schema.Values:
    """Values that differ from every default."""
    values: form_schema.Values = {
        "prompt": 'sks "quoted" — ünïcode\nsecond line',
        "neg": "blurry",
        "width": 1000,
        "height": 700,
        "num_frames": 40,
        "fps": 24,
        "sample_steps": 12,
        "guidance_scale": 3.5,
        "seed": 7,
        "trigger_word": "sks",
        "recipe": "preview",
        "vae_tiling": True,
        "speedup": "step_cache",
        "sampler": "lcm",
        "flow_shift": 3.5,
        "base": {"transformer": "wan.safetensors"},
    }
    if model.control_image != "none":
        values |= {"ctrl_img": f"upload://{SHA}", "apply_exif": True}
    if model.takes_last_frame:
        values["ctrl_img_last"] = f"upload://{'b' * 64}"
    if model.two_transformers:
        values |= {"boundary": 0.8, "switch_step": None, "guidance_scale_2": 2.5}
    for position in form_schema.lora_positions(model):
        values |= {position.lora: form_schema.NO_LORA, position.scale: 1.0}
    for index, slot in enumerate(model.slots):
        values[form_schema.lora_name(slot)] = f"job/{slot}.safetensors"
        values[form_schema.scale_name(slot)] = 0.5 + index / 4
    return values


def started(model: WanModel) -> form_schema.Values:
    return {control.name: control.default for control in form_schema.controls(model)}


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.id)
@pytest.mark.parametrize("make", [filled, started])
def test_values_become_a_request_and_the_request_the_same_values(model, make):
    values = make(model)
    assert form_schema.values(parse(form_schema.body(model, values))) == (model, values)


@pytest.mark.parametrize("model", [model for model in ROWS if model.two_transformers], ids=lambda model: model.id)
@pytest.mark.parametrize("side", ["high", "low"])
def test_one_side_of_a_pair_is_sent_alone(model, side):
    other = "low" if side == "high" else "high"
    values = {**filled(model), form_schema.lora_name(other): form_schema.NO_LORA}
    loras = form_schema.body(model, values)["loras"]
    assert [(item["transformer"], item["path"]) for item in loras] == [(side, f"job/{side}.safetensors")]


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.id)
def test_the_form_of_each_model_has_its_labels(model):
    labels = [control.label for control in form_schema.controls(model)]
    expected = ["Prompt", "Negative prompt", "Width", "Height", "Frames", "FPS", "Steps", "Guidance scale", "Seed"]
    expected += [] if model.control_image == "none" else ["First frame"]
    expected += ["Last frame"] if model.takes_last_frame else []
    expected += ["Sampler", "Flow shift"]
    expected += ["Boundary", "High-noise steps", "Low-noise guidance"] if model.two_transformers else []
    expected += ["Trigger word", "Recipe"]
    expected += [] if model.control_image == "none" else ["Apply EXIF orientation"]
    expected += ["Tiled VAE decoding", "Speed-up", "Checkpoint files"]
    if model.two_transformers:
        sides = [("High-noise LoRA", "High-noise scale"), ("Low-noise LoRA", "Low-noise scale")]
    else:
        sides = [("LoRA", "LoRA scale")]
    for lora, scale in sides:
        expected += [lora, scale]
        for number in range(2, form_schema.MOST_STACKED + 1):
            expected += [f"{lora} {number}", f"{scale} {number}"]
    assert labels == expected


def test_bounds_are_the_schemas():
    controls = {control.name: control for control in form_schema.controls(MODELS["wan22_5b"])}
    for name in ("width", "height", "num_frames", "fps", "sample_steps", "guidance_scale", "seed"):
        assert (controls[name].low, controls[name].high) == form_schema.bounds(PromptItem, name) != (None, None)
    scale = controls["scale_single"]
    assert (scale.low, scale.high) == form_schema.bounds(LoraItem, "network_multiplier") == (-4, 4)
    for control in form_schema.controls(MODELS["wan22_5b"]):
        if control.low is not None and control.high is not None and control.default is not None:
            assert control.low <= control.default <= control.high


def test_no_number_that_bounds_a_control_is_written_in_the_modules():
    bounds = {form_schema.bounds(PromptItem, name)[1] for name in ("width", "num_frames", "fps", "sample_steps")}
    for module in (form_schema, form_layout, form_notes):
        numbers = {float(text) for text in re.findall(r"\b\d+\b", inspect.getsource(module))}
        assert not bounds & numbers


def test_starting_values_stand_in_for_defaults():
    controls = {control.name: control for control in form_schema.controls(MODELS["wan21_1b"], {"width": 128})}
    assert controls["width"].default == 128
    assert controls["height"].default == MODELS["wan21_1b"].form_size.height


def test_the_chosen_prompt_of_several_and_its_own_trigger_word():
    body = {
        "model": "wan22_5b",
        "trigger_word": "all",
        "prompts": [{"prompt": "a"}, {"prompt": "b", "trigger_word": "own", "width": 640}],
    }
    model, values = form_schema.values(parse(body), 1)
    assert model.id == "wan22_5b"
    assert (values["prompt"], values["trigger_word"], values["width"], values["seed"]) == ("b", "own", 640, 43)


def test_what_was_typed_is_carried_and_what_was_untouched_is_the_next_models():
    before, after = started(MODELS["wan22_5b"]), started(MODELS["wan21_1b"])
    values = {**before, "prompt": "kept", "width": 640}
    carried = form_schema.carried(values, before, after)
    assert (carried["prompt"], carried["width"]) == ("kept", 640)
    assert carried["height"] == after["height"] != before["height"]


@pytest.mark.parametrize(
    ("typed", "number"), [("", None), (" ", None), ("3", 3), ("0.5", 0.5), ("abc", "abc"), (None, None), ("nan", None)]
)
def test_an_optional_number_as_it_is_typed(typed, number):
    assert form_schema.number_typed(typed) == number


@pytest.mark.parametrize("number", [None, 3, 0.875])
def test_an_optional_number_comes_back_as_it_was(number):
    assert form_schema.number_typed(form_schema.number_shown(number)) == number


def test_an_empty_number_is_named():
    model = MODELS["wan22_5b"]
    with pytest.raises(InvalidRequest, match="Width is empty"):
        form_schema.body(model, {**started(model), "width": None})


def test_a_seed_no_browser_can_hold_is_refused_rather_than_rounded():
    with pytest.raises(InvalidRequest, match="seed"):
        form_schema.values(parse({"model": "wan22_5b", "prompts": [{"prompt": "a", "seed": 2**53}]}))


@pytest.mark.parametrize(
    ("draft", "left"),
    [
        (None, {}),
        (["width"], {}),
        ({"width": "1000", "height": True, "recipe": "other", "prompt": 3, "unknown": 1}, {}),
        ({"width": None, "height": 20, "recipe": "preview", "prompt": "x", "ctrl_img": None}, None),
    ],
)
def test_a_draft_keeps_only_what_fits(draft, left):
    assert form_schema.kept(MODELS["wan22_5b"], draft) == (draft if left is None else left)


@pytest.mark.parametrize(
    ("location", "label"),
    [
        ("prompts.0.width", "Width"),
        ("prompts.0.neg", "Negative prompt"),
        ("loras.0.network_multiplier", "LoRA scale (strength)"),
        ("trigger_word", "Trigger word"),
        ("model", "model"),
    ],
)
def test_an_error_names_the_control(location, label):
    assert form_schema.label_of(MODELS["wan22_5b"], location) == label


@pytest.mark.parametrize(
    ("model", "recipe", "asked", "effective"),
    [
        ("wan22_5b", "reference", (1000, 700), (992, 672)),
        ("wan22_14b_t2v", "reference", (848, 480), (832, 480)),
        ("wan22_14b_t2v", "preview", (848, 480), (848, 480)),
    ],
)
def test_the_effective_size_follows_the_row_and_the_recipe(model, recipe, asked, effective):
    values = {"width": asked[0], "height": asked[1], "recipe": recipe}
    assert form_schema.size(MODELS[model], values) == (*asked, *effective)


@pytest.mark.parametrize("wrong", [None, 63, 4097, 100.5, float("nan"), "1000", True])
def test_a_wrong_size_has_no_effective_size(wrong):
    assert form_schema.size(MODELS["wan22_5b"], {"width": wrong, "height": 700, "recipe": "reference"}) is None


@pytest.mark.parametrize(("model", "frames"), [("wan22_5b", 37), ("wan22_14b_i2v", 37), ("wan21_1b", 41)])
def test_the_effective_frames_follow_the_row(model, frames):
    assert form_schema.frames(MODELS[model], {"num_frames": 40, "fps": 16}) == (40, frames, 16)


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.id)
@pytest.mark.parametrize("image", [(1920, 1080), (1080, 1920), (500, 500), (1600, 600), (333, 777), (4000, 100)])
def test_the_images_shape_keeps_the_area_and_no_longer_stretches(model, image):
    wanted = (model.form_size.width, model.form_size.height)
    width, height = form_schema.image_shape(model, "reference", wanted, image)
    divisor = model.divisor["reference"]
    assert width % divisor == height % divisor == 0
    assert all(low <= side <= high for side, (low, high) in ((width, (64, 4096)), (height, (64, 4096))))
    assert width * height <= wanted[0] * wanted[1]
    if image != (4000, 100):
        assert width * height > 0.8 * wanted[0] * wanted[1]
        assert not form_schema.stretches(model, "reference", (width, height), image)


@pytest.mark.parametrize(
    ("image", "stretched"),
    [((1024, 1024), False), ((500, 500), False), ((1040, 1024), False), ((1600, 600), True), ((1024, 1536), True)],
)
def test_a_first_frame_of_another_shape_is_stretched(image, stretched):
    assert form_schema.stretches(MODELS["wan22_5b"], "reference", (1024, 1024), image) is stretched
