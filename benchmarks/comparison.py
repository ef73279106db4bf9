"""Four LoRA scales of one request: as a comparison of wan-ui, and as four requests to a server of the reference's kind.

The server keeps its compiled pipeline and its LoRA files between requests; for each it sets their scale, encodes the
prompts and runs all steps. Both are warm when they are timed. MP4s are written by neither.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch._dynamo
import torch.fx.experimental._config
from diffusers import WanPipeline, WanTransformer3DModel

from wan_ui import Engine
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.config import CompileMode
from wan_ui.engine.components import Target, build_scheduler, load_components
from wan_ui.engine.recipes import RECIPES, scheduler_spec
from wan_ui.engine.result import ignore_progress
from wan_ui.models import DEFAULT_GUIDANCE_SCALE, DEFAULT_SEED, MODELS

ReferenceMode = Literal["default", "max-autotune"]
REFERENCE_MODES: tuple[ReferenceMode, ...] = ("default", "max-autotune")
SCALES = (0.25, 0.5, 0.75, 1.0)
WARMING = (0.4, 0.6)  # the second scale is what a dynamic graph is built for


def run(folder: Path, request: dict[str, Any], compile: CompileMode, mode: ReferenceMode = "default") -> dict[str, Any]:
    """Seconds of each way, and the ratios, for the checkpoint under `folder`; the reference is compiled in `mode`.

    A pair's scales move together, and then the low-noise one alone.
    """
    fields = ("scale", "scale_low") if MODELS[request["model"]].two_transformers else ("scale",)
    found: dict[str, Any] = {"steps": request["prompts"][0]["sample_steps"]}
    engine = Engine(folder / "models", folder / "loras", "cuda", data_dir=folder / "data", compile=compile)
    engine.generate(request)
    for field in fields:
        axis = {"columns": {"field": field, "values": list(SCALES)}, "baseline": False}
        found[f"wan-ui, four of {field}"] = timed(lambda axis=axis: engine.generate({**request, "compare": axis}))
    engine.close()
    gc.collect()
    torch.cuda.empty_cache()
    torch._dynamo.reset()
    with as_shipped():
        serve = reference(folder, request, mode)
        found["reference, warming"] = timed(lambda: [serve(scale) for scale in WARMING])
        found["reference, four requests"] = timed(lambda: [serve(scale) for scale in SCALES])
    for field in fields:
        found[f"ratio, {field}"] = found[f"wan-ui, four of {field}"] / found["reference, four requests"]
    print(found, flush=True)
    return found


def timed(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - began


def compile_as_reference(transformer: WanTransformer3DModel, mode: ReferenceMode = "default") -> None:
    """The reference server's way, but in the default mode unless asked otherwise, and never with CUDA graphs.

    `max-autotune` is as fast, takes minutes to build, and has ended in an illegal memory access on torch 2.11. The
    CUDA graphs that it asks for end in an error and save nothing at these sizes.
    """
    options = {"default": None, "max-autotune": "max-autotune-no-cudagraphs"}
    transformer.compile_repeated_blocks(mode=options[mode], dynamic=True)


@contextmanager
def as_shipped() -> Iterator[None]:
    """PyTorch's compiler with the settings that it comes with, whatever wan-ui's blocks have set in this process."""
    shapes = torch.fx.experimental._config.use_duck_shape
    torch.fx.experimental._config.use_duck_shape = True
    try:
        with torch._dynamo.config.patch(
            force_parameter_static_shapes=True, force_nn_module_property_static_shapes=True
        ):
            yield
    finally:
        torch.fx.experimental._config.use_duck_shape = shapes


def reference(folder: Path, request: dict[str, Any], mode: ReferenceMode) -> Callable[[float], np.ndarray]:
    """Renders the request at a scale as the reference's server does: compiled, with unfused adapters."""
    row, prompt = MODELS[request["model"]], request["prompts"][0]
    checkpoints, target = Checkpoints(folder / "models"), Target(torch.device("cuda"), torch.bfloat16)
    parts = load_components(checkpoints.fetch(row, ignore_progress), target, {}, lambda size: True, ignore_progress)
    spec, boundary = scheduler_spec(row, RECIPES["reference"]), row.boundary["reference"]
    pipe = WanPipeline(
        parts.tokenizer,
        parts.text_encoder,
        parts.vae,
        build_scheduler(spec.class_name, spec.config if spec.config is not None else parts.scheduler_config or {}),
        **parts.transformers,
        boundary_ratio=parts.boundary_ratio if boundary == "checkpoint" else boundary,
        expand_timesteps=row.expand_timesteps,
    )
    pipe.set_progress_bar_config(disable=True)
    file = folder / "loras" / "lora.safetensors"
    pipe.load_lora_weights(file, adapter_name="default")
    if row.two_transformers:
        pipe.load_lora_weights(file, adapter_name="default", load_into_transformer_2=True)
    for part in row.slots.values():
        compile_as_reference(getattr(pipe, part), mode)

    def serve(scale: float) -> np.ndarray:
        pipe.set_adapters(["default"], adapter_weights=[scale])
        clip = pipe(
            prompt=prompt["prompt"],
            negative_prompt="",
            width=prompt["width"],
            height=prompt["height"],
            num_frames=prompt["num_frames"],
            num_inference_steps=prompt["sample_steps"],
            guidance_scale=DEFAULT_GUIDANCE_SCALE,
            generator=torch.Generator("cpu").manual_seed(DEFAULT_SEED),
            output_type="np",
        )
        return np.asarray(clip.frames)

    return serve
