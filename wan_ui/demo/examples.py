"""The demo's starting values on each tab: a prompt that its models know, a LoRA to try, and their vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wan_ui.demo.checkpoints import DEMO_DEFAULTS
from wan_ui.models import WanModel

# What the demo's models were trained on (tools/demo_scenes.py draws it).
TRIGGER = "sks"
SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
BACKGROUNDS = ("black", "navy", "gray", "teal", "sand")

SINGLE = "my_lora_job/my_lora.safetensors"
PAIR: Mapping[str, str] = {
    "high": "my_lora_job/my_high_noise.safetensors",
    "low": "my_lora_job/my_low_noise.safetensors",
}
COMBINED = "my_lora_job/my_combined.safetensors"
IMAGE = "my_wan_job/my_wan_job.safetensors"
JOB = "rings_job/rings_job.safetensors"
JOB_STEPS = (500, 1000, 1500, 2000)
LOKR = "stripes_lokr/stripes_lokr.safetensors"
WRONG = "wrong_model/wrong_model.safetensors"

FROM_TEXT = "a [trigger] red circle moving left on a navy background"
FROM_IMAGE = "a [trigger] orange star moving right on a navy background"  # what first_frame.png shows
PROMPTS = (
    FROM_TEXT,
    "a [trigger] yellow square growing on a teal background",
    "a [trigger] blue triangle rising slowly on a sand background",
    "a [trigger] pink star standing still on a black background",
    "a [trigger] green circle circling slowly on a gray background",
)

TRY = (
    "Try: press Generate. Then open “Compare strengths” below the prompt and press Compare: the new look comes "
    "with the scale. Empty the trigger word, or remove the LoRA, and it is gone."
)
WORDS = (
    f"The demo knows {', '.join(SHAPES)}; {', '.join(COLOURS)}; on {', '.join(BACKGROUNDS)}; "
    "moving left, right, up or down, standing still, growing, circling; slowly or fast."
)


def loras_of(model: WanModel) -> Mapping[str, str]:
    """The LoRA, or the pair, that a model's tab starts with: path by slot."""
    if model.two_transformers:
        return PAIR
    (slot,) = model.slots
    return {slot: {"first_latent": SINGLE, "clip_and_latent_channels": IMAGE}.get(model.conditioning, LOKR)}


def job_file(step: int) -> str:
    """The checkpoint of the demo's training job at a step."""
    return JOB if step == JOB_STEPS[-1] else JOB.replace(".safetensors", f"_{step:09d}.safetensors")


def starting(model: WanModel) -> dict[str, Any]:
    """A tab's starting values by wire name, without its LoRAs and its first frame."""
    prompt = FROM_IMAGE if model.control_image != "none" else FROM_TEXT
    return {**DEMO_DEFAULTS, "prompt": prompt, "trigger_word": TRIGGER}
