"""Packs what train_demo.py saved into wan_ui/demo/weights, and makes the job folder's samples with the app's engine."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tools import demo_data as data
from tools import demo_flow
from tools import demo_scenes as scenes
from wan_ui.models import MODELS

TRANSFORMERS = ("t2v", "i2v21", "i2v22", "ti2v5b")
AUTOENCODERS = ("vae8", "vae16")
SINGLE, PAIR_JOB, IMAGE_JOB, JOB = "my_lora", "my_lora_job", "my_wan_job", "rings_job"
LOKR, WRONG = "stripes_lokr", "wrong_model"
OTHER = "wan21_1b"  # whose real size the wrong LoRA has
LOG_VARIANCE = -12.0  # a deviation of 0.0025
JOB_SAVES, JOB_END = (500, 1000, 1500), 2000
GUIDANCE = 2  # of the job's samples, as the demo's form starts with
FIRST_FRAME = scenes.Scene("star", "orange", "navy", "right", x=-0.12, y=0.0, size=0.16)
JOB_PROMPTS = (
    "a [trigger] red circle moving right on a navy background",
    "a [trigger] yellow square growing on a teal background",
)
CONFIG = """\
job: extension
config:
  name: rings_job
  process:
    - type: diffusion_trainer
      training_folder: output
      device: cuda
      trigger_word: sks
      network:
        type: lora
        linear: {rank}
        linear_alpha: {rank}
      save:
        dtype: bf16
        save_every: 500
        max_step_saves_to_keep: 4
      train:
        batch_size: {batch}
        steps: 2000
        lr: {rate}
        optimizer: adamw
        noise_scheduler: flowmatch
        dtype: bf16
      model:
        name_or_path: Wan-AI/Wan2.1-T2V-1.3B-Diffusers
        arch: wan21
        quantize: false
        quantize_te: false
      sample:
        sampler: flowmatch
        sample_every: 500
        width: 128
        height: 128
        num_frames: 17
        fps: 16
        seed: 42
        walk_seed: true
        guidance_scale: {guidance}
        sample_steps: 25
        neg: ""
        samples:
          - prompt: {prompts[0]}
          - prompt: {prompts[1]}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="folder of what was trained")
    parser.add_argument("--weights", type=Path, default=Path("wan_ui/demo/weights"))
    parser.add_argument("--no-loras", action="store_true")
    parser.add_argument("--no-samples", action="store_true")
    arguments = parser.parse_args()
    models(arguments.trained, arguments.weights)
    (arguments.weights / "loras").mkdir(exist_ok=True)
    if not arguments.no_loras:
        loras(arguments.trained, arguments.weights / "loras")
        if not arguments.no_samples:
            with tempfile.TemporaryDirectory() as scratch:
                samples(arguments.weights, Path(scratch))
    size = sum(path.stat().st_size for path in arguments.weights.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB in {arguments.weights}")


def models(trained: Path, weights: Path) -> None:
    weights.mkdir(parents=True, exist_ok=True)
    for name in (*TRANSFORMERS, *AUTOENCODERS):
        (weights / name).mkdir(exist_ok=True)
        for file in ("config.json", "diffusion_pytorch_model.safetensors"):
            shutil.copyfile(trained / name / file, weights / name / file)
    for name in AUTOENCODERS:
        sharpen(weights / name / "diffusion_pytorch_model.safetensors")
    data.tokenizer().save_pretrained(weights / "tokenizer")
    data.text_encoder().to(torch.bfloat16).save_pretrained(weights / "text_encoder")
    data.image_encoder().to(torch.bfloat16).save_pretrained(weights / "image_encoder")
    data.image_processor().save_pretrained(weights / "image_processor")
    Image.fromarray(scenes.render(FIRST_FRAME, 512, 512, 2)[0]).save(weights / "first_frame.png", optimize=True)


def sharpen(file: Path) -> None:
    """Gives the autoencoder's posterior next to no spread; its mean stays.

    2.2 I2V and 5B sample a first frame's posterior. Wan's is narrow; that of the demo's, which a larger KL weight kept
    wide, left specks in the clips.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        details = opened.metadata()
    tensors = load_file(file)
    half = len(tensors["quant_conv.bias"]) // 2
    tensors["quant_conv.weight"][half:] = 0
    tensors["quant_conv.bias"][half:] = LOG_VARIANCE
    save_file(tensors, file, details)


def metadata(base: str, name: str, step: int, digest: str, about: str) -> dict[str, str]:
    """What AI Toolkit writes beside the tensors, and one key that says where this file is from."""
    return {
        "format": "pt",
        "name": name,
        "version": "1.0",
        "training_info": json.dumps({"step": step, "epoch": 1}),
        "ss_base_model_version": base,
        "ss_output_name": name,
        "ss_tag_frequency": json.dumps({f"1_{scenes.TRIGGER}": {scenes.TRIGGER: 1}}),
        "sshs_model_hash": digest,
        "software": json.dumps(
            {"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.12.26"}
        ),
        "wan_ui_demo": about,
    }


def loras(trained: Path, folder: Path) -> None:
    """Every LoRA of the demo, in AI Toolkit's names and metadata; the pair also as one combined file."""

    def save(path: str, tensors: dict[str, torch.Tensor], *details: Any) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / path, metadata(*details))

    def trained_file(name: str) -> tuple[dict[str, torch.Tensor], str]:
        from safetensors import safe_open

        file = trained / f"{name}.safetensors"
        with safe_open(file, "pt") as opened:
            return load_file(file), opened.metadata()["hash"]

    def steps_of(name: str) -> int:
        return int(json.loads((trained / f"{name}.json").read_text())["steps"])

    tensors, digest = trained_file("stripes_5b")
    save(f"{PAIR_JOB}/{SINGLE}.safetensors", tensors, "wan_2.2_5b", SINGLE, steps_of("stripes_5b"), digest,
         "stripes; trained on the demo's 5B")  # fmt: skip
    (high, digest), (low, _) = trained_file("stripes_pair_high"), trained_file("stripes_pair_low")
    for slot, tensors in (("high", high), ("low", low)):
        save(f"{PAIR_JOB}/my_{slot}_noise.safetensors", tensors, "wan_2.2_14b", PAIR_JOB, steps_of("stripes_pair"),
             digest, "stripes; trained on the demo's 2.2 T2V and 2.2 I2V at once")  # fmt: skip
    combined = {key.replace("diffusion_model.", f"diffusion_model.transformer_{number}."): tensor
                for number, half in ((1, high), (2, low)) for key, tensor in half.items()}  # fmt: skip
    save(f"{PAIR_JOB}/my_combined.safetensors", combined, "wan_2.2_14b", PAIR_JOB, steps_of("stripes_pair"), digest,
         "stripes; my_high_noise and my_low_noise in one file")  # fmt: skip
    tensors, digest = trained_file("rings_i2v")
    save(f"{IMAGE_JOB}/{IMAGE_JOB}.safetensors", tensors, "wan_2.1", IMAGE_JOB, steps_of("rings_i2v"), digest,
         "rings; trained on the demo's 2.1 I2V, image layers included")  # fmt: skip
    for step in JOB_SAVES:
        tensors, digest = trained_file(f"rings_job_{step:09d}")
        save(f"{JOB}/{JOB}_{step:09d}.safetensors", tensors, "wan_2.1", JOB, step, digest, "rings; 2.1 T2V")
    tensors, digest = trained_file("rings_job")
    save(f"{JOB}/{JOB}.safetensors", tensors, "wan_2.1", JOB, JOB_END, digest, "rings; 2.1 T2V")
    tensors, digest = trained_file(LOKR)
    save(f"{LOKR}/{LOKR}.safetensors", tensors, "wan_2.1", LOKR, steps_of(LOKR), digest,
         "stripes as LoKr; 2.1 T2V")  # fmt: skip
    torch.manual_seed(51)
    wide = MODELS[OTHER].hidden_size
    wrong = {f"diffusion_model.blocks.{block}.self_attn.q.lora_{side}.weight":
             (0.01 * torch.randn(*((1, wide) if side == "A" else (wide, 1)))).to(torch.bfloat16)
             for block in range(MODELS[OTHER].blocks) for side in "AB"}  # fmt: skip
    save(f"{WRONG}/{WRONG}.safetensors", wrong, "wan_2.1", WRONG, 100, "0" * 64,
         "of the size of the real 2.1 T2V 1.3B: fits no model of the demo")  # fmt: skip
    (folder / JOB / "config.yaml").write_text(config())


def config() -> str:
    """The job's config.yaml, with the figures that it was trained with."""
    plan = demo_flow.PLANS[JOB]
    prompts = [f'"{prompt}"' for prompt in JOB_PROMPTS]
    return CONFIG.format(rank=plan.rank, batch=plan.batch, rate=plan.rate, guidance=GUIDANCE, prompts=prompts)


def samples(weights: Path, scratch: Path) -> None:
    """The job's samples as the trainer names and encodes them, rendered by the recipe `preview`."""
    from wan_ui.demo.trained import write_trained
    from wan_ui.inference import Engine

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    job = weights / "loras" / JOB
    write_trained(scratch, weights)
    engine = Engine(scratch / "models", scratch / "loras")
    shutil.rmtree(job / "samples", ignore_errors=True)
    (job / "samples").mkdir()
    for number, step in enumerate((0, *JOB_SAVES, JOB_END)):
        path = f"{JOB}/{JOB}{'' if step == JOB_END else f'_{step:09d}'}.safetensors"
        item = {"width": scenes.SIDE, "height": scenes.SIDE, "num_frames": scenes.FRAMES, "guidance_scale": GUIDANCE}
        body = {"model": "wan21_1b", "recipe": "preview", "trigger_word": scenes.TRIGGER,
                "prompts": [{"prompt": prompt, **item} for prompt in JOB_PROMPTS],
                "loras": [{"path": path}] if step else []}  # fmt: skip
        for index, clip in enumerate(engine.generate(body)):
            first, *rest = (Image.fromarray(frame) for frame in clip.frames)
            name = f"{1767225600000 + number * 60000}__{step:09d}_{index}.webp"
            first.save(job / "samples" / name, save_all=True, append_images=rest, duration=1000 // scenes.FPS,
                       loop=0, quality=80)  # fmt: skip
    engine.close()


if __name__ == "__main__":
    main()
