"""Timesteps, sigmas and the transformer of each step, for every model, recipe and version of diffusers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from wan_ui.engine.components import build_scheduler
from wan_ui.engine.recipes import RECIPES, chosen_scheduler, euler_config, scheduler_spec, unipc_config
from wan_ui.engine.sampling import Experts, linear_sigmas, old_flow_sigmas, set_timesteps
from wan_ui.models import MODELS, Sampler

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STEPS = (20, 25, 30)


def old_rule(shift: float, steps: int) -> np.ndarray:
    """As stated for diffusers up to 0.35."""
    x = 1 - np.linspace(1, 1 / 1000, steps + 1)
    return np.flip(shift * x / (1 + (shift - 1) * x))[:-1]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [3.0, 5.0])
def test_the_old_era_follows_its_rule(shift: float, steps: int) -> None:
    scheduler = UniPCMultistepScheduler.from_config(unipc_config(shift))
    set_timesteps(scheduler, steps, CPU, old_flow_sigmas(steps))
    expected = old_rule(shift, steps)
    assert np.array_equal(scheduler.sigmas.numpy(), np.append(expected, 0).astype(np.float32))
    assert np.array_equal(scheduler.timesteps.numpy(), (expected * 1000).astype(np.int64))


def test_the_two_eras_differ_as_measured() -> None:
    old, new = old_rule(3.0, 25), UniPCMultistepScheduler.from_config(unipc_config(3.0))
    set_timesteps(new, 25, CPU)
    assert (round(old[0], 5), round(old[-1], 4)) == (0.99967, 0.1110)
    assert (round(float(new.sigmas[0]), 6), round(float(new.sigmas[24]), 4)) == (0.999999, 0.1136)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [3.0, 5.0])
def test_the_present_era_is_diffusers_own(shift: float, steps: int) -> None:
    for ours, theirs in (
        (build_scheduler("UniPCMultistepScheduler", unipc_config(shift)),
         UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)),
        (build_scheduler("FlowMatchEulerDiscreteScheduler", euler_config(shift)),
         FlowMatchEulerDiscreteScheduler(shift=shift)),
    ):  # fmt: skip
        set_timesteps(ours, steps, CPU)
        theirs.set_timesteps(steps)
        assert torch.equal(ours.timesteps, theirs.timesteps)
        assert torch.equal(ours.sigmas, theirs.sigmas)


CHECKPOINT = {"_class_name": "UniPCMultistepScheduler", **unipc_config(3.0)}
HIGH_STEPS_OF_25 = {
    ("wan22_14b_i2v", "reference"): 7,
    ("wan22_14b_t2v", "reference"): 8,
    ("wan22_14b_i2v", "preview"): 11,
    ("wan22_14b_t2v", "preview"): 11,
    ("wan22_14b_i2v", "preview_unipc"): 8,
    ("wan22_14b_t2v", "preview_unipc"): 8,
}


@pytest.mark.parametrize(("model", "recipe"), list(HIGH_STEPS_OF_25))
def test_the_transformer_of_each_step(model: str, recipe: str) -> None:
    wan_model, chosen = MODELS[model], RECIPES[recipe]
    spec = scheduler_spec(wan_model, chosen)
    scheduler = build_scheduler(spec.class_name, CHECKPOINT if spec.config is None else spec.config)
    set_timesteps(scheduler, 25, CPU, old_flow_sigmas(25) if chosen.sigmas == "before_0_36" else None)
    boundary = wan_model.boundary[chosen.id]
    share = 0.875 if boundary == "checkpoint" else boundary
    high, low = cast(Any, SimpleNamespace(name="high")), cast(Any, SimpleNamespace(name="low"))
    experts = Experts(high, low, share, lambda transformer: None)
    at = [experts.at(step, timestep).name for step, timestep in enumerate(scheduler.timesteps)]
    assert at == ["high"] * HIGH_STEPS_OF_25[model, recipe] + ["low"] * (25 - HIGH_STEPS_OF_25[model, recipe])


@pytest.mark.parametrize("sampler", ["unipc", "euler", "dpm++", "lcm"])
@pytest.mark.parametrize(("boundary", "high_steps"), [(0.875, 3), (0.9, 2)])
def test_four_steps_at_shift_8_change_transformers_by_ratio_and_by_step(
    sampler: Sampler, boundary: float, high_steps: int
) -> None:
    """As in the goldens: at shift 8 four steps have the timesteps 1000, 960, 889 and 727, or a little less."""
    spec = chosen_scheduler(MODELS["wan22_14b_t2v"], RECIPES["reference"], sampler, 8.0, CHECKPOINT)
    scheduler = build_scheduler(spec.class_name, spec.config or {})
    set_timesteps(scheduler, 4, CPU, linear_sigmas(4) if spec.sigmas == "linear" else None)
    high, low = cast(Any, SimpleNamespace(name="high")), cast(Any, SimpleNamespace(name="low"))
    for switch in (boundary, high_steps):
        steps = Experts(high, low, switch, lambda transformer: None).schedule(scheduler.timesteps)
        expected = [("high", step, high_steps) for step in range(high_steps)]
        expected += [("low", step, 4 - high_steps) for step in range(4 - high_steps)]
        assert [(cast(Any, step.transformer).name, step.step, step.steps) for step in steps] == expected
