"""A LoRA whose scale changes over the steps: diffusers' frames with the same scales set between its own steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchLCMScheduler, WanPipeline

from tests.engine.test_compile import captured
from tests.engine.test_pipeline import HEIGHT, WIDTH, frames, request
from tests.golden_cases import CHECKPOINTS, differences
from tests.lora.writers import FORMATS, Width
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.engine.compile import BlockCompiler
from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import InvalidRequest
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow
ONE, PAIR = "wan21_1b", "wan22_14b_t2v"
STEPS = 4


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "a.safetensors", seed=1)
    write_lora(folder / "b.safetensors", seed=2)
    for name, kind in (("lokr", "ai-toolkit lokr, w2 factored"), ("full", "full layers"), ("speed", "lightx2v")):
        FORMATS[kind](Width(48, 2, 96, 3)).save(folder / f"{name}.safetensors")
    return folder


def body(*scales: Any, model: str = ONE, recipe: str = "reference", **fields: Any) -> dict[str, Any]:
    names = ("a.safetensors", "b.safetensors")
    uses = dict(zip(names, scales, strict=False))
    return request(model, recipe, uses, **{"num_frames": 1, "sample_steps": STEPS, **fields})


def of_diffusers(model: str, scheduler: Any = None, lora: Path | None = None, scales: tuple[float, ...] = ()) -> Any:
    """Frames of diffusers' own pipeline, which sets `scales` between its steps."""
    pipe = WanPipeline.from_pretrained(CHECKPOINTS / MODELS[model].base_model)
    if scheduler is not None:
        pipe.scheduler = scheduler

    def set_scale(step: int) -> None:
        if lora is not None and step < len(scales):
            pipe.set_adapters(["a"], [scales[step]])

    def after_step(pipe: Any, step: int, timestep: Any, arguments: Any) -> Any:
        set_scale(step + 1)
        return arguments

    if lora is not None:
        pipe.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="a")
        set_scale(0)
    generator = torch.Generator("cpu").manual_seed(42)
    if isinstance(scheduler, LinearLcm):
        scheduler.generator = generator
    video = pipe(
        prompt="a red circle",
        negative_prompt="",
        width=WIDTH,
        height=HEIGHT,
        num_frames=1,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=generator,
        callback_on_step_end=after_step,
        output_type="pil",
    ).frames[0]
    return np.stack([np.asarray(frame) for frame in video])


class LinearLcm(FlowMatchLCMScheduler):  # type: ignore[misc]
    """LCM on σ = 1 − i/n, with the noise of the pipeline's generator."""

    generator: torch.Generator

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **other: Any) -> None:
        super().set_timesteps(device=device, sigmas=1 - np.arange(num_inference_steps) / num_inference_steps)

    def step(self, *arguments: Any, **named: Any) -> Any:
        return super().step(*arguments, **named, generator=self.generator)


@pytest.mark.parametrize(
    ("given", "values"),
    [([1, 0.25], (1, 1, 0.25, 0.25)), ({"from": 1, "to": -0.5}, (1, 0.5, 0, -0.5)), ([0, 0, 1, 1], (0, 0, 1, 1))],
)
def test_frames_are_those_of_diffusers(engine: Engine, loras: Path, given: Any, values: tuple[float, ...]) -> None:
    expected = of_diffusers(ONE, lora=loras / "a.safetensors", scales=values)
    mean, most = differences(frames(engine, body(given)), expected)
    assert mean <= 0.1 and most <= 2


def test_dpm_and_lcm_are_diffusers_own(engine: Engine) -> None:
    dpm = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    for sampler, scheduler in (("dpm++", dpm), ("lcm", LinearLcm(shift=5.0))):
        made = frames(engine, body(sampler=sampler, flow_shift=5.0))
        assert np.array_equal(made, of_diffusers(ONE, scheduler))


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_equal_values_are_the_plain_number(engine: Engine, recipe: str) -> None:
    plain = frames(engine, body(0.7, recipe=recipe))
    assert np.array_equal(frames(engine, body([0.7] * 3, recipe=recipe)), plain)
    assert np.array_equal(frames(engine, body({"from": 0.7, "to": 0.7}, recipe=recipe)), plain)


def test_zero_everywhere_is_no_lora_and_each_transformer_counts_its_own_steps(engine: Engine) -> None:
    base = frames(engine, body(model=PAIR))
    assert np.array_equal(frames(engine, body([0, 0], {"from": 0, "to": 0}, model=PAIR)), base)
    clip = engine.generate(body(1, {"from": 1, "to": 0}, model=PAIR, switch_step=1))[0]
    # The low-noise transformer has three steps: 1, 0.5, 0.
    same = frames(engine, body(1, [1, 0.5, 0], model=PAIR, switch_step=1))
    assert np.array_equal(clip.frames, same)
    assert not np.array_equal(clip.frames, frames(engine, body(1, [1, 0.5, 0], model=PAIR, switch_step=2)))
    assert clip.metadata["replaced"]["network_multiplier"] == [{"from": 1, "to": 0}]
    assert clip.metadata["lora"]["low"]["files"][0]["network_multiplier"] == {"from": 1, "to": 0}
    assert clip.metadata["lora"]["high"]["files"][0]["network_multiplier"] == 1


def test_high_noise_steps_are_shared_at_equal_scales(engine: Engine) -> None:
    ramp = {"from": 1, "to": 0}
    alone = frames(engine, body(ramp, [0.3, 0.6], model=PAIR, switch_step=2))
    engine.generate(body(ramp, 1, model=PAIR, switch_step=2))
    clip = engine.generate(body(ramp, [0.3, 0.6], model=PAIR, switch_step=2))[0]
    assert clip.metadata["steps"]["shared"] == 2
    assert np.array_equal(clip.frames, alone)
    assert "shared" not in engine.generate(body([1, 0.5], [0.3, 0.6], model=PAIR, switch_step=2))[0].metadata["steps"]


def test_a_list_builds_no_graph_and_loads_nothing(engine: Engine, loras: Path) -> None:
    torch._dynamo.reset()
    compiled = Engine(models_dir=CHECKPOINTS, lora_dir=loras, device="cpu")
    compiled.loader.compiler = BlockCompiler("exact", torch.device("cpu"), captured)
    frames(compiled, body(1.0, 0.5, model=PAIR))
    blocks = compiled.loader.compiler.of(RECIPES["reference"])
    assert blocks is not None
    graphs, loads, encoded = blocks.graphs, compiled.loader.statistics.loads, compiled.loader.prompts.encodes
    assert graphs == 1
    changing = body([0, 1, 0.2], {"from": 1, "to": 0}, model=PAIR)
    assert np.array_equal(frames(compiled, changing), frames(engine, changing))
    assert blocks.graphs == graphs
    assert (compiled.loader.statistics.loads, compiled.loader.prompts.encodes) == (loads, encoded)
    compiled.close()
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["lokr", "full", "speed"])
def test_merged_layers_cannot_follow(engine: Engine, name: str) -> None:
    asked = request(ONE, loras={f"{name}.safetensors": [1, 0.5]})  # type: ignore[dict-item]
    with pytest.raises(InvalidRequest, match="cannot change over the steps") as raised:
        engine.generate(asked)
    assert raised.value.details["fields"][0]["loc"] == "loras.0.network_multiplier"


@pytest.mark.parametrize("recipe", ["preview", "preview_unipc"])
def test_the_trainers_recipes_merge_everything(engine: Engine, recipe: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the recipe {recipe} merges"):
        engine.generate(body([1, 0.5], recipe=recipe))
