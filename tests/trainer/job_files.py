"""A training job's folder as AI Toolkit leaves it: config, LoRA files by step, previews; and a render that moves."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.fakes import FakeRender
from tests.lora_files import write_lora
from tests.trainer.tiny_transformers import tiny as tiny
from wan_ui.engine.result import Clip, OnProgress
from wan_ui.request import Generation
from wan_ui.trainer.sample_files import Frames

STEPS = (250, 500)
SAMPLES: Sequence[Mapping[str, Any]] = (
    {"prompt": "a [trigger] fox runs", "seed": 7},
    {"prompt": "a [trigger] fox sleeps", "seed": 9},
)
SAMPLE: Mapping[str, Any] = {
    "width": 96, "height": 64, "num_frames": 9, "fps": 16, "seed": 42, "walk_seed": True, "guidance_scale": 4,
    "sample_steps": 3, "neg": "", "samples": list(SAMPLES),
}  # fmt: skip
SMALL = {"arch": "wan21", "name_or_path": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}
PAIR = {"arch": "wan22_14b:t2v", "name_or_path": "ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16"}
I2V = {"arch": "wan22_14b_i2v", "name_or_path": "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16"}


def config(model: Mapping[str, Any] = SMALL, sample: Mapping[str, Any] = SAMPLE, name: str = "fox") -> bytes:
    process = {
        "type": "diffusion_trainer", "trigger_word": "sks", "network": {"type": "lora", "linear": 4},
        "model": dict(model), "sample": dict(sample),
    }  # fmt: skip
    return yaml.safe_dump({"job": "extension", "config": {"name": name, "process": [process]}}).encode()


def moving(seed: int, width: int = 96, height: int = 64, frames: int = 9) -> Frames:
    """A disc of the seed's colour that crosses a gradient, uint8, (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    ground = np.stack([x * 160 / width, y * 160 / height, np.full(x.shape, rng.integers(40, 200))], axis=-1)
    colour, row = rng.integers(60, 250, 3), rng.uniform(0.3, 0.7) * height
    made = []
    for index in range(frames):
        column = width * (0.15 + 0.7 * (index / max(1, frames - 1)))
        apart = np.hypot(x - column, y - row)
        cover = np.clip((height / 5 - apart) / 2, 0, 1)[..., None]
        made.append((ground * (1 - cover) + colour * cover).astype(np.uint8))
    return np.stack(made)


class MovingRender(FakeRender):
    """Renders `moving` of the generation's seed."""

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        clip = super().__call__(generation, on_progress)
        frames = moving(generation.seed, generation.width, generation.height, generation.num_frames)
        return replace(clip, frames=frames, metadata={**clip.metadata, "dtype": "bfloat16", "versions": {"torch": "2"}})


def webp(frames: Frames, fps: int = 16) -> bytes:
    """As the trainer saves its previews."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=1000 // fps, quality=80, loop=0)
    return file.getvalue()


def lora(path: Path, step: int | None, seed: int, version: str = "0.12.26") -> None:
    """A LoRA file with the metadata of a save."""
    write_lora(path, seed=seed)
    about = {
        "software": json.dumps({"name": "ai-toolkit", "version": version}),
        "training_info": json.dumps({"step": step, "epoch": 1}),
        "sshs_model_hash": f"{step or 0:064x}",
    }
    save_file(load_file(path), path, metadata={"format": "pt", **about})


def write_job(
    folder: Path,
    model: Mapping[str, Any] = SMALL,
    sample: Mapping[str, Any] = SAMPLE,
    sides: Sequence[str] = ("",),
    previews: bool = True,
    seeds: Sequence[int] = (7, 9),
) -> Path:
    """Saves at 250 and 500 and a final one at 750, each with previews of both samples at the config's own size."""
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_bytes(config(model, sample))
    for step, name in (*((step, f"fox_{step:09d}") for step in STEPS), (750, "fox")):
        for number, side in enumerate(sides):
            lora(folder / f"{name}{side}.safetensors", step, step + number)
        for index, seed in enumerate(seeds):
            if previews:
                frames = moving(seed, sample["width"], sample["height"], sample["num_frames"])
                file = folder / "samples" / f"1750000000{step:03d}__{step:09d}_{index}.webp"
                file.write_bytes(webp(frames, sample["fps"]))
    return folder


def zipped(folder: Path, to: Path) -> Path:
    """The folder as a ZIP, under its own name."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return to
