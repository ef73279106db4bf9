"""Measures what the demo's models and LoRAs can do, through the Engine: `python -m tools.demo_evaluate --help`."""

from __future__ import annotations

import argparse
import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tools import demo_scenes as scenes
from wan_ui.demo import examples
from wan_ui.demo.checkpoints import DEMO_DEFAULTS, ensure
from wan_ui.models import MODELS, WanModel

if TYPE_CHECKING:
    from wan_ui.inference import Engine

SEED = 9  # of the scenes; the training clips and the tests of the training have others


@dataclass(frozen=True)
class Case:
    """A prompt, the scene that it describes, and its first frame for rows that take one."""

    text: str
    scene: scenes.Scene
    frame: scenes.Frames


def cases(count: int, trigger: bool = False) -> list[Case]:
    """The same scenes every time, said in different ways."""
    found = []
    for index in range(count):
        rng = np.random.default_rng((SEED, index))
        scene = scenes.draw(rng, scenes.Words(speed=str(rng.choice(scenes.SPEEDS))))
        found.append(Case(scenes.describe(scene, rng, trigger), scene, scenes.render(scene)[0]))
    return found


def wire(frame: scenes.Frames) -> str:
    """A frame as `ctrl_img` takes it."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def body(model: WanModel, chosen: Sequence[Case], image: bool, loras: Sequence[Mapping[str, Any]] = (),
         **settings: Any) -> dict[str, Any]:  # fmt: skip
    """The request for some cases, with the values that the demo's form starts with."""
    item = {**DEMO_DEFAULTS, **settings}
    prompts = [
        {"prompt": case.text, "seed": index, **item, **({"ctrl_img": wire(case.frame)} if image else {})}
        for index, case in enumerate(chosen)
    ]
    return {"model": model.id, "prompts": prompts, "loras": list(loras)}


def attached(model: WanModel, scale: float) -> list[dict[str, Any]]:
    """The LoRA, or the pair, that the row's tab starts with, at a scale."""
    return [
        {"path": path, "network_multiplier": scale, **({"transformer": slot} if model.two_transformers else {})}
        for slot, path in examples.loras_of(model).items()
    ]


def figures(clips: Sequence[scenes.Frames], chosen: Sequence[Case], image: bool) -> dict[str, float]:
    """Shares of clips that show what was asked for; PSNR of the first frame in dB where one was given."""
    readings = [scenes.read(clip) for clip in clips]
    pairs = [(reading, case.scene) for reading, case in zip(readings, chosen, strict=True)]
    found = {
        name: float(np.mean([getattr(reading, name) == getattr(scene, name) for reading, scene in pairs]))
        for name in ("colour", "shape", "motion", "background")
    }
    found["new_look"] = float(np.mean([reading.look != "plain" for reading in readings]))
    found["strength"] = float(np.mean([reading.strength for reading in readings]))
    if image:
        found["first_frame_db"] = float(
            np.mean([psnr(clip[0], case.frame) for clip, case in zip(clips, chosen, strict=True)])
        )
    return {name: round(value, 3) for name, value in found.items()}


def psnr(one: scenes.Frames, other: scenes.Frames) -> float:
    """Peak signal-to-noise ratio in dB; 99 for equal frames."""
    error = float(((one.astype(np.float32) - other.astype(np.float32)) ** 2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def images_of(model: WanModel) -> tuple[bool, ...]:
    """Without a first frame, with one, or both."""
    return {"none": (False,), "optional": (False, True), "required": (True,)}[model.control_image]


@dataclass(frozen=True)
class Setting:
    """So many prompts of a model with some LoRAs; `group` and `name` say where its figures are filed."""

    model: str
    group: str
    name: str
    count: int
    loras: tuple[Mapping[str, Any], ...] = ()
    trigger: bool = False
    image: bool = False
    compared: int = 0  # figures of the first so many prompts too, which a LoRA's are compared with


def row_settings(model: WanModel, count: int, lora_count: int) -> list[Setting]:
    """The base of a row, and its LoRA at scale 0, 0.5 and 1 with the trigger word, and at 1 without."""
    found = []
    for image in images_of(model):
        tail = ", first frame" if image else ""
        found.append(Setting(model.id, model.id, f"base{tail}", count, image=image, compared=lora_count))
        for scale, trigger in ((0, True), (0.5, True), (1, True), (1, False)) if lora_count else ():
            name = f"lora {scale:g}{'' if trigger else ', no trigger'}{tail}"
            found.append(Setting(model.id, model.id, name, lora_count, tuple(attached(model, scale)), trigger, image))
    return found


def job_settings(count: int) -> list[Setting]:
    """The saves of the job folder, with the trigger word."""
    model = next(model for model in MODELS.values() if model.control_image == "none" and not model.two_transformers)
    return [
        Setting(model.id, "job", f"step {step}", count, ({"path": examples.job_file(step)},), trigger=True)
        for step in examples.JOB_STEPS
    ]


def measure(engine: Engine, setting: Setting, sheets: Path | None) -> dict[str, dict[str, float]]:
    """A setting's figures by name; a contact sheet of its first clips in `sheets`."""
    chosen = cases(setting.count, setting.trigger)
    request = body(MODELS[setting.model], chosen, setting.image, setting.loras)
    clips = [clip.frames for clip in engine.generate(request)]
    found = {setting.name: figures(clips, chosen, setting.image)}
    if 0 < setting.compared < setting.count:
        first = slice(setting.compared)
        found[f"{setting.name}, {setting.compared} of them"] = figures(clips[first], chosen[first], setting.image)
    for name, values in found.items():
        print(f"{setting.group:18} {name:32} {line(values)}", flush=True)
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
        name = f"{setting.group} {setting.name}.png".replace(",", "").replace(" ", "_")
        Image.fromarray(scenes.sheet(clips[:16])).save(sheets / name)
    return found


_worker: list[Engine] = []  # of this process, where several measure at once


def _open(models_dir: Path, lora_dir: Path, device: str | None) -> None:
    from wan_ui.inference import Engine

    _worker.append(Engine(models_dir, lora_dir, device))


def _measure(setting: Setting, sheets: Path | None) -> dict[str, dict[str, float]]:
    return measure(_worker[0], setting, sheets)


def vae_figures(models_dir: Path, device: str, count: int) -> dict[str, float]:
    """Mean PSNR of encode and decode over whole clips, in dB, by spatial compression."""
    import torch
    from diffusers import AutoencoderKLWan

    found = {}
    for model in {model.spatial_compression: model for model in MODELS.values()}.values():
        source = model.components["vae"]
        vae = AutoencoderKLWan.from_pretrained(models_dir / source.repo / source.subfolder).float().to(device).eval()
        values = []
        for case in cases(count):
            frames = scenes.render(case.scene)
            pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float().to(device) / 127.5 - 1
            with torch.no_grad():
                shown = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0]
            values.append(psnr(((shown / 2 + 0.5) * 255).round().byte().permute(1, 2, 3, 0).cpu().numpy(), frames))
        found[f"{model.spatial_compression}×"] = round(float(np.mean(values)), 2)
    print(f"{'VAE':18} {'PSNR over whole clips':32} {found}", flush=True)
    return found


def line(found: Mapping[str, float]) -> str:
    """Figures on one line, shares as percents."""
    return ", ".join(
        f"{name} {value:.1f}" if name.endswith("_db") else f"{name} {100 * value:.0f}" for name, value in found.items()
    )


def main(argv: Sequence[str] | None = None) -> None:
    from wan_ui.inference import Engine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the demo is, or will be written")
    parser.add_argument("--rows", nargs="*", default=list(MODELS), help="model ids; none: only the VAEs and the job")
    parser.add_argument("--prompts", type=int, default=100, help="prompts of each row")
    parser.add_argument("--lora-prompts", type=int, default=40, help="prompts of each LoRA setting; 0: no LoRAs")
    parser.add_argument("--skip-shared", action="store_true", help="leave out the VAEs and the job")
    parser.add_argument("--device", default=None)
    parser.add_argument("--workers", type=int, default=1, help="processes that measure at once")
    parser.add_argument("--sheets", type=Path, help="a folder for contact sheets")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args(argv)
    demo = ensure(arguments.data_dir / "demo")
    engine = Engine(demo.models_dir, demo.lora_dir, arguments.device)
    began, found = time.monotonic(), dict[str, Any]()
    settings = [] if arguments.skip_shared or not arguments.lora_prompts else job_settings(arguments.lora_prompts)
    for model_id in arguments.rows:
        settings += row_settings(MODELS[model_id], arguments.prompts, arguments.lora_prompts)
    if not arguments.skip_shared:
        found["vae"] = vae_figures(demo.models_dir, str(engine.device), arguments.prompts)
    if arguments.workers == 1:
        made = [measure(engine, setting, arguments.sheets) for setting in settings]
    else:
        opened = (demo.models_dir, demo.lora_dir, arguments.device)
        with ProcessPoolExecutor(arguments.workers, get_context("spawn"), _open, opened) as pool:
            made = list(pool.map(partial(_measure, sheets=arguments.sheets), settings))
    for setting, values in zip(settings, made, strict=True):
        found.setdefault(setting.group, {}).update(values)
    found["seconds"], found["device"] = round(time.monotonic() - began, 1), engine.device_name
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    engine.close()


if __name__ == "__main__":
    main()
