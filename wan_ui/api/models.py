"""GET /models: the models and their defaults."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from wan_ui.api.openapi import errors
from wan_ui.api.schemas import ModelList
from wan_ui.models import DEFAULT_FPS, DEFAULT_GUIDANCE_SCALE, DEFAULT_NUM_FRAMES, DEFAULT_STEPS, MODELS

router = APIRouter()


@router.get("/models", summary="List the models", response_model=ModelList, responses=errors())
def models() -> dict[str, Any]:
    """The models in the order of the page's tabs."""
    return {
        "models": [
            {
                "id": model.id,
                "base_model": model.base_model,
                "resolution_divisor": model.divisor["reference"],
                "default_steps": DEFAULT_STEPS,
                "default_guidance_scale": DEFAULT_GUIDANCE_SCALE,
                "requires_control_image": model.control_image == "required",
                "is_video_model": True,
                "default_num_frames": DEFAULT_NUM_FRAMES,
                "default_fps": DEFAULT_FPS,
            }
            for model in MODELS.values()
        ]
    }
