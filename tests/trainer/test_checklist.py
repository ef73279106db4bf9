"""The checklist: change one field of a matched pair, and exactly the rows of the table turn red, and green again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tests.lora_files import lora_file
from wan_ui.lora.header import LoraHeader
from wan_ui.models import MODELS
from wan_ui.request import InferenceRequest, LoraItem, parse, resolve
from wan_ui.trainer.checklist import apply, apply_all, as_text, checklist
from wan_ui.trainer.checklist_rows import Row, Run, Target
from wan_ui.trainer.job import import_job
from wan_ui.trainer.sample_files import SampleFacts

IMAGE, OTHER_IMAGE = "a" * 64, "b" * 64
SAMPLE: Mapping[str, Any] = {
    "prompt": "a [trigger] fox runs", "width": 832, "height": 480, "num_frames": 41, "fps": 16, "seed": 7,
    "guidance_scale": 4.0, "sample_steps": 25, "neg": "blurry",
}  # fmt: skip
ARCHES = {
    "wan22_5b": ("wan22_5b", "x"),
    "wan22_14b_i2v": ("wan22_14b_i2v", "x"),
    "wan22_14b_t2v": ("wan22_14b:t2v", "x"),
    "wan21_i2v_14b": ("wan21_i2v", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
    "wan21_i2v_14b480p": ("wan21_i2v", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    "wan21_14b": ("wan21", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    "wan21_1b": ("wan21", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
}


def header(version: str | None = "0.12.26", **changes: Any) -> LoraHeader:
    base = {"trainer": "ai-toolkit", "trainer_version": version, "step": 1000, "model_hash": "one", **changes}
    return replace(lora_file("x").header, **base)


def red(rows: Sequence[Row]) -> list[str]:
    return [row.row for row in rows if row.state == "red"]


def loras(model: str) -> tuple[LoraItem, ...]:
    slots = MODELS[model].slots
    if len(slots) == 1:
        return (LoraItem.model_validate({"path": "fox.safetensors"}),)
    return tuple(LoraItem.model_validate({"path": f"fox_{slot}.safetensors", "transformer": slot}) for slot in slots)


def target(
    model: str = "wan22_14b_i2v",
    sample: Mapping[str, Any] = SAMPLE,
    version: str | None = "0.12.26",
    known_image: bool = True,
    base: Mapping[str, Any] | None = None,
    **process: Any,
) -> Target:
    """The preview of a job with one sample at step 1000."""
    arch, path = ARCHES[model]
    made = {**sample, "ctrl_img": "/data/fox.png"} if MODELS[model].control_image != "none" else dict(sample)
    config = {
        "type": "diffusion_trainer",
        "trigger_word": "sks",
        "sample": {"samples": [made]},
        **process,
        "model": {"arch": arch, "name_or_path": path, **(base or {})},
    }
    text = yaml.safe_dump({"config": {"name": "job", "process": [config]}})
    job = import_job(text, loras(model), header(version), lambda path: f"upload://{IMAGE}" if known_image else None)
    return Target(job, job.samples[0], step=1000)


def run_of(request: InferenceRequest, clip: Mapping[str, Any] | None = None, version: str | None = "0.12.26") -> Run:
    generation = resolve(request, lambda image: image.removeprefix("upload://"), lambda: 99)[0]
    return Run(generation, {item.path: header(version) for item in request.loras}, clip)


def rows(wanted: Target, request: InferenceRequest, **options: Any) -> tuple[Row, ...]:
    return checklist(wanted, run_of(request, **options))


def changed(request: InferenceRequest, change: Mapping[str, Any]) -> InferenceRequest:
    body = request.model_dump(exclude_none=True)
    for name, value in change.items():
        if name == "multipliers":
            for item, one in zip(body["loras"], value, strict=False):
                item["network_multiplier"] = one
        elif name in body["prompts"][0] or name == "ctrl_img":
            body["prompts"][0][name] = value
        else:
            body[name] = value
    return parse(body)


@pytest.mark.parametrize("version", ["0.12.26", "0.9.0"])
@pytest.mark.parametrize("model", MODELS)
def test_a_matched_pair_is_green(model: str, version: str) -> None:
    wanted = target(model, version=version)
    found = rows(wanted, wanted.sample.request, version=version)
    assert {row.row: row.state for row in found if row.state != "green"} == {}
    assert len({row.row for row in found}) == len(found) == 25


I2V, T2V, ONE = "wan22_14b_i2v", "wan22_14b_t2v", "wan21_1b"
HIGH = {"path": "fox_high.safetensors", "transformer": "high"}
RECIPE_ROWS = {"sampler", "boundary", "lora_applied", "dtype"}
# (model, what changes in the request, the rows that turn red)
TABLE: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "width": (I2V, {"width": 848}, {"size", "control_resize"}),
    "height": (I2V, {"height": 464}, {"size", "control_resize"}),
    "width without a picture": (ONE, {"width": 848}, {"size"}),
    "a width that is floored to the same": (ONE, {"width": 847}, set()),
    "num_frames": (ONE, {"num_frames": 81}, {"frames"}),
    "num_frames rounded to the same": (I2V, {"num_frames": 43}, set()),
    "fps": (ONE, {"fps": 24}, {"fps"}),
    "sample_steps": (ONE, {"sample_steps": 30}, {"steps"}),
    "guidance_scale": (ONE, {"guidance_scale": 5.0}, {"guidance"}),
    "seed": (ONE, {"seed": 42}, {"seed"}),
    "seed drawn": (ONE, {"seed": -1}, {"seed"}),
    "neg": (ONE, {"neg": ""}, {"negative"}),
    "prompt": (ONE, {"prompt": "a sks cat runs"}, {"prompt"}),
    "the trigger elsewhere": (ONE, {"prompt": "a fox sks runs"}, {"prompt"}),
    "without the trigger": (ONE, {"prompt": "a fox runs"}, {"trigger"}),
    "another trigger": (ONE, {"prompt": "a [trigger] fox runs", "trigger_word": "xyz"}, {"trigger"}),
    "the tag left in": (ONE, {"prompt": "a [trigger] fox runs", "trigger_word": None}, {"trigger"}),
    "the trigger twice": (ONE, {"prompt": "sks, a sks fox runs"}, {"trigger"}),
    "the trigger and the prompt": (ONE, {"prompt": "a cat"}, {"trigger", "prompt"}),
    "multipliers": (I2V, {"multipliers": [0.5, 0.5]}, {"multiplier"}),
    "one multiplier": (I2V, {"multipliers": [1.0, 0.5]}, {"multiplier"}),
    "multiplier": (ONE, {"multipliers": [0.5]}, {"multiplier"}),
    "one side of the pair": (I2V, {"loras": [HIGH]}, {"lora_sides"}),
    "no LoRA": (ONE, {"loras": []}, {"lora_sides"}),
    "another picture": (I2V, {"ctrl_img": f"upload://{OTHER_IMAGE}"}, {"control_image"}),
    "no picture": ("wan22_5b", {"ctrl_img": None}, {"control_image"}),
    "recipe": (I2V, {"recipe": "reference"}, RECIPE_ROWS),
    "recipe of 5B": ("wan22_5b", {"recipe": "reference"}, RECIPE_ROWS - {"boundary"}),
    "recipe of T2V": (T2V, {"recipe": "reference"}, RECIPE_ROWS - {"boundary"}),  # its boundary: amber until loaded
    "recipe of the old trainer": (I2V, {"recipe": "preview_unipc"}, {"sampler"}),
    "recipe of the old trainer, one": (ONE, {"recipe": "preview_unipc"}, {"sampler"}),
    "a step cache": (ONE, {"recipe": "reference", "speedup": "step_cache"}, {*RECIPE_ROWS - {"boundary"}, "speedup"}),
    "fp8 products": (I2V, {"recipe": "reference", "speedup": "fp8_products"}, {*RECIPE_ROWS, "speedup"}),
    "tiles": (ONE, {"vae_tiling": True}, {"decode"}),
    "the other 2.1 I2V": ("wan21_i2v_14b", {"model": "wan21_i2v_14b480p"}, {"checkpoint"}),
    "T2V for I2V": (I2V, {"model": "wan22_14b_t2v", "ctrl_img": None}, {"checkpoint", "control_image"}),
    "14B for 1.3B": (ONE, {"model": "wan21_14b"}, {"checkpoint"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_exactly_the_rows_of_the_table_turn_red_and_green_again(case: str) -> None:
    model, change, expected = TABLE[case]
    wanted = target(model)
    request = changed(wanted.sample.request, change)
    found = rows(wanted, request)
    assert set(red(found)) == expected
    for row in found:
        if row.state == "red":
            assert row.fix is not None and row.message
            again = {one.row: one.state for one in rows(wanted, apply(row.fix, request))}
            assert again[row.row] == "green", row.row
    mended = apply_all(found, request)
    assert {row.row for row in rows(wanted, mended) if row.state != "green"} == set()


# What the job or its files say otherwise -> the rows that turn red, and those that turn amber.
JOBS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "quantised": ({"base": {"quantize": True}}, {"quantisation"}, {"lora_applied"}),
    "tiled": ({"base": {"low_vram": True}}, set(), set()),
    "offloaded": ({"base": {"layer_offloading": True}}, set(), {"lora_applied"}),
    "dora": ({"network": {"type": "dora"}}, set(), {"lora_applied"}),
    "lokr": ({"network": {"type": "lokr"}}, set(), set()),
    "u14 compiled": ({"base": {"compile": True}}, set(), {"compile"}),
    "a drawn seed": ({"sample": {**SAMPLE, "seed": -1}}, set(), {"seed"}),
    "unknown version": ({"version": None}, set(), {"base", "sampler", "versions"}),
    "0.9.3": ({"version": "0.9.3"}, set(), {"sampler", "versions"}),
}


@pytest.mark.parametrize("case", JOBS)
def test_what_a_job_says(case: str) -> None:
    options, reds, ambers = JOBS[case]
    wanted = target(ONE, **options)
    found = rows(wanted, wanted.sample.request, version=options.get("version", "0.12.26"))
    assert set(red(found)) == reds
    assert {row.row for row in found if row.state == "amber"} == ambers


A14B, BIG = "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "wan21_14b"


@pytest.mark.parametrize(
    ("model", "path", "version", "precision", "state"),
    [
        (T2V, A14B, "0.13.1", "fp8_scaled", "green"),
        (T2V, A14B, "0.13.1", "folder", "red"),
        (T2V, A14B, "0.13.1", "bf16", "red"),
        (T2V, A14B, "0.12.26", "folder", "green"),
        (T2V, A14B, "0.12.26", "fp8_scaled", "red"),
        (T2V, A14B, "0.12.26", "GGUF Q4_K", "red"),
        (T2V, A14B, None, "fp8_scaled", "amber"),
        (T2V, "/disk/mine", "0.13.1", "folder", "green"),
        (BIG, MODELS[BIG].base_model, "0.13.1", "bf16", "amber"),
        (BIG, MODELS[BIG].base_model, "0.13.1", "folder", "red"),
    ],
)
def test_u5_the_files_of_the_jobs_trainer_are_green_and_all_else_red(
    model: str, path: str, version: str | None, precision: str, state: str
) -> None:
    wanted = target(model, version=version, base={"name_or_path": path})
    parts = [{"component": name, "precision": precision} for name in ("transformer", "transformer_2")]
    clip = {"base": {"components": [*parts, {"component": "vae", "precision": "folder"}]}}
    request = wanted.sample.request
    for run in (run_of(request, clip, version), replace(run_of(request, None, version), precisions=(precision,))):
        row = next(row for row in checklist(wanted, run) if row.row == "base")
        assert (row.state, row.message != "") == (state, True)
        assert (precision if precision != "folder" else "diffusers folder") in row.run


def test_u5_a_single_file_in_place_of_the_trainers_folder_is_mended() -> None:
    wanted = target(ONE)
    request = wanted.sample.request
    run = replace(run_of(request), precisions=("GGUF Q8_0",))
    mended = apply_all(checklist(wanted, run), request)
    assert mended.base == "folder"
    again = checklist(wanted, replace(run_of(mended), precisions=("GGUF Q8_0",)))
    assert red(again) == []


def test_a_runs_own_metadata() -> None:
    wanted = target(T2V)
    reference = changed(wanted.sample.request, {"recipe": "reference"})
    sampler = {"name": "UniPCMultistepScheduler", "shift": 3.0}
    clip = {"boundary": 0.875, "dtype": "float32", "sampler": sampler, "versions": {"torch": "2"}}
    states = {row.row: row for row in rows(wanted, reference, clip=clip)}
    assert states["boundary"].state == "green" and states["dtype"].state == "amber"
    assert states["sampler"].run == "UniPC, shift 3" and states["versions"].run == "torch 2"
    assert {row.row: row for row in rows(wanted, reference)}["boundary"].state == "amber"


def test_tiles_for_want_of_room_are_a_difference_that_no_setting_mends() -> None:
    wanted = target(ONE)
    states = {row.row: row for row in rows(wanted, wanted.sample.request, clip={"tiled": True})}
    assert states["decode"].state == "red" and states["decode"].run == "in tiles" and states["decode"].fix is None
    assert "did not suffice" in states["decode"].message
    states = {row.row: row for row in rows(wanted, wanted.sample.request, clip={"tiled": False})}
    assert states["decode"].state == "green"


def test_a_size_that_the_reference_recipe_floors_is_mended_with_the_recipe() -> None:
    wanted = target(T2V, {**SAMPLE, "width": 848})
    found = rows(wanted, changed(wanted.sample.request, {"recipe": "reference"}))
    size = next(row for row in found if row.row == "size")
    assert (size.preview, size.run) == ("848 × 480", "832 × 480 (asked for 848 × 480)")
    assert size.fix is not None and size.fix.request == {"recipe": "preview"}


def test_the_file_wins_over_the_config() -> None:
    wanted = replace(target(ONE), file=SampleFacts(640, 480, 81, (24,), "WEBP"))
    request = wanted.sample.request
    assert set(red(rows(wanted, request))) == {"size", "frames", "fps"}
    mended = apply_all(rows(wanted, request), request).prompts[0]
    assert (mended.width, mended.height, mended.num_frames, mended.fps) == (640, 480, 81, 24)
    assert set(red(rows(replace(wanted, file=SampleFacts(832, 480, 41, (15, 16), "GIF")), request))) == set()


def test_files_of_two_saves_another_step_and_a_swap() -> None:
    wanted = target(I2V)
    run = run_of(wanted.sample.request)
    high, low = (item.path for item in wanted.sample.request.loras)

    def with_headers(one: LoraHeader, two: LoraHeader) -> dict[str, Row]:
        return {row.row: row for row in checklist(wanted, replace(run, headers={high: one, low: two}))}

    assert with_headers(header(model_hash="one"), header(model_hash="two"))["lora_sides"].state == "red"
    assert with_headers(header(step=500), header(step=500))["lora_step"].state == "red"
    assert with_headers(header(step=None), header(step=None))["lora_step"].state == "amber"
    swapped = with_headers(header(slot="low"), header(slot="high"))["lora_sides"]
    assert swapped.state == "red" and swapped.fix is not None and swapped.fix.loras is not None
    assert [(item.path, item.transformer) for item in swapped.fix.loras] == [(low, "high"), (high, "low")]


def test_a_picture_that_is_not_here_cannot_be_known() -> None:
    wanted = target(I2V, known_image=False)
    request = changed(wanted.sample.request, {"ctrl_img": f"upload://{IMAGE}"})
    states = {row.row: row for row in rows(wanted, request)}
    assert states["control_image"].state == "amber" and states["control_image"].preview == "fox.png"
    assert {row.row: row for row in rows(replace(wanted, image=OTHER_IMAGE), request)}["control_image"].state == "red"


def test_a_change_leaves_the_other_prompts_as_they_are() -> None:
    wanted = target(ONE)
    job = import_job(
        yaml.safe_dump({"config": {"process": [{"model": {"arch": "wan21"}, "sample": {"prompts": ["[trigger] x"]}}]}})
    )
    plain = Target(job, job.samples[0])
    body = {"model": ONE, "recipe": "preview", "trigger_word": "w", "prompts": [{"prompt": "[trigger] y"}] * 2}
    found = checklist(plain, Run(resolve(parse(body), str)[1]))
    mended = resolve(apply_all(found, parse(body), prompt=1), str)
    assert [one.prompt for one in mended] == ["w y", "[trigger] x"]
    assert mended[0].width == 1024 and mended[1].width == 512
    assert wanted.job.trigger_word == "sks"


def test_as_text_and_as_json() -> None:
    wanted = target(I2V)
    found = rows(wanted, changed(wanted.sample.request, {"seed": 42, "multipliers": [0.5, 0.5]}))
    text = as_text(found)
    assert text.startswith("Training sample against this run: 2 red, 0 amber, 23 green\n")
    assert "[XX] seed            sample 7 | run 42\n" in text and "[ok] steps           25\n" in text
    assert "\x1b" not in as_text(rows(target(ONE, {**SAMPLE, "neg": "a\x1b[31m\nb"}), wanted.sample.request.model_copy(
        update={"model": ONE, "loras": (), "prompts": (parse({"model": ONE, "prompts": [{"prompt": "x"}]}).prompts[0],)}
    )))  # fmt: skip
    body = json.loads(json.dumps([row.body() for row in found]))
    assert [row["row"] for row in body if row["state"] == "red"] == ["seed", "multiplier"]
    assert all(row["fixable"] for row in body if row["state"] == "red")


def test_sampling_values_that_replace_the_recipes_are_red_and_can_be_taken_back() -> None:
    wanted = target(I2V)
    fields = {
        "sampler": "euler",
        "flow_shift": 8,
        "boundary": 0.5,
        "guidance_scale_2": 1.0,
        "ctrl_img_last": "upload://b",
    }
    body = wanted.sample.request.model_dump(exclude_none=True)
    body["prompts"][0].update(fields)
    request = parse(body)
    found = rows(wanted, request)
    assert {row.row for row in found if row.state == "red"} == set(fields)
    assert len({row.row for row in found}) == len(found)
    assert {row.state for row in rows(wanted, apply_all(found, request))} == {"green"}
