"""The wire schema and resolve() as tables: bounds, names, triggers, sizes, frames, seeds, slots, control images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError
from itertools import count
from typing import Any

import pytest

from wan_ui.errors import (
    ControlImageNotSupported,
    ControlImageRequired,
    InvalidRequest,
    ModelNotFound,
    MoeFormatNotSupported,
    MoeFormatRequired,
    SingleLoraOnly,
    SingleMoeConfigOnly,
    WanUIError,
)
from wan_ui.job import generation_body, generation_from
from wan_ui.models import MODELS
from wan_ui.request import (
    LARGEST_RANDOM_SEED,
    Generation,
    InferenceRequest,
    LoraUse,
    find_model,
    parse,
    random_seed,
    resolve,
    round_frames,
    snap_size,
)

ONE = "wan21_1b"
PAIR = "wan22_14b_t2v"


def request(prompt: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"model": ONE, "prompts": [{"prompt": "a fox", **(prompt or {})}], **fields}


def resolved(body: Mapping[str, Any], draws: Iterator[int] | None = None) -> tuple[Generation, ...]:
    drawn = count(1000) if draws is None else draws
    return resolve(parse(body), store_image=lambda text: f"sha of {text}", random_seed=lambda: next(drawn))


def refused(body: Any) -> list[str]:
    """The loc of each wrong field."""
    with pytest.raises(InvalidRequest) as refusal:
        parse(body)
    error = refusal.value
    assert (error.status, error.code) == (422, "INVALID_REQUEST")
    assert all(set(field) == {"loc", "msg"} and field["msg"] for field in error.details["fields"])
    assert error.message.startswith(error.details["fields"][0]["loc"])
    json.dumps(error.body(), allow_nan=False)
    return [field["loc"] for field in error.details["fields"]]


# The schema


def test_defaults() -> None:
    (generation,) = resolved(request())
    assert generation == Generation(
        model=ONE,
        recipe="reference",
        prompt="a fox",
        neg="",
        width=1024,
        height=1024,
        num_frames=41,
        fps=16,
        seed=42,
        sample_steps=25,
        guidance_scale=4.0,
        image=None,
        loras=(),
        requested_width=1024,
        requested_height=1024,
        requested_num_frames=41,
        ignored=(),
    )


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("width", 64, 4096),
    ("height", 64, 4096),
    ("sample_steps", 1, 150),
    ("guidance_scale", 0, 20),
    ("num_frames", 1, 1000),
    ("fps", 1, 120),
    ("seed", -1, 2**63 - 1),
)


@pytest.mark.parametrize(("name", "lowest", "highest"), BOUNDS)
def test_bounds_of_a_prompt(name: str, lowest: float, highest: float) -> None:
    for value in (lowest, highest):
        assert getattr(parse(request({name: value})).prompts[0], name) == value
    step = 0.001 if name == "guidance_scale" else 1
    for value in (lowest - step, highest + step, -math.inf, math.inf, math.nan, 10**400):
        assert refused(request({name: value})) == [f"prompts.0.{name}"]


@pytest.mark.parametrize("value", [True, False, "many", [], {}, "", "1e"])
@pytest.mark.parametrize("name", [name for name, _, _ in BOUNDS])
def test_a_number_must_be_a_number(name: str, value: Any) -> None:
    assert refused(request({name: value})) == [f"prompts.0.{name}"]


@pytest.mark.parametrize("name", [name for name, _, _ in BOUNDS if name != "guidance_scale"])
def test_whole_numbers_are_whole(name: str) -> None:
    assert refused(request({name: 64.5})) == [f"prompts.0.{name}"]
    assert getattr(parse(request({name: 64.0})).prompts[0], name) == 64


@pytest.mark.parametrize("value", [-4, 0, 4, -1.5])
def test_a_multiplier_in_bounds(value: float) -> None:
    (generation,) = resolved(request(loras=[{"path": "a.safetensors", "network_multiplier": value}]))
    assert generation.loras == (LoraUse("single", "a.safetensors", float(value)),)


@pytest.mark.parametrize("value", [-4.001, 4.001, math.nan, math.inf, True, "strong"])
def test_a_multiplier_out_of_bounds(value: Any) -> None:
    assert refused(request(loras=[{"path": "a", "network_multiplier": value}])) == ["loras.0.network_multiplier"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (request(colour="red"), "colour"),
        (request({"colour": "red"}), "prompts.0.colour"),
        (request(loras=[{"path": "a", "colour": "red"}]), "loras.0.colour"),
        (request({"steps": 3}), "prompts.0.steps"),
        (request(colour=False), "colour"),
        (request(colour=""), "colour"),
    ],
)
def test_an_unknown_field_is_refused_by_name(body: dict[str, Any], loc: str) -> None:
    assert refused(body) == [loc]


def test_null_is_left_out_wherever_it_stands() -> None:
    nulls = dict.fromkeys(
        ("trigger_word", "width", "height", "seed", "sample_steps", "guidance_scale", "neg", "num_frames", "fps",
         "sampler", "ctrl_img", "colour")
    )  # fmt: skip
    body = request(nulls, recipe=None, trigger_word=None, loras=None, colour=None)
    assert resolved(body) == resolved(request())
    lora = {"path": "a", "transformer": None, "network_multiplier": None, "colour": None}
    assert resolved(request(loras=[lora])) == resolved(request(loras=[{"path": "a"}]))


@pytest.mark.parametrize(
    ("body", "locs"),
    [
        (None, ["body"]),
        ([], ["body"]),
        ("text", ["body"]),
        (5, ["body"]),
        ({}, ["model", "prompts"]),
        ({"model": None, "prompts": None}, ["model", "prompts"]),
        ({"model": 5, "prompts": []}, ["model", "prompts"]),
        ({"model": ONE, "prompts": "a fox"}, ["prompts"]),
        ({"model": ONE, "prompts": ["a fox"]}, ["prompts.0"]),
        ({"model": ONE, "prompts": [None]}, ["prompts.0"]),
        ({"model": ONE, "prompts": [{}]}, ["prompts.0.prompt"]),
        (request({"prompt": 5}), ["prompts.0.prompt"]),
        (request({"prompt": "x" * 20_001}), ["prompts.0.prompt"]),
        (request({"prompt": "\ud800"}), ["prompts.0.prompt"]),
        (request({"ctrl_img": 5}), ["prompts.0.ctrl_img"]),
        (request(recipe="other"), ["recipe"]),
        (request(loras=[{}]), ["loras.0.path"]),
        (request(loras=[{"path": ""}]), ["loras.0.path"]),
        (request(loras=[{"path": "a", "transformer": "middle"}]), ["loras.0.transformer"]),
        (request(loras=[{"path": "a"}] * 65), ["loras"]),
        (request(prompts=[{"prompt": "x"}] * 1001), ["prompts"]),
        (request({"width": 1, "fps": 0}), ["prompts.0.width", "prompts.0.fps"]),
    ],
)
def test_a_wrong_body_names_its_fields(body: Any, locs: list[str]) -> None:
    assert refused(body) == locs


def test_values_are_not_echoed() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(request({"width": "hf_secret"}, recipe="hf_secret"))
    assert "hf_secret" not in str(refusal.value.body())


def test_a_request_cannot_be_changed() -> None:
    checked = parse(request())
    with pytest.raises(ValueError, match="frozen"):
        checked.model = "x"
    with pytest.raises(FrozenInstanceError):
        resolved(request())[0].seed = 1  # type: ignore[misc]


def test_the_wire_form_parses_to_the_same_request() -> None:
    checked = parse(request({"seed": -1, "neg": "blur", "sampler": "x"}, trigger_word="sks", loras=[{"path": "a"}]))
    wire = checked.model_dump(mode="json", exclude_none=True)
    assert parse(json.loads(json.dumps(wire))) == checked
    assert isinstance(checked, InferenceRequest)


# The model


@pytest.mark.parametrize("model", ["", "wan", "WAN21_1B", "wan21_1b "])
def test_an_unknown_model_is_said_with_those_there_are(model: str) -> None:
    with pytest.raises(ModelNotFound) as refusal:
        resolved(request(model=model))
    assert (refusal.value.status, refusal.value.code) == (400, "MODEL_NOT_FOUND")
    assert refusal.value.details == {"models": list(MODELS), "supported_models": list(MODELS)}


def test_every_model_resolves() -> None:
    for model, row in MODELS.items():
        image = {"ctrl_img": "image"} if row.control_image == "required" else {}
        (generation,) = resolved(request(image, model=model))
        assert generation.model == model
        assert find_model(model) is row


# Trigger words


@pytest.mark.parametrize(
    ("prompt", "own", "shared", "expected"),
    [
        ("a [trigger] fox", None, "sks", "a sks fox"),
        ("a [trigger] fox", "own", "sks", "a own fox"),
        ("a [trigger] fox", "own", None, "a own fox"),
        ("a [trigger] fox", None, None, "a [trigger] fox"),
        ("a [trigger] fox", "", "sks", "a sks fox"),
        ("a [trigger] fox", "", "", "a [trigger] fox"),
        ("[trigger][trigger]", None, "[trigger]!", "[trigger]![trigger]!"),
        ("[Trigger] fox", None, "sks", "[Trigger] fox"),
        ("a fox", "own", "sks", "a fox"),
    ],
)
def test_trigger_words(prompt: str, own: str | None, shared: str | None, expected: str) -> None:
    (generation,) = resolved(request({"prompt": prompt, "trigger_word": own}, trigger_word=shared))
    assert generation.prompt == expected


@pytest.mark.parametrize("own", [True, False])
def test_trigger_words_do_not_make_a_prompt_endless(own: bool) -> None:
    item = {"prompt": "[trigger] " * 1900, **({"trigger_word": "w" * 19_000} if own else {})}
    with pytest.raises(InvalidRequest, match="longer than 20000 characters with its trigger words") as found:
        resolved(request(item, trigger_word="v" * 19_000))
    assert found.value.details["fields"][0]["loc"] == "prompts.0.prompt"


def test_a_trigger_word_is_each_prompts_own() -> None:
    prompts = [{"prompt": "[trigger]"}, {"prompt": "[trigger]", "trigger_word": "own"}, {"prompt": "[trigger]"}]
    assert [one.prompt for one in resolved(request(prompts=prompts, trigger_word="sks"))] == ["sks", "own", "sks"]


def test_the_negative_prompt_stays_as_written() -> None:
    assert resolved(request({"neg": "[trigger]"}, trigger_word="sks"))[0].neg == "[trigger]"


# Sizes


@pytest.mark.parametrize(
    ("model", "recipe", "asked", "size"),
    [
        ("wan22_5b", "reference", (1000, 700), (992, 672)),
        ("wan22_5b", "preview", (1000, 700), (992, 672)),
        ("wan22_14b_i2v", "reference", (1000, 700), (992, 688)),
        ("wan22_14b_t2v", "reference", (1000, 700), (992, 672)),
        ("wan22_14b_t2v", "preview", (1000, 700), (992, 688)),
        ("wan22_14b_t2v", "reference", (848, 480), (832, 480)),
        ("wan22_14b_t2v", "preview", (848, 480), (848, 480)),
        ("wan21_i2v_14b", "reference", (1000, 700), (992, 688)),
        ("wan21_i2v_14b480p", "reference", (864, 480), (864, 480)),
        ("wan21_14b", "reference", (1000, 700), (992, 688)),
        ("wan21_1b", "preview", (1000, 700), (992, 688)),
        ("wan21_1b", "reference", (4096, 64), (4096, 64)),
        ("wan22_5b", "reference", (95, 4095), (64, 4064)),
    ],
)
def test_sizes_are_floored(model: str, recipe: Any, asked: tuple[int, int], size: tuple[int, int]) -> None:
    row = MODELS[model]
    assert snap_size(row, recipe, *asked) == size
    fields: dict[str, Any] = {"width": asked[0], "height": asked[1]}
    if row.control_image == "required":
        fields["ctrl_img"] = "image"
    (generation,) = resolved(request(fields, model=model, recipe=recipe))
    assert (generation.width, generation.height) == size
    assert (generation.requested_width, generation.requested_height) == asked


# Frames

FLOOR = {1: 1, 2: 1, 4: 1, 5: 5, 8: 5, 9: 9, 37: 37, 38: 37, 40: 37, 41: 41, 81: 81, 121: 121, 1000: 997}
DIFFUSERS = {1: 1, 2: 1, 3: 1, 4: 5, 5: 5, 8: 9, 37: 37, 38: 37, 39: 37, 40: 41, 41: 41, 81: 81, 1000: 1001}


@pytest.mark.parametrize("model", MODELS)
def test_frames_of_every_model(model: str) -> None:
    row = MODELS[model]
    floors = model in {"wan22_5b", "wan22_14b_i2v"}
    for asked, frames in (FLOOR if floors else DIFFUSERS).items():
        fields: dict[str, Any] = {"num_frames": asked}
        if row.control_image == "required":
            fields["ctrl_img"] = "image"
        (generation,) = resolved(request(fields, model=model))
        assert (generation.num_frames, generation.requested_num_frames) == (frames, asked)


def test_frames_are_4n_plus_1() -> None:
    for asked in range(1, 1001):
        floored, rounded = round_frames("floor", asked), round_frames("diffusers", asked)
        assert floored % 4 == rounded % 4 == 1
        assert asked - 3 <= floored <= asked
        assert rounded - 1 <= asked < rounded + 3


# Seeds


def test_a_seed_left_out_is_42_and_the_prompts_number() -> None:
    assert [one.seed for one in resolved(request(prompts=[{"prompt": "x"}] * 4))] == [42, 43, 44, 45]


def test_each_minus_one_is_drawn_once() -> None:
    draws: list[int] = []

    def draw() -> int:
        draws.append(len(draws) + 1000)
        return draws[-1]

    prompts = [{"prompt": "x", "seed": seed} for seed in (-1, 0, None, -1, 2**63 - 1)]
    generations = resolve(parse(request(prompts=prompts)), store_image=str, random_seed=draw)
    assert [one.seed for one in generations] == [1000, 0, 44, 1001, 2**63 - 1]
    assert draws == [1000, 1001]


def test_a_drawn_seed_is_in_its_range() -> None:
    drawn = {random_seed() for _ in range(200)}
    assert len(drawn) > 190
    assert all(0 <= seed <= LARGEST_RANDOM_SEED == 2**31 - 2 for seed in drawn)


# LoRA slots

HIGH = {"path": "h", "transformer": "high", "network_multiplier": 0.5}
LOW = {"path": "l", "transformer": "low"}
PLAIN = {"path": "p"}


@pytest.mark.parametrize(
    ("model", "loras", "expected"),
    [
        (PAIR, [], []),
        (PAIR, [HIGH], [("high", "h", 0.5)]),
        (PAIR, [LOW], [("low", "l", 1.0)]),
        (PAIR, [HIGH, LOW], [("high", "h", 0.5), ("low", "l", 1.0)]),
        (PAIR, [LOW, HIGH], [("low", "l", 1.0), ("high", "h", 0.5)]),
        (PAIR, [PLAIN], MoeFormatRequired),
        (PAIR, [HIGH, PLAIN], MoeFormatRequired),
        (PAIR, [HIGH, HIGH], SingleMoeConfigOnly),
        (PAIR, [LOW, HIGH, LOW], SingleMoeConfigOnly),
        (ONE, [], []),
        (ONE, [PLAIN], [("single", "p", 1.0)]),
        (ONE, [PLAIN, PLAIN], SingleLoraOnly),
        (ONE, [HIGH], MoeFormatNotSupported),
        (ONE, [HIGH, LOW], MoeFormatNotSupported),
        (ONE, [PLAIN, LOW], MoeFormatNotSupported),
    ],
)
def test_slots(model: str, loras: list[dict[str, Any]], expected: Any) -> None:
    body = request(model=model, loras=loras)
    if isinstance(expected, list):
        assert resolved(body)[0].loras == tuple(LoraUse(*use) for use in expected)
        return
    with pytest.raises(expected):
        resolved(body)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MoeFormatRequired, "MOE_FORMAT_REQUIRED"),
        (MoeFormatNotSupported, "MOE_FORMAT_NOT_SUPPORTED"),
        (SingleMoeConfigOnly, "SINGLE_MOE_CONFIG_ONLY"),
        (SingleLoraOnly, "SINGLE_LORA_ONLY"),
        (ControlImageRequired, "CONTROL_IMAGE_REQUIRED"),
        (ControlImageNotSupported, "CONTROL_IMAGE_NOT_SUPPORTED"),
    ],
)
def test_codes_are_the_wires(error: type[WanUIError], code: str) -> None:
    assert (error.code, error.status) == (code, 400)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_its_slots(model: str) -> None:
    row = MODELS[model]
    image = {"ctrl_img": "image"} if row.control_image == "required" else {}
    for slot in row.slots:
        entry = {"path": "p"} if slot == "single" else {"path": "p", "transformer": slot}
        assert resolved(request(image, model=model, loras=[entry]))[0].loras[0].slot == slot


# Control images


@pytest.mark.parametrize("model", MODELS)
def test_control_images_of_every_model(model: str) -> None:
    rule = MODELS[model].control_image
    for image in ("", None):
        if rule == "required":
            with pytest.raises(ControlImageRequired):
                resolved(request({"ctrl_img": image}, model=model))
        else:
            assert resolved(request({"ctrl_img": image}, model=model))[0].image is None
    (generation,) = resolved(request({"ctrl_img": "image"}, model=model))
    if rule == "none":
        assert (generation.image, generation.ignored) == (None, ("ctrl_img",))
    else:
        assert (generation.image, generation.ignored) == ("sha of image", ())


def test_no_image_is_stored_for_a_refused_request() -> None:
    stored: list[str] = []

    def store(text: str) -> str:
        stored.append(text)
        return text

    prompts = [{"prompt": "x", "ctrl_img": "image"}, {"prompt": "x"}]
    with pytest.raises(ControlImageRequired) as refusal:
        resolve(parse(request(model="wan21_i2v_14b", prompts=prompts)), store_image=store)
    assert refusal.value.details == {"prompt": 1}
    assert "prompts.1.ctrl_img" in refusal.value.message
    assert stored == []


def test_sampler_is_accepted_and_reported_ignored() -> None:
    one, other = resolved(request(prompts=[{"prompt": "x", "sampler": "ddim"}, {"prompt": "x"}]))
    assert (one.ignored, other.ignored) == (("sampler",), ())


@pytest.mark.parametrize("speedup", ["step_cache", "fp8_storage", "fp8_products"])
def test_a_speedup_is_for_the_reference_alone(speedup: str) -> None:
    assert [one.speedup for one in resolved(request(speedup=speedup))] == [speedup]
    for recipe in ("preview", "preview_unipc"):
        assert resolved(request(recipe=recipe, speedup="none"))
        with pytest.raises(InvalidRequest, match=f"speedup: {speedup} cannot be combined with the recipe {recipe}"):
            resolved(request(recipe=recipe, speedup=speedup))


@pytest.mark.parametrize("speedup", ["", "fp8", "teacache", "None", True, 1, ["step_cache"]])
def test_an_unknown_speedup_is_refused_with_those_there_are(speedup: object) -> None:
    with pytest.raises(InvalidRequest, match="speedup must be .*'step_cache'"):
        parse({"model": "wan21_1b", "prompts": [{"prompt": "a"}], "speedup": speedup})


@pytest.mark.parametrize("value", [0, 1, 0.0, "yes", "false", "", [], {}])
@pytest.mark.parametrize("name", ["stack", "vae_tiling", "first_step_change", "compare.baseline"])
def test_only_true_and_false_are_booleans(name: str, value: object) -> None:
    part, _, field = name.rpartition(".")
    wrong = {field: value} if not part else {part: {"columns": {"field": "seed", "values": [1]}, field: value}}
    with pytest.raises(InvalidRequest, match=f"{name} must be true or false"):
        parse({"model": "wan21_1b", "prompts": [{"prompt": "a"}], **wrong})


def test_a_stored_generation_keeps_its_names() -> None:
    """The JSON that commit ec149a2 wrote to the database and into MP4s: a LoRA's scale is called multiplier there."""
    stored = {
        "model": "wan22_14b_t2v", "recipe": "reference", "prompt": "a fox", "neg": "", "width": 64, "height": 96,
        "num_frames": 5, "fps": 16, "seed": 42, "sample_steps": 4, "guidance_scale": 1.0, "image": None,
        "loras": [
            {"slot": "high", "path": "a.safetensors", "multiplier": 0.5, "sha256": "0" * 64},
            {"slot": "low", "path": "b.safetensors", "multiplier": 1.0, "sha256": None},
        ],
        "requested_width": 65, "requested_height": 96, "requested_num_frames": 6, "ignored": ["sampler"],
        "first_step_change": True, "vae_tiling": False, "speedup": "none",
    }  # fmt: skip
    generation = generation_from(stored)
    assert [use.scale for use in generation.loras] == [0.5, 1.0] and generation.ignored == ("sampler",)
    assert json.loads(json.dumps(generation_body(generation))) == stored
    assert list(generation_body(generation)) == list(stored)

    named = {**stored, "base": {"transformer": "a.safetensors"}}
    assert json.loads(json.dumps(generation_body(generation_from(named)))) == named


def sampled(model: str = "wan22_14b_i2v", **fields: Any) -> Generation:
    """The generation of a request whose one prompt has these sampling fields."""
    prompt = {"prompt": "x", **({"ctrl_img": "first"} if "i2v" in model else {}), **fields}
    (generation,) = resolve(parse({"model": model, "prompts": [prompt]}), lambda image: image)
    return generation


def test_sampling_fields_reach_the_generation() -> None:
    fields: dict[str, Any] = {
        "sampler": "dpm++",
        "flow_shift": 8,
        "switch_step": 2,
        "guidance_scale_2": 1.5,
        "ctrl_img_last": "last",
    }
    generation = sampled(**fields)
    assert generation.replaced == fields and generation.image_last == "last" and generation.ignored == ()
    assert sampled(boundary=0.9).replaced == {"boundary": 0.9}
    assert sampled().replaced == {}


def test_an_unknown_sampler_is_ignored_and_reported() -> None:
    generation = sampled(sampler="flowmatch")
    assert generation.sampler is None and generation.ignored == ("sampler",) and generation.replaced == {}


@pytest.mark.parametrize(
    ("model", "fields", "loc"),
    [
        ("wan21_1b", {"boundary": 0.9}, "prompts.0.boundary"),
        ("wan21_1b", {"switch_step": 1}, "prompts.0.switch_step"),
        ("wan22_5b", {"guidance_scale_2": 2}, "prompts.0.guidance_scale_2"),
        ("wan22_14b_i2v", {"boundary": 0.9, "switch_step": 2}, "prompts.0.switch_step"),
        ("wan22_14b_i2v", {"sample_steps": 4, "switch_step": 5}, "prompts.0.switch_step"),
        ("wan22_14b_i2v", {"ctrl_img_last": "x", "num_frames": 4}, "prompts.0.num_frames"),
        ("wan22_14b_i2v", {"flow_shift": 0.05}, "prompts.0.flow_shift"),
        ("wan22_14b_i2v", {"boundary": 1.5}, "prompts.0.boundary"),
        ("wan22_14b_i2v", {"guidance_scale_2": 21}, "prompts.0.guidance_scale_2"),
    ],
)
def test_contradictions_and_bounds_of_sampling_are_named(model: str, fields: dict[str, Any], loc: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sampled(model, **fields)
    assert [field["loc"] for field in refusal.value.details["fields"]] == [loc]


@pytest.mark.parametrize("model", ["wan22_5b", "wan22_14b_t2v", "wan21_1b"])
def test_a_last_frame_is_refused_where_it_cannot_be_used(model: str) -> None:
    with pytest.raises(ControlImageNotSupported, match="last frame"):
        sampled(model, ctrl_img_last="x")
