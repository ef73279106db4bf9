"""How far the lossy modes are from exact on the trained demo: PSNR, SSIM, forwards computed, seconds of denoising.

`python -m benchmarks.lossy` renders prompts of the demo's world, each row with its own LoRA at scale 1, exactly and in
each mode, and prints a table; `--device cuda` does so on a GPU, in bfloat16. The figures that the page shows, in
wan_ui/engine/speedups.py, are this table's last lines.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from tools import demo_scenes as scenes
from tools.demo_evaluate import attached, body, cases, psnr
from wan_ui.demo.checkpoints import ensure
from wan_ui.models import MODELS, Speedup
from wan_ui.trainer.sample_comparison import ssim

if TYPE_CHECKING:
    from wan_ui.engine.result import Clip

ROWS = ("wan21_1b", "wan22_5b", "wan22_14b_i2v", "wan21_i2v_14b")  # one for each of the demo's transformers
STEPS = 25  # a request's own default
MODES: tuple[Speedup, ...] = tuple(one for one in get_args(Speedup) if one != "none")


def similarity(one: scenes.Frames, other: scenes.Frames) -> float:
    """SSIM as the page gives it for previews, the mean over the frames."""
    return float(np.mean([ssim(a, b) for a, b in zip(one, other, strict=True)]))


def figures(lossy: Sequence[Clip], exact: Sequence[Clip]) -> dict[str, float]:
    """Distances of clips from their exact ones, the worst of them too; the share of forwards that were computed."""
    pairs = list(zip(lossy, exact, strict=True))
    decibels = [psnr(one.frames, other.frames) for one, other in pairs]
    counted = [clip.metadata.get("forwards", {"computed": 1, "total": 1}) for clip in lossy]
    return {
        "psnr": float(np.mean(decibels)),
        "worst_psnr": min(decibels),
        "ssim": float(np.mean([similarity(one.frames, other.frames) for one, other in pairs])),
        "computed": sum(one["computed"] for one in counted) / sum(one["total"] for one in counted),
        "seconds": float(np.mean([clip.metadata["seconds"]["denoise"] for clip in lossy])),
        "exact_seconds": float(np.mean([clip.metadata["seconds"]["denoise"] for clip in exact])),
    }


def line(name: str, mode: str, found: dict[str, float]) -> str:
    return (
        f"{name:16} {mode:13} {found['psnr']:6.1f} dB {found['worst_psnr']:6.1f} dB {found['ssim']:7.4f} "
        f"{100 * found['computed']:6.0f} % {found['seconds']:8.2f} s {found['exact_seconds']:8.2f} s"
    )


def main(argv: Sequence[str] | None = None) -> None:
    from wan_ui.inference import Engine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the demo is, or will be written")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="model ids")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--prompts", type=int, default=10, help="prompts of each row")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args(argv)
    demo = ensure(arguments.data_dir / "demo")
    engine = Engine(demo.models_dir, demo.lora_dir, arguments.device)
    found: dict[str, Any] = {"device": engine.device_name, "steps": arguments.steps, "prompts": arguments.prompts}
    found["versions"] = {name: version(name) for name in ("torch", "diffusers")}
    print(f"{engine.device_name}, {arguments.steps} steps, {arguments.prompts} prompts a row, {found['versions']}")
    print(
        f"{'model':16} {'mode':13} {'PSNR':>9} {'worst':>9} {'SSIM':>7} {'computed':>8} {'denoise':>10} {'exact':>10}"
    )
    every: dict[str, tuple[list[Clip], list[Clip]]] = {mode: ([], []) for mode in arguments.modes}
    for model in arguments.rows:
        wan_model = MODELS[model]
        asked = {
            **body(
                wan_model,
                cases(arguments.prompts, True),
                wan_model.control_image == "required",
                attached(wan_model, 1.0),
            ),
            "first_step_change": False,
        }
        asked["prompts"] = [{**item, "sample_steps": arguments.steps} for item in asked["prompts"]]
        exact = engine.generate(asked)
        for mode in arguments.modes:
            lossy = engine.generate({**asked, "speedup": mode})
            every[mode][0].extend(lossy)
            every[mode][1].extend(exact)
            found[f"{model} {mode}"] = figures(lossy, exact)
            print(line(model, mode, found[f"{model} {mode}"]), flush=True)
    for mode, (lossy, exact) in every.items():
        found[mode] = figures(lossy, exact)
        print(line("all", mode, found[mode]), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1:])
