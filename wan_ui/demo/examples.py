"""What the trained demo offers a newcomer on each tab: a prompt, a LoRA to try, and words; it knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wan_ui.demo import scenes
from wan_ui.demo.checkpoints import DEMO_DEFAULTS
from wan_ui.models import WanModel

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
    "Try: press Generate. Then open “Compare scales” below the LoRA and run the comparison: the new look comes with "
    "the scale. Empty the trigger word, or choose None as the LoRA, and it is gone."
)
WORDS = (
    f"The demo knows {', '.join(scenes.SHAPES)}; {', '.join(scenes.COLOURS)}; on {', '.join(scenes.BACKGROUNDS)}; "
    "moving left, right, up or down, standing still, growing, circling; slowly or fast."
)


def loras_of(row: WanModel) -> Mapping[str, str]:
    """The LoRA, or the pair, that a row's tab starts with: path by slot."""
    if row.two_transformers:
        return PAIR
    (slot,) = row.slots
    return {slot: {"first_latent": SINGLE, "clip_and_latent_channels": IMAGE}.get(row.conditioning, LOKR)}


def job_file(step: int) -> str:
    """The save of the demo's training job at a step."""
    return JOB if step == JOB_STEPS[-1] else JOB.replace(".safetensors", f"_{step:09d}.safetensors")


def starting(row: WanModel) -> dict[str, Any]:
    """A tab's starting values by wire name, without its LoRAs and its first frame."""
    prompt = FROM_IMAGE if row.control_image != "none" else FROM_TEXT
    return {**DEMO_DEFAULTS, "prompt": prompt, "trigger_word": scenes.TRIGGER}
