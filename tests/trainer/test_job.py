"""Job configs as a table -> the requests expected, field by field; the model, the era, the refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import lora_files
from wan_ui.errors import JobConfigInvalid
from wan_ui.lora.header import LoraHeader, read_header
from wan_ui.models import MODELS
from wan_ui.request import LoraItem, parse, resolve
from wan_ui.trainer.job import Imported, import_job, trainer_version
from wan_ui.trainer.prompt_flags import split_flags

DEFAULTS: dict[str, Any] = {
    "width": 512, "height": 512, "num_frames": 1, "fps": 16, "seed": 0, "guidance_scale": 7.0, "sample_steps": 20,
    "neg": "", "prompt": "a fox",
}  # fmt: skip
SMALL = {"name_or_path": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "arch": "wan21"}


def config(
    sample: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    name: str | None = "my_job",
    **process: Any,
) -> str:
    """A config.yaml of one process."""
    made = {"type": "diffusion_trainer", "model": model or SMALL, "sample": sample, **process}
    return yaml.safe_dump({"job": "extension", "config": {"name": name, "process": [made]}}, sort_keys=False)


def prompts(job: Imported) -> list[dict[str, Any]]:
    return [one.prompts[0].model_dump(exclude_none=True) for one in job.requests]


def model(arch: str, path: str = "") -> dict[str, Any]:
    return {"arch": arch, "name_or_path": path}


# The requests, field by field: (sample section, the rest of the process, what differs from the class defaults).
FOX = ["a fox"]
FIVE_B, I2V, T2V = model("wan22_5b"), model("wan22_14b_i2v"), model("wan22_14b:t2v")
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "class defaults": ({"prompts": FOX}, {}, [{}]),
    "every key": (
        {
            "prompts": FOX, "width": 832, "height": 480, "num_frames": 41, "fps": 24, "seed": 42,
            "guidance_scale": 4, "sample_steps": 25, "neg": "blurry", "sampler": "flowmatch", "format": "webp",
        },
        {},
        [
            {
                "width": 832, "height": 480, "num_frames": 41, "fps": 24, "seed": 42, "guidance_scale": 4.0,
                "sample_steps": 25, "neg": "blurry",
            }
        ],
    ),
    "samples inherit and override": (
        {
            "width": 640,
            "seed": 7,
            "samples": [{"prompt": "a fox"}, {"prompt": "b", "width": 320, "num_frames": 9, "fps": 8}],
        },
        {},
        [{"width": 640, "seed": 7}, {"prompt": "b", "width": 320, "num_frames": 9, "fps": 8, "seed": 7}],
    ),
    "a sample's every key": (
        {
            "samples": [
                {
                    "prompt": "x", "width": 64, "height": 128, "num_frames": 5, "fps": 1, "seed": 3,
                    "guidance_scale": 1.5, "sample_steps": 2, "neg": "n", "network_multiplier": 0.5,
                }
            ]
        },
        {},
        [
            {
                "prompt": "x", "width": 64, "height": 128, "num_frames": 5, "fps": 1, "seed": 3,
                "guidance_scale": 1.5, "sample_steps": 2, "neg": "n",
            }
        ],
    ),
    "samples win over prompts": ({"prompts": ["no"], "samples": [{"prompt": "yes"}]}, {}, [{"prompt": "yes"}]),
    "null samples are none": ({"prompts": FOX, "samples": None}, {}, [{}]),
    "no samples": ({"samples": [], "prompts": FOX}, {}, []),
    "no prompts": ({}, {}, []),
    "nulls are left out": ({"prompts": FOX, "width": None, "seed": None, "neg": None}, {}, [{}]),
    "neg false": ({"prompts": FOX, "neg": False}, {}, [{}]),
    "numbers in quotes": ({"prompts": FOX, "width": "640", "guidance_scale": "4.5"}, {},
                          [{"width": 640, "guidance_scale": 4.5}]),
    "one seed for all": (
        {"prompts": ["a", "b"], "seed": 42}, {}, [{"prompt": "a", "seed": 42}, {"prompt": "b", "seed": 42}],
    ),
    "walk_seed": (
        {"prompts": ["a", "b", "c"], "seed": 42, "walk_seed": True},
        {},
        [{"prompt": "a", "seed": 42}, {"prompt": "b", "seed": 43}, {"prompt": "c", "seed": 44}],
    ),
    "walk_seed from the default": (
        {"prompts": ["a", "b"], "walk_seed": True}, {}, [{"prompt": "a"}, {"prompt": "b", "seed": 1}],
    ),
    "an own seed wins, and the walk goes on": (
        {"seed": 42, "walk_seed": True, "samples": [{"prompt": "a"}, {"prompt": "b", "seed": 9}, {"prompt": "c"}]},
        {},
        [{"prompt": "a", "seed": 42}, {"prompt": "b", "seed": 9}, {"prompt": "c", "seed": 44}],
    ),
    "an own seed sticks without walk_seed": (
        {
            "seed": 42,
            "samples": [{"prompt": "a"}, {"prompt": "b", "seed": 9}, {"prompt": "c"}, {"prompt": "d", "seed": 1}],
        },
        {},
        [
            {"prompt": "a", "seed": 42}, {"prompt": "b", "seed": 9}, {"prompt": "c", "seed": 9},
            {"prompt": "d", "seed": 1},
        ],
    ),
    "a flag's seed does not stick": (
        {"seed": 42, "prompts": ["a --d 9", "b"]}, {}, [{"prompt": "a", "seed": 9}, {"prompt": "b", "seed": 42}],
    ),
    "a random seed": ({"prompts": FOX, "seed": -1}, {}, [{"seed": -1}]),
    "a walk from a random seed": (
        {"prompts": ["a", "b"], "seed": -1, "walk_seed": True}, {}, [{"prompt": "a", "seed": -1}, {"prompt": "b"}],
    ),
    "--n": ({"prompts": ["a fox --n blurry, dark"], "neg": "x"}, {}, [{"neg": "blurry, dark"}]),
    "--n empty": ({"prompts": ["a fox --n"], "neg": "x"}, {}, [{}]),
    "--w --h": ({"prompts": ["a fox --w 640 --h 320"]}, {}, [{"width": 640, "height": 320}]),
    "--d": ({"prompts": ["a fox --d 5"]}, {}, [{"seed": 5}]),
    "--d -1": ({"prompts": ["a fox --d -1"], "seed": 5}, {}, [{"seed": -1}]),
    "--seed": ({"prompts": ["a fox --seed 6"]}, {}, [{"seed": 6}]),
    "--l": ({"prompts": ["a fox --l 3.5"]}, {}, [{"guidance_scale": 3.5}]),
    "--cfg": ({"prompts": ["a fox --cfg 1"]}, {}, [{"guidance_scale": 1.0}]),
    "--s": ({"prompts": ["a fox --s 12"]}, {}, [{"sample_steps": 12}]),
    "--steps": ({"prompts": ["a fox --steps 13"]}, {}, [{"sample_steps": 13}]),
    "--frames": ({"prompts": ["a fox --frames 33"]}, {}, [{"num_frames": 33}]),
    "--num_frames": ({"prompts": ["a fox --num_frames 17"]}, {}, [{"num_frames": 17}]),
    "--fps": ({"prompts": ["a fox --fps 30"]}, {}, [{"fps": 30}]),
    "--ctrl_idx and flags of other families": ({"prompts": ["a fox --ctrl_idx 2 --gr 0.5 --p2 second"]}, {}, [{}]),
    "an unknown flag and its text go": ({"prompts": ["a fox --slow motion shot --s 9"]}, {}, [{"sample_steps": 9}]),
    "the last flag wins": ({"prompts": ["a fox --s 9 --steps 11"]}, {}, [{"sample_steps": 11}]),
    "dashes within words cut too": ({"prompts": ["a fox--w 640"]}, {}, [{"width": 640}]),
    "flags over a sample's keys": (
        {"samples": [{"prompt": "a fox --w 640 --d 3", "width": 320, "seed": 9}, {"prompt": "a fox"}]},
        {},
        [{"width": 640, "seed": 3}, {"seed": 9}],
    ),
    "a prompt is stripped": ({"prompts": ["  a fox \n"]}, {}, [{}]),
    "trigger": ({"prompts": ["[trigger] runs, [trigger]"]}, {"trigger_word": "sks"}, [{"prompt": "sks runs, sks"}]),
    "trigger in a flag": (
        {"prompts": ["a fox --n no [trigger]"]}, {"trigger_word": "sks"}, [{"neg": "no sks"}],
    ),
    "trigger is not put into neg": (
        {"prompts": ["[trigger]"], "neg": "[trigger]"},
        {"trigger_word": "sks"},
        [{"prompt": "sks", "neg": "[trigger]"}],
    ),
    "trigger is never prepended": ({"prompts": FOX}, {"trigger_word": "sks"}, [{}]),
    "no trigger word": ({"prompts": ["[trigger] runs"]}, {}, [{"prompt": "[trigger] runs"}]),
    "name": ({"prompts": ["[name] runs"], "neg": "[name]"}, {}, [{"prompt": "my_job runs", "neg": "my_job"}]),
    "name and trigger": ({"prompts": ["[name] [trigger]"]}, {"trigger_word": "sks"}, [{"prompt": "my_job sks"}]),
    "neither name nor trigger": ({"prompts": ["[name]"]}, {"name": None}, [{"prompt": "[name]"}]),
    "no name but a trigger": ({"prompts": ["[name]"]}, {"name": None, "trigger_word": "sks"}, [{"prompt": "sks"}]),
    "sizes go down to 8 and to 16": (
        {"prompts": FOX, "width": 855, "height": 500}, {}, [{"width": 848, "height": 496}],
    ),
    "sizes are 64 at least": ({"prompts": ["a fox --w 8 --h -40"]}, {}, [{"width": 64, "height": 64}]),
    "5B takes 32": (
        {"prompts": FOX, "width": 855, "height": 500}, {"model": FIVE_B}, [{"width": 832, "height": 480}],
    ),
    "2.2 T2V takes 16 here": (
        {"prompts": FOX, "width": 848, "height": 480}, {"model": T2V}, [{"width": 848, "height": 480}],
    ),
    "40 frames of 5B": ({"prompts": FOX, "num_frames": 40}, {"model": FIVE_B}, [{"num_frames": 37}]),
    "40 frames of 2.2 I2V": ({"prompts": FOX, "num_frames": 40}, {"model": I2V}, [{"num_frames": 37}]),
    "40 frames of 2.2 T2V": ({"prompts": FOX, "num_frames": 40}, {"model": T2V}, [{"num_frames": 41}]),
    "40 frames of 2.1": ({"prompts": FOX, "num_frames": 40}, {}, [{"num_frames": 41}]),
    "the UI's 5B": (
        {
            "sampler": "flowmatch", "sample_every": 250, "width": 768, "height": 768, "samples": [{"prompt": "a fox"}],
            "neg": "", "seed": 42, "walk_seed": True, "guidance_scale": 4, "sample_steps": 30, "num_frames": 121,
            "fps": 24,
        },
        {"model": FIVE_B, "type": "ui_trainer"},
        [
            {
                "width": 768, "height": 768, "seed": 42, "guidance_scale": 4.0, "sample_steps": 30,
                "num_frames": 121, "fps": 24,
            }
        ],
    ),
    "an item without a prompt shifts the prompts, as in the trainer": (
        {"samples": [{"width": 64}, {"prompt": "b", "width": 128}]}, {}, [{"prompt": "b", "width": 64}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_a_config_as_requests(case: str) -> None:
    sample, rest, expected = TABLE[case]
    job = import_job(config(sample, **rest))
    assert prompts(job) == [{**DEFAULTS, **one} for one in expected]
    for one in job.requests:
        assert one.recipe == "preview"
        assert one.model == job.model
        assert one.trigger_word == rest.get("trigger_word")
        assert parse(one.model_dump(mode="json")) == one
    json.dumps(job.body(), allow_nan=False)
    assert all(note and note[0].isupper() for note in job.notes)


def test_requests_are_what_will_be_rendered() -> None:
    """The trainer's own rounding is done: resolve() changes nothing more."""
    for row in MODELS.values():
        sample = {"prompts": FOX, "width": 855, "height": 500, "num_frames": 40}
        job = import_job(config(sample, model(row.trainer_arch)))
        item = job.requests[0].prompts[0]
        if row.control_image == "required":
            continue
        (generation,) = resolve(job.requests[0], store_image=str)
        assert (generation.width, generation.height) == (item.width, item.height)
        assert generation.num_frames == item.num_frames


# The multiplier and the LoRAs


def test_each_sample_has_its_own_multiplier() -> None:
    sample = {
        "network_multiplier": 0.8,
        "samples": [
            {"prompt": "a"},
            {"prompt": "b", "network_multiplier": 1.2},
            {"prompt": "c --m 0"},
            {"prompt": "d --network_multiplier 2"},
        ],
    }
    pair = [LoraItem.model_validate({"path": f"x_{slot}.safetensors", "transformer": slot}) for slot in ("high", "low")]
    job = import_job(config(sample, T2V), loras=pair)
    assert [one.network_multiplier for one in job.samples] == [0.8, 1.2, 0.0, 2.0]
    for one in job.samples:
        assert [(item.transformer, item.network_multiplier) for item in one.request.loras] == [
            ("high", one.network_multiplier), ("low", one.network_multiplier),
        ]  # fmt: skip
    assert any("different multipliers" in note for note in job.notes)
    assert all(one.loras == () for one in import_job(config(sample, T2V)).requests)


@pytest.mark.parametrize(
    ("kwargs", "slots"),
    [
        ({}, ("high", "low")),
        ({"train_high_noise": False}, ("low",)),
        ({"train_low_noise": False, "train_high_noise": True}, ("high",)),
    ],
)
def test_the_halves_that_were_trained(kwargs: dict[str, bool], slots: tuple[str, ...]) -> None:
    job = import_job(config({"prompts": FOX}, {**T2V, "model_kwargs": kwargs}))
    assert job.slots == slots
    assert any("transformer only" in note for note in job.notes) == (len(slots) == 1)
    assert import_job(config({"prompts": FOX})).slots == ("single",)


# First frames


def test_a_first_frame_that_is_here() -> None:
    sample = {"samples": [{"prompt": "a", "ctrl_img": "/data/[name]/1.png"}, {"prompt": "b --ctrl_img two.png"}]}
    found = {"/data/my_job/1.png": "upload://1"}
    job = import_job(config(sample, I2V), find_image=found.get)
    assert [(one.request.prompts[0].ctrl_img, one.missing_image) for one in job.samples] == [
        ("upload://1", None), (None, "two.png"),
    ]  # fmt: skip
    assert any("Sample 2" in note and "two.png" in note for note in job.notes)


def test_first_frames_by_model() -> None:
    sample = {"samples": [{"prompt": "a", "ctrl_img": "1.png"}]}
    (t2v,) = import_job(config(sample, T2V), find_image=lambda path: "upload://1").samples
    assert (t2v.request.prompts[0].ctrl_img, t2v.missing_image) == (None, None)
    (ti2v,) = import_job(config(sample, FIVE_B), find_image=lambda path: "upload://1").samples
    assert ti2v.request.prompts[0].ctrl_img == "upload://1"
    disabled = import_job(config({"prompts": FOX}, I2V))
    assert any("names no first frame" in note for note in disabled.notes)


# The model

W21, W21_I2V = "wan21", "wan21_i2v"


@pytest.mark.parametrize(
    ("arch", "path", "expected"),
    [
        ("wan22_5b", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "wan22_5b"),
        ("wan22_14b", "ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16", "wan22_14b_t2v"),
        ("wan22_14b:t2v", "", "wan22_14b_t2v"),
        ("wan22_14b_i2v", "", "wan22_14b_i2v"),
        ("wan22_14b_i2v:x", "", "wan22_14b_i2v"),
        (W21, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan21_1b"),
        (W21, "Wan-AI/Wan2.1-T2V-14B-Diffusers", "wan21_14b"),
        (W21, "D:\\models\\wan2.1_t2v_1.3b", "wan21_1b"),
        ("wan21:1b", "", "wan21_1b"),
        ("wan21:14b", "/models/wan", "wan21_14b"),
        ("wan21:14b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan21_1b"),
        (W21_I2V, "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "wan21_i2v_14b480p"),
        (W21_I2V, "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "wan21_i2v_14b"),
        (W21_I2V, "/data/wan-i2v-480p/", "wan21_i2v_14b480p"),
        ("wan21_i2v:14b480p", "", "wan21_i2v_14b480p"),
        ("wan21_i2v:14b", "", "wan21_i2v_14b"),
        (" WAN22_5B ", "", "wan22_5b"),
    ],
)
def test_the_model_of_an_arch(arch: str, path: str, expected: str) -> None:
    job = import_job(config({"prompts": FOX}, model(arch, path)))
    assert job.model == expected
    assert not any("is assumed" in note for note in job.notes if "recipe" not in note)


def test_a_model_that_is_not_said_is_assumed_aloud(tmp_path: Path) -> None:
    for arch in (W21, W21_I2V):
        job = import_job(config({"prompts": FOX}, model(arch, "/models/wan")))
        assert MODELS[job.model].trainer_arch == arch
        assert any("is assumed" in note and MODELS[job.model].label in note for note in job.notes)
    small = replace(header(tmp_path), hidden=1536)
    assert import_job(config({"prompts": FOX}, model(W21)), header=small).model == "wan21_1b"
    assert import_job(config({"prompts": FOX}, model(W21)), header=replace(small, hidden=5120)).model == "wan21_14b"


@pytest.mark.parametrize("arch", ["flux", "wan", "wan22", "", ":t2v", "sdxl:x", None, "x" * 5000])
def test_no_wan_job(arch: str | None) -> None:
    assert refused(config({"prompts": FOX}, {"arch": arch, "name_or_path": "x"})) == ["config.process.0.model.arch"]


# The era


def header(folder: Path, version: str | None = "0.12.26", name: str = "ai-toolkit") -> LoraHeader:
    """A real file's header, as another version would have written it."""
    found = read_header(lora_files.write_lora(folder / "x.safetensors"))
    assert (found.trainer, found.trainer_version) == ("ai-toolkit", "0.12.26")
    return replace(found, trainer=name, trainer_version=version)


@pytest.mark.parametrize(
    ("version", "recipe", "known"),
    [
        ("0.12.26", "preview", True),
        ("0.9.4", "preview", True),
        ("1.0", "preview", True),
        ("v0.10.0", "preview", True),
        ("0.9.3", "preview", False),
        ("0.9.2", "preview_unipc", True),
        ("0.9.0", "preview_unipc", True),
        ("0.9", "preview_unipc", True),
        ("0.1.0", "preview_unipc", True),
        ("dev", "preview", False),
        (None, "preview", False),
    ],
)
def test_the_recipe_of_the_era(tmp_path: Path, version: str | None, recipe: str, known: bool) -> None:
    job = import_job(config({"prompts": FOX, "width": 848}, T2V), header=header(tmp_path, version))
    assert (job.recipe, job.recipe_known) == (recipe, known)
    assert [one.recipe for one in job.requests] == [recipe]
    assert job.requests[0].prompts[0].width == 848
    assert any("preview_unipc" in note for note in job.notes) == (not known)


def test_another_trainers_version_says_nothing(tmp_path: Path) -> None:
    assert trainer_version(header(tmp_path, "0.1.0", "other")) is None
    assert trainer_version(None) is None
    assert trainer_version(header(tmp_path, "0.9.2")) == (0, 9, 2)


# What cannot be matched, and what is not read


def test_a_quantised_base_and_tiles_are_said() -> None:
    quantised = {**T2V, "quantize": True, "qtype": "uint4|ostris/ara", "quantize_te": True, "low_vram": True}
    job = import_job(config({"prompts": FOX}, quantised))
    assert job.quantised == "transformer uint4|ostris/ara, text encoder qfloat8"
    assert job.tiled
    assert any("cannot be matched exactly" in note and "recovery" in note for note in job.notes)
    plain = import_job(config({"prompts": FOX}, T2V))
    assert (plain.quantised, plain.tiled) == (None, False)
    assert import_job(config({"prompts": FOX}, {**T2V, "model_kwargs": {"vae_tiling": True}})).tiled
    assert not import_job(config({"prompts": FOX}, {**I2V, "low_vram": True})).tiled


def test_unknown_keys_are_kept_aside_and_listed() -> None:
    sample: dict[Any, Any] = {"samples": [{"prompt": "a", "nag_scale": 3}], "new_key": [1, 2], 3: "three"}
    job = import_job(config(sample, {**T2V, "extra": "x" * 500}, train={"steps": 3}, surprise=None))
    assert set(job.unknown) == {
        "config.process.0.surprise", "config.process.0.model.extra", "config.process.0.sample.new_key",
        "config.process.0.sample.3", "config.process.0.sample.samples.0.nag_scale",
    }  # fmt: skip
    assert job.unknown["config.process.0.sample.new_key"] == "2 entries"
    assert len(job.unknown["config.process.0.model.extra"]) <= 80
    assert any(note.startswith("Not read: ") for note in job.notes)
    assert import_job(config({"prompts": FOX})).unknown == {}


NEW_MODEL_KEYS = (
    "block_compile", "compile_mode", "compile_fullgraph", "compile_dynamic", "cache_size_limit", "model_paths",
    "in_context", "ignore_if_contains", "only_if_contains", "layer_offloading", "auto_memory",
)  # fmt: skip


def test_u14_the_keys_of_new_jobs_are_known() -> None:
    base = {**T2V, **dict.fromkeys(NEW_MODEL_KEYS), "model_kwargs": {"use_comfy_weights": False}}
    job = import_job(config({"prompts": FOX, "sample_start_step": 100}, base, network={"all_layers": True}))
    assert job.unknown == {} and not any(note.startswith("Not read") for note in job.notes)


def test_u14_quantize_te_follows_quantize() -> None:
    assert import_job(config({"prompts": FOX}, {**T2V, "quantize": True})).quantised == (
        "transformer qfloat8, text encoder qfloat8"
    )
    alone = import_job(config({"prompts": FOX}, {**T2V, "quantize": True, "quantize_te": False}))
    assert alone.quantised == "transformer qfloat8"
    assert any("10 July 2026" in note for note in alone.notes)


def test_u14_auto_memory_is_layer_offloading_and_compile_is_told() -> None:
    job = import_job(config({"prompts": FOX}, {**T2V, "auto_memory": True, "compile": True}))
    assert job.layer_offloading and job.compiled
    off = import_job(config({"prompts": FOX}, {**T2V, "auto_memory": True, "layer_offloading": False}))
    assert not off.layer_offloading and not off.compiled


def test_other_facts_of_the_job() -> None:
    job = import_job(config({"prompts": FOX}, network={"type": "lokr", "lokr_factor": 8}, type="concept_slider"))
    assert (job.name, job.network_type) == ("my_job", "lokr")
    assert any("concept_slider" in note for note in job.notes)
    for kind in ("sd_trainer", "diffusion_trainer", "ui_trainer"):
        assert not any("process" in note for note in import_job(config({"prompts": FOX}, type=kind)).notes)


def test_what_the_checklist_needs_to_know() -> None:
    base = {**T2V, "layer_offloading": True, "quantize": True, "qtype": "uint4|ara"}
    offloaded = import_job(config({"prompts": FOX}, base))
    assert offloaded.layer_offloading and offloaded.recovery_adapter and not offloaded.model_assumed
    plain = import_job(config({"prompts": FOX}, model(W21)))
    assert plain.model_assumed and not plain.layer_offloading and not plain.recovery_adapter
    assert {"model_assumed", "layer_offloading", "recovery_adapter"} <= set(plain.body())


def test_the_name_stands_in_the_trigger_word_too() -> None:
    job = import_job(config({"prompts": ["a [trigger]"]}, name="fox", trigger_word="[name] cat"))
    assert (job.trigger_word, prompts(job)[0]["prompt"]) == ("fox cat", "a fox cat")


def test_a_tiled_job_asks_for_tiles() -> None:
    assert import_job(config({"prompts": FOX}, {**T2V, "low_vram": True})).requests[0].vae_tiling
    assert not import_job(config({"prompts": FOX}, {**I2V, "low_vram": True})).requests[0].vae_tiling


def test_a_flag_that_is_none_is_said() -> None:
    assert any("--slow motion" in note for note in import_job(config({"prompts": ["a --slow motion"]})).notes)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"width": 5000}, "width"), ({"num_frames": 1001}, "num_frames"), ({"fps": 0}, "fps"),
        ({"sample_steps": 0}, "sample_steps"), ({"guidance_scale": 21}, "guidance_scale"), ({"seed": -2}, "seed"),
        ({"network_multiplier": 4.5}, "network_multiplier"), ({"num_frames": 0}, "num_frames"),
    ],
)  # fmt: skip
def test_a_sample_out_of_bounds_is_left_out_and_named(item: dict[str, Any], named: str) -> None:
    job = import_job(config({"samples": [{"prompt": "a", **item}, {"prompt": "b", "seed": 3}]}))
    assert [(one.index, one.request.prompts[0].prompt) for one in job.samples] == [(1, "b")]
    assert any(note.startswith(f"Sample 1 is left out: {named}") for note in job.notes)


# Refusals


def refused(text: str | bytes) -> list[str]:
    with pytest.raises(JobConfigInvalid) as refusal:
        import_job(text)
    error = refusal.value
    assert (error.status, error.code) == (422, "JOB_CONFIG_INVALID")
    assert len(error.message) < 400
    json.dumps(error.body(), allow_nan=False)
    return [field["loc"] for field in error.details["fields"]]


P = "config.process.0"
WRONG: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", ["config.yaml"]),
    "a list": ("[1, 2]", ["config.yaml"]),
    "text": ("hello", ["config.yaml"]),
    "no config": ("job: extension", ["config"]),
    "config is a list": ("config: []", ["config"]),
    "no process": ("config: {name: x}", ["config.process"]),
    "process is a mapping": ("config: {process: {type: x}}", ["config.process"]),
    "no processes": ("config: {process: []}", ["config.process"]),
    "process is null": ("config: {process: [null]}", [P]),
    "no model": ("config: {process: [{type: x}]}", [f"{P}.model"]),
    "model is text": (config({}, model=None, network=None).replace("arch: wan21", "arch: [1]"), [f"{P}.model.arch"]),
    "name": (config({}, name=None).replace("name: null", "name: 3"), ["config.name"]),
    "trigger_word": (config({}, trigger_word=7), [f"{P}.trigger_word"]),
    "sample": (config([]), [f"{P}.sample"]),  # type: ignore[arg-type]
    "prompts": (config({"prompts": "a fox"}), [f"{P}.sample.prompts"]),
    "a prompt": (config({"prompts": ["a", 3, {"b": 1}]}), [f"{P}.sample.prompts.1", f"{P}.sample.prompts.2"]),
    "samples": (config({"samples": {"prompt": "a"}}), [f"{P}.sample.samples"]),
    "a sample": (config({"samples": ["a"]}), [f"{P}.sample.samples.0"]),
    "a sample's prompt": (config({"samples": [{"prompt": []}]}), [f"{P}.sample.samples.0.prompt"]),
    "numbers": (
        config({"width": "wide", "seed": 1.5, "prompts": FOX, "sample_steps": True, "guidance_scale": []}),
        [f"{P}.sample.width", f"{P}.sample.sample_steps", f"{P}.sample.guidance_scale", f"{P}.sample.seed"],
    ),
    "no number": (config({"prompts": FOX, "guidance_scale": float("nan")}), [f"{P}.sample.guidance_scale"]),
    "too large": (config({"prompts": FOX, "guidance_scale": 10**300}), [f"{P}.sample.guidance_scale"]),
    "a sample's numbers": (
        config({"samples": [{"prompt": "a", "fps": "x"}, {"prompt": "b", "seed": "y"}]}),
        [f"{P}.sample.samples.0.fps", f"{P}.sample.samples.1.seed"],
    ),
    "neg": (config({"prompts": FOX, "neg": 3}), [f"{P}.sample.neg"]),
    "ctrl_img": (config({"samples": [{"prompt": "a", "ctrl_img": 3}]}), [f"{P}.sample.samples.0.ctrl_img"]),
    "flags": (config({"prompts": ["a --w wide --cfg x --s 2.5"]}), [f"{P}.sample.prompts.0"] * 3),
    "too many samples": (config({"prompts": FOX * 201}), [f"{P}.sample.prompts"]),
    "a long prompt": (config({"prompts": ["x" * 20_001]}), [f"{P}.sample.prompts.0"]),
    "a prompt grown by its name": (config({"prompts": ["[name]" * 3000]}, name="n" * 5000), ["config"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_config_of_wrong_types_is_refused_by_place(case: str) -> None:
    text, locs = WRONG[case]
    assert refused(text) == locs


def test_json_is_read_too() -> None:
    made = json.dumps(yaml.safe_load(config({"prompts": FOX})))
    assert prompts(import_job(made)) == prompts(import_job(config({"prompts": FOX}).encode())) == [DEFAULTS]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("prompt", "prompts", "samples", "width", "seed", "walk_seed", "neg", "ctrl_img", "num_frames", "fps")


LEVEL = st.dictionaries(st.sampled_from(KEYS), PLAIN)


@given(LEVEL, st.lists(LEVEL, max_size=3), st.booleans())
def test_any_plain_data_is_requests_or_a_typed_refusal(
    sample: dict[str, Any], items: list[dict[str, Any]], listed: bool
) -> None:
    text = json.dumps({"config": {"name": "x", "process": [
        {"model": {"arch": "wan22_5b"}, "sample": {**sample, **({"samples": items} if listed else {})}}
    ]}})  # fmt: skip
    try:
        json.dumps(import_job(text).body(), allow_nan=False)
    except JobConfigInvalid as error:
        assert error.details["fields"]


@given(st.text(max_size=80))
def test_any_prompt_splits(text: str) -> None:
    found = split_flags(text)
    assert "--" not in found.prompt
    assert ("--" in text.strip()) or found.prompt == text.strip()


def test_u12_a_sample_at_the_strength_of_a_speed_lora_is_kept() -> None:
    loras = (LoraItem.model_validate({"path": "speed.safetensors"}),)
    for scale in (3.0, -4.0, 4.0):
        job = import_job(config({"samples": [{"prompt": "a", "network_multiplier": scale}]}), loras)
        assert [item.network_multiplier for item in job.samples[0].request.loras] == [scale]
