"""The recipes (default sampler, dtype, LoRA method) and the scheduler of each sampler; boundaries are in models.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from wan_ui.models import NUM_TRAIN_TIMESTEPS, RecipeId, Sampler, WanModel

Sigmas = Literal["own", "linear", "before_0_36"]


@dataclass(frozen=True)
class SchedulerSpec:
    """A diffusers scheduler: its class name, and its config, or None for the checkpoint's own config.

    `sigmas`, before the shift: the scheduler's own, `linear` (1 − i/n for i = 0 … n − 1), or UniPC's of diffusers
    before 0.36.
    """

    class_name: str
    config: Mapping[str, Any] | None
    sigmas: Sigmas = "own"


@dataclass(frozen=True)
class Recipe:
    """How a video is computed.

    `sampler`: "unipc" is the reference server's, "euler" the trainer's since AI Toolkit 0.9.4.
    `whole_bf16`: on CUDA, cast the whole transformer (norms, time embedder, modulation tables, rotary buffers) to
    bfloat16 instead of keeping diffusers' float32 exceptions.
    `sigmas`: UniPC's flow sigmas by the installed diffusers, or by the rule of diffusers before 0.36, whose first is
    not 1 and whose last differs.
    `lora`: "adapter" applies a plain LoRA unfused, "merge" adds it to the weights in float32 first.
    """

    id: RecipeId
    label: str
    sampler: Literal["unipc", "euler"]
    whole_bf16: bool
    lora: Literal["adapter", "merge"]
    sigmas: Sigmas = "own"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "reference": Recipe("reference", "Standard", "unipc", whole_bf16=False, lora="adapter"),
        "preview": Recipe("preview", "Match training samples", "euler", whole_bf16=True, lora="merge"),
        "preview_unipc": Recipe(
            "preview_unipc",
            "Match training samples, AI Toolkit ≤ 0.9.2",
            "unipc",
            whole_bf16=True,
            lora="merge",
            sigmas="before_0_36",
        ),
    }
)


def unfused_kinds(recipe: Recipe) -> frozenset[str]:
    """The kinds of LoRA layers that stay unfused; all others are merged. DoRA is never merged, as in the trainer."""
    return frozenset({"lora", "dora"}) if recipe.lora == "adapter" else frozenset({"dora"})


def merged_kinds(recipe: Recipe, kinds: Iterable[str]) -> tuple[str, ...]:
    """Those of a file's kinds of layers that are merged into the weights, which are the same at all steps."""
    unfused = unfused_kinds(recipe)
    return tuple(sorted({kind for kind in kinds if kind not in unfused}))


def unipc_config(flow_shift: float) -> dict[str, Any]:
    """The UniPC scheduler that the reference server builds for 5B (shift 5.0) and 2.2 I2V (shift 3.0)."""
    return {
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": flow_shift,
        "final_sigmas_type": "zero",
        "lower_order_final": True,
        "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
        "time_shift_type": "exponential",
        "timestep_spacing": "linspace",
        "disable_corrector": [],
        "steps_offset": 0,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "use_beta_sigmas": False,
        "use_dynamic_shifting": False,
        "use_exponential_sigmas": False,
        "use_karras_sigmas": False,
    }


def euler_config(shift: float) -> dict[str, Any]:
    """The Euler flow-matching scheduler of AI Toolkit's previews."""
    return {"num_train_timesteps": NUM_TRAIN_TIMESTEPS, "shift": shift, "use_dynamic_shifting": False}


def scheduler_spec(model: WanModel, recipe: Recipe) -> SchedulerSpec:
    """The scheduler of a model under a recipe; `config` None means the checkpoint's `scheduler/` folder."""
    if recipe.sampler == "euler":
        return SchedulerSpec("FlowMatchEulerDiscreteScheduler", euler_config(model.euler_shift))
    if recipe.sigmas == "before_0_36":
        return SchedulerSpec("UniPCMultistepScheduler", unipc_config(model.old_unipc_shift), "before_0_36")
    if model.unipc_shift is None:
        return SchedulerSpec("UniPCMultistepScheduler", None)
    return SchedulerSpec("UniPCMultistepScheduler", unipc_config(model.unipc_shift))


def dpm_config(shift: float) -> dict[str, Any]:
    """DPM-Solver++ (Lu et al., 2022) of order 2 on flow matching's sigmas, as diffusers configures it for Wan."""
    return {
        "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
        "algorithm_type": "dpmsolver++",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
    }


_ON_LINEAR_SIGMAS: Mapping[Sampler, str] = MappingProxyType(
    {"euler": "FlowMatchEulerDiscreteScheduler", "lcm": "FlowMatchLCMScheduler"}
)


def chosen_scheduler(
    model: WanModel,
    recipe: Recipe,
    sampler: Sampler | None,
    flow_shift: float | None,
    checkpoint: Mapping[str, Any] | None,
) -> SchedulerSpec:
    """The scheduler of a video: the recipe's, or the chosen sampler, with its shift replaced where one is given.

    `checkpoint` is the config of the checkpoint's `scheduler/` folder. The result's config is None only where the
    checkpoint's is needed and there is none. `euler` and `lcm` get σ = 1 − i/n, the grid that speed LoRAs are distilled
    on. The recipe `preview` keeps the sigmas that diffusers' Euler computes itself, because the trainer uses them.
    """
    if sampler is None:
        spec = scheduler_spec(model, recipe)
    elif sampler == "unipc":
        spec = scheduler_spec(model, RECIPES["reference"])
    elif sampler == "dpm++":
        unipc = model.unipc_shift or (checkpoint or {}).get("flow_shift", model.euler_shift)
        spec = SchedulerSpec("DPMSolverMultistepScheduler", dpm_config(unipc))
    else:
        spec = SchedulerSpec(_ON_LINEAR_SIGMAS[sampler], euler_config(model.euler_shift), "linear")
    if spec.config is None and checkpoint is not None:
        spec = SchedulerSpec(str(checkpoint.get("_class_name", spec.class_name)), checkpoint, spec.sigmas)
    if flow_shift is None or spec.config is None:
        return spec
    key = "shift" if "shift" in spec.config else "flow_shift"
    return SchedulerSpec(spec.class_name, {**spec.config, key: flow_shift}, spec.sigmas)
