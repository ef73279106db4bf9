"""What a clip's metadata says about how and where it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import peft
import torch
import transformers

import wan_ui
from wan_ui.engine.denoiser import RenderPlan
from wan_ui.request import Generation
from wan_ui.speed_loras import SPEED_LORAS, own_values


def versions() -> dict[str, str]:
    """The versions of what computes a clip, by package."""
    return {
        "wan-ui": wan_ui.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def sampling_facts(plan: RenderPlan) -> Mapping[str, Any]:
    """The recipe, sampler, shift and boundary of a render, JSON-ready."""
    config = plan.scheduler.config or {}
    return {
        "recipe": plan.recipe.id,
        "sampler": {"name": plan.scheduler.class_name, "shift": config.get("flow_shift", config.get("shift"))},
        "boundary": plan.boundary if plan.generation.switch_step is None else None,
        **({"replaced": plan.generation.replaced} if plan.generation.replaced else {}),
        **speed_facts(plan.generation),
    }


def speed_facts(generation: Generation) -> Mapping[str, Any]:
    """`speed_lora` of a fast look: which, its settings, and the request's own values in their place."""
    if generation.speed_lora is None:
        return {}
    speed = SPEED_LORAS[generation.speed_lora]
    return {
        "speed_lora": {
            "id": speed.id,
            "label": speed.label,
            "fast_look": True,
            "settings": speed.settings,
            "own_values": own_values(speed, generation),
        }
    }
