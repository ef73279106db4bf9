"""Out and in again: a request as the trainer's `sample:` block, imported back, is the same generations."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wan_ui.models import MODELS
from wan_ui.request import Generation, InferenceRequest, LoraItem, parse, resolve
from wan_ui.trainer.job import import_job
from wan_ui.trainer.sample_block import SampleBlock, sample_block

ONE, PAIR, IMAGE = "wan21_1b", "wan22_14b_t2v", "wan22_14b_i2v"


def request(prompts: list[dict[str, Any]], model: str = ONE, **fields: Any) -> InferenceRequest:
    items = [{"prompt": "a fox", **item} for item in prompts]
    return parse({"model": model, "recipe": "preview", "prompts": items, **fields})


def back(asked: InferenceRequest, block: SampleBlock, loras: tuple[LoraItem, ...] = ()) -> tuple[Generation, ...]:
    row = MODELS[asked.model]
    process = {"model": {"arch": row.trainer_arch, "name_or_path": row.base_model}, **yaml.safe_load(block.text)}
    config = yaml.safe_dump({"config": {"name": "x", "process": [process]}})
    job = import_job(config, loras, find_image=lambda path: path)
    return tuple(resolve(one, store_image=lambda text: "same")[0] for one in job.requests)


def settings(generations: tuple[Generation, ...]) -> list[tuple[Any, ...]]:
    return [
        (
            one.model, one.recipe, one.prompt, one.neg, one.width, one.height, one.num_frames, one.fps, one.seed,
            one.sample_steps, one.guidance_scale, one.image, one.loras,
        )
        for one in generations
    ]  # fmt: skip


@pytest.mark.parametrize(
    "asked",
    [
        request([{}]),
        request([{}, {}, {"seed": 3}, {}]),
        request([{"seed": 7, "width": 832, "fps": 24, "num_frames": 40, "neg": "dark: 'x'"}, {"width": 64}]),
        request([{"prompt": "[trigger] runs"}, {"prompt": "[trigger]", "trigger_word": "b"}], trigger_word="a"),
        request([{"prompt": "[trigger] runs"}]),
        request([{"prompt": "yes: no\n- 'quoted' \"text\" ünïcode 狐 #x"}]),
        request([{"seed": 1}], PAIR),
        request([{"seed": 1, "ctrl_img": "aGk="}, {"ctrl_img": "aGk="}], IMAGE),
        request([{"guidance_scale": 3.25, "sample_steps": 12}, {"guidance_scale": 1}]),
    ],
)
def test_what_goes_out_comes_back(asked: InferenceRequest) -> None:
    came = back(asked, sample_block(asked))
    assert settings(came) == settings(resolve(asked, store_image=lambda text: "same"))


def test_the_scale_comes_back() -> None:
    loras = [{"path": "a", "transformer": slot, "network_multiplier": 0.6} for slot in ("high", "low")]
    asked = request([{}], PAIR, loras=loras)
    block = sample_block(asked)
    assert block.notes == ()
    assert settings(back(asked, block, asked.loras)) == settings(resolve(asked, store_image=str))


def test_the_block_as_people_read_it() -> None:
    asked = request([{"seed": 42, "width": 832, "height": 480}, {"prompt": "two cats", "width": 480, "height": 832}])
    assert sample_block(asked).text == (
        "sample:\n"
        "  sampler: flowmatch\n"
        "  width: 832\n"
        "  height: 480\n"
        "  num_frames: 41\n"
        "  fps: 16\n"
        "  guidance_scale: 4.0\n"
        "  sample_steps: 25\n"
        "  neg: ''\n"
        "  seed: 42\n"
        "  walk_seed: false\n"
        "  network_multiplier: 1.0\n"
        "  samples:\n"
        "  - prompt: a fox\n"
        "    seed: 42\n"
        "  - prompt: two cats\n"
        "    seed: 43\n"
        "    width: 480\n"
        "    height: 832\n"
    )


def test_what_the_block_cannot_say() -> None:
    scales = (("high", 0.5), ("low", 1))
    loras = [{"path": slot, "transformer": slot, "network_multiplier": scale} for slot, scale in scales]
    asked = request([{"prompt": "a fox -- slow", "ctrl_img": "aGk="}], IMAGE, loras=loras)
    notes = sample_block(asked.model_copy(update={"recipe": "reference"})).notes
    for word in ("flags", "first_frame_1.png", "one multiplier", "recipe"):
        assert any(word in note for note in notes)
    assert "--" not in sample_block(asked).text
    assert "aGk=" not in sample_block(asked).text


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn")), max_size=40)


@given(TEXT, TEXT, st.integers(-1, 2**63 - 1), st.integers(64, 4096), st.floats(0, 20))
def test_any_prompt_comes_back(prompt: str, neg: str, seed: int, width: int, guidance: float) -> None:
    asked = request([{"prompt": prompt, "neg": neg, "seed": seed, "width": width, "guidance_scale": guidance}])
    block = sample_block(asked)
    (one,) = yaml.safe_load(block.text)["sample"]["samples"]
    assert one["prompt"] == prompt or "--" in prompt
    came = back(asked.model_copy(update={"prompts": asked.prompts}), block)
    assert (came[0].neg, came[0].guidance_scale) == (neg.replace("[name]", "x"), guidance)
    assert "--" in prompt or came[0].prompt == prompt.strip()
