"""Full-size models with random weights on one CUDA GPU: `python -m benchmarks.gpu --help`. Nothing is downloaded.

Side by side in one run: plain diffusers (eager, unfused adapters), the reference server's way
(`compile_repeated_blocks(dynamic=True)`, with --reference; `--reference max-autotune` for its own mode), and wan-ui's
two arithmetics; against the roofline, with products and attention counted and the GPU's own ceilings measured
first.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from peft.tuners.lora import LoraLayer

from benchmarks import comparison, counts
from tests.gpu.full_size import transformer_config, write, write_lora
from tests.gpu.twice import picture
from wan_ui import Engine
from wan_ui.config import CompileMode, MemoryMode
from wan_ui.engine import flash, kernels
from wan_ui.engine.adapters import Adapter, BaseWeights, TransformerAdapters
from wan_ui.engine.compile import Arithmetic, CompiledBlocks
from wan_ui.engine.fp8 import pack_blocks
from wan_ui.engine.timesteps import Tokens, embedded_once
from wan_ui.lora.convert import LowRank
from wan_ui.models import MODELS, WanModel

GIB = 1 << 30
DEVICE = torch.device("cuda")
RANK = 32
LONG_FORWARD = 5.0  # seconds; of such forwards fewer are timed
REFERENCE = "reference's way"
PHASES = ("text", "image", "denoise", "decode")
ARITHMETICS: tuple[Arithmetic, ...] = ("exact", "fast")
SIZES = {  # model, (width, height, frames)
    "14B": ("wan22_14b_t2v", [(832, 480, 81), (1024, 1024, 41)]),
    "14B 720p": ("wan22_14b_t2v", [(1280, 720, 81)]),
    "14B I2V": ("wan22_14b_i2v", [(832, 480, 81)]),
    "5B": ("wan22_5b", [(1280, 704, 121), (1024, 1024, 41), (832, 480, 81)]),
    "1.3B": ("wan21_1b", [(832, 480, 81)]),
}
WAYS = ("off", "eager", "exact", "fast", "no-lora", "fp8")
"""What is timed beside plain diffusers; `fp8` packs the weights, so it comes last."""
USUAL_SIZES = {"wan22_5b": (1280, 704, 121), "wan21_i2v_14b": (1280, 720, 81)}
USUAL_SIZE = (832, 480, 81)  # of the other models


@dataclass(frozen=True)
class Case:
    """One forward's inputs, and the operations that it takes at least."""

    inputs: dict[str, Any]
    tokens: Tokens | None
    products: float
    attention: float


def seconds(run: Callable[[], Any], count: int = 3, warm: int = 1) -> float:
    """The median of some runs, by the GPU's own clock."""
    for _ in range(warm):
        run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return float(np.median([one.elapsed_time(two) for one, two in itertools.pairwise(marks)])) / 1000


def ceilings() -> dict[str, float]:
    """What this GPU does at best: TFLOP/s of a large product and of its own attention, TB/s of a copy."""
    square = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    other = torch.randn_like(square)
    here, there = (torch.empty(2 * GIB, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    query = torch.randn(1, 40, 32760, 128, device=DEVICE, dtype=torch.bfloat16)
    return {
        "product": 2 * 8192**3 / seconds(lambda: square @ other, 10) / 1e12,
        "attention": 4 * 32760**2 * 5120 / seconds(lambda: F.scaled_dot_product_attention(query, query, query)) / 1e12,
        "copy": 2 * here.nbytes / seconds(lambda: here.copy_(there), 5) / 1e12,
    }


def built(row: WanModel, layers: int | None) -> WanTransformer3DModel:
    """The row's transformer with random weights, in the dtypes that loading gives it."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with DEVICE:
        model = WanTransformer3DModel(**transformer_config(row.id, layers))
    torch.set_default_dtype(default)
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if set(name.split(".")) & set(model._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    return model.eval().requires_grad_(False)


def case(row: WanModel, model: WanTransformer3DModel, size: tuple[int, int, int]) -> Case:
    width, height, frames = size
    shape = (model.config.in_channels, (frames - 1) // 4 + 1, height // row.spatial_compression,
             width // row.spatial_compression)  # fmt: skip
    latents = torch.randn(1, *shape, device=DEVICE, dtype=torch.bfloat16)
    tokens = Tokens.of(torch.ones_like(latents, dtype=torch.float32)) if row.expand_timesteps else None
    timestep = torch.tensor(500.0, device=DEVICE)
    count, wide, ffn, blocks = shape[1] * (shape[2] // 2) * (shape[3] // 2), row.hidden_size, row.ffn_size, row.blocks
    inputs = {
        "hidden_states": latents,
        "timestep": tokens.at(timestep) if tokens is not None else timestep.expand(1),
        "encoder_hidden_states": torch.randn(1, 512, 4096, device=DEVICE, dtype=torch.bfloat16),
        "return_dict": False,
    }
    products = blocks * (2 * count * (6 * wide**2 + 2 * wide * ffn) + 4 * 512 * wide**2)
    return Case(inputs, tokens, products, blocks * (4 * count**2 * wide + 4 * 512 * count * wide))


def adapter(model: WanTransformer3DModel, rank: int, seed: int) -> Adapter:
    """A LoRA on every attention and feed-forward layer."""
    generator = torch.Generator(DEVICE).manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator, device=DEVICE) * 0.02).to(torch.bfloat16)

    parts = {
        name: LowRank(matrix(rank, layer.in_features), matrix(layer.out_features, rank), 1.0)
        for name, layer in model.named_modules()
        if name.startswith("blocks.") and type(layer) is torch.nn.Linear
    }
    return Adapter(f"rank {rank}", parts)


@dataclass
class Bench:
    """A model with its case, and the figures found so far."""

    row: WanModel
    size: tuple[int, int, int]
    model: WanTransformer3DModel
    case: Case
    figures: dict[str, Any]

    def predict(self, timestep_for_each_token: bool = False) -> torch.Tensor:
        """One forward; with a timestep for each token as plain diffusers has it, else with each embedded once."""
        inputs, tokens = self.case.inputs, self.case.tokens
        prediction: torch.Tensor
        if tokens is None:
            (prediction,) = self.model(**inputs)
        elif timestep_for_each_token:
            (prediction,) = self.model(**inputs | {"timestep": tokens.each[None] * 500.0})
        else:
            with embedded_once(self.model, tokens, torch.tensor(500.0, device=DEVICE)):
                (prediction,) = self.model(**inputs)
        return prediction

    def note(self, name: str, took: float) -> None:
        """Notes the seconds of a way, and prints them: a run that is cut short keeps what it printed."""
        self.figures["seconds"][name] = took
        print(f"{self.figures['model']} {self.figures['size']} {name}: {took:.3f}", flush=True)

    def first(self, name: str, *arguments: bool) -> torch.Tensor:
        """The first forward of a way, with its seconds noted: graphs and kernels are built in it."""
        began = time.monotonic()
        prediction = self.predict(*arguments)
        torch.cuda.synchronize()
        self.figures[f"{name}, first forward"] = time.monotonic() - began
        return prediction

    def predict_shorter(self) -> None:
        """A forward of another size of clip."""
        shorter = case(self.row, self.model, (*self.size[:2], self.size[2] // 2 // 4 * 4 + 1))
        self.model(**shorter.inputs)

    def attach(self, adapters: TransformerAdapters, adapter: Adapter, scale: float) -> None:
        """This adapter and no other, at a scale."""
        adapters.attach([adapter])
        adapters.set_scales({adapter.key: scale})


def forwards(label: str, row: WanModel, size: tuple[int, int, int], model: WanTransformer3DModel, top: dict[str, float],
             ways: Sequence[str], reference: comparison.ReferenceMode | None) -> dict[str, Any]:  # fmt: skip
    """Seconds of one forward in these ways, and how far each prediction is from plain diffusers'."""
    here = case(row, model, size)
    figures: dict[str, Any] = {
        "model": label,
        "size": "×".join(map(str, size)),
        "roofline": here.products / top["product"] / 1e12 + here.attention / top["product"] / 1e12,
        "seconds": {},
        "distance": {},
    }
    bench = Bench(row, size, model, here, figures)
    weights = BaseWeights(lambda size: "checkpoint", lambda name: torch.empty(0))
    usual, other = adapter(model, RANK, 0), adapter(model, 128, 1)
    adapters = TransformerAdapters(model, weights)
    bench.attach(adapters, usual, 1.0)
    plain = bench.predict(True)
    bench.note("plain diffusers", seconds(lambda: bench.predict(True), 2, 0))
    if "off" in ways:
        bench.note("--compile off", seconds(bench.predict, 2, 1))
    adapters.attach([])
    adapters = TransformerAdapters(model, weights, DEVICE)
    bench.attach(adapters, usual, 1.0)
    if "eager" in ways:
        bench.note("eager, as where nothing can be compiled", seconds(bench.predict, 2, 1))
    for arithmetic in ARITHMETICS:
        if arithmetic in ways:
            compiled_forwards(bench, arithmetic, plain, adapters, other)
            bench.attach(adapters, usual, 1.0)
    adapters.attach([])
    if "no-lora" in ways:
        with installed(model, "exact"):
            bench.note("exact, no LoRA", seconds(bench.predict))
    figures["peak GiB"] = torch.cuda.max_memory_allocated() / GIB
    figures["kernels refused"] = kernels.states()
    figures["FlashAttention-4"] = flash.available(DEVICE)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    print_forwards(figures)
    if reference is not None:
        reference_forward(bench, reference, TransformerAdapters(model, weights), usual)
    if "fp8" in ways:
        fp8_forwards(bench, plain, TransformerAdapters(model, weights, DEVICE), usual)
    return figures


@contextmanager
def installed(model: WanTransformer3DModel, arithmetic: Arithmetic) -> Iterator[None]:
    """Within it the model's blocks run compiled."""
    compiled = CompiledBlocks(arithmetic)
    compiled.install(model)
    try:
        yield
    finally:
        compiled.remove(model)


def fp8_forwards(bench: Bench, plain: torch.Tensor, adapters: TransformerAdapters, adapter: Adapter) -> None:
    """Products in fp8, compiled in both arithmetics. The model's weights stay packed."""
    pack_blocks(bench.model, DEVICE, products=True)
    bench.attach(adapters, adapter, 1.0)
    for arithmetic in ARITHMETICS:
        with installed(bench.model, arithmetic):
            name = f"fp8 products, {arithmetic}"
            first = bench.first(name)
            bench.note(name, seconds(bench.predict))
            bench.figures["distance"][name] = float((first.float() - plain.float()).norm() / plain.float().norm())
    adapters.attach([])
    print({name: value for name, value in bench.figures["seconds"].items() if "fp8" in name}, flush=True)


def reference_forward(
    bench: Bench, mode: comparison.ReferenceMode, adapters: TransformerAdapters, adapter: Adapter
) -> None:
    """The reference server's way, last: an error in its kernels ends the CUDA context."""
    bench.attach(adapters, adapter, 1.0)
    torch._dynamo.reset()
    with comparison.as_shipped():
        comparison.compile_as_reference(bench.model, mode)
        bench.first("reference", True)
        bench.note(REFERENCE, seconds(lambda: bench.predict(True), 2, 1))
    for block in bench.model.blocks:
        block._compiled_call_impl = None
    torch._dynamo.reset()
    adapters.attach([])
    print(f"reference's way, {mode}: {bench.figures['seconds'][REFERENCE]:.3f}", flush=True)


def compiled_forwards(
    bench: Bench, arithmetic: Arithmetic, plain: torch.Tensor, adapters: TransformerAdapters, other: Adapter
) -> None:
    """One arithmetic's seconds and distance, and what another multiplier, file and size cost it."""
    figures, compiled = bench.figures, CompiledBlocks(arithmetic)
    compiled.install(bench.model)
    first = bench.first(arithmetic)
    bench.note(arithmetic, seconds(bench.predict, *((2, 0) if figures["roofline"] > LONG_FORWARD else (3, 1))))
    away = float((first.float() - plain.float()).norm() / plain.float().norm())
    figures["distance"][arithmetic] = 0.0 if torch.equal(first, plain) else away
    figures[f"{arithmetic}, refused"] = compiled.refused
    if figures["roofline"] > LONG_FORWARD:
        compiled.remove(bench.model)
        return
    graphs = compiled.graphs
    began = time.monotonic()
    bench.attach(adapters, other, 0.5)
    compiled.adapters_changed(bench.model)
    torch.cuda.synchronize()
    figures[f"{arithmetic}, another file"] = time.monotonic() - began
    bench.predict()
    figures[f"{arithmetic}, rebuilt"] = compiled.graphs - graphs
    graphs, began = compiled.graphs, time.monotonic()
    bench.predict_shorter()
    torch.cuda.synchronize()
    figures[f"{arithmetic}, another size"] = (time.monotonic() - began, compiled.graphs - graphs)
    compiled.remove(bench.model)


def print_forwards(found: dict[str, Any]) -> None:
    ways = ", ".join(f"{way} {value:.3f}" for way, value in found["seconds"].items())
    others = {key: value for key, value in found.items() if key not in ("model", "size", "seconds", "roofline")}
    print(f"{found['model']:8} {found['size']:14} roofline {found['roofline']:.2f}  {ways}\n    {others}", flush=True)


def request(row: WanModel, size: tuple[int, int, int], steps: int, scale: float = 1.0) -> dict[str, Any]:
    width, height, frames = size
    slots: tuple[str | None, ...] = ("high", "low") if row.two_transformers else (None,)
    prompt = {"prompt": "a red circle", "width": width, "height": height, "num_frames": frames, "sample_steps": steps}
    if row.control_image == "required":
        prompt["ctrl_img"] = picture()
    loras = [{"path": "lora.safetensors", "transformer": slot, "network_multiplier": scale} for slot in slots]
    return {"model": row.id, "first_step_change": False, "prompts": [prompt], "loras": loras}


def checkpoint(folder: Path, row: WanModel, layers: int | None, text_layers: int = 24) -> None:
    """The row's checkpoint and a LoRA for it, with random weights, on this machine's disk."""
    began = time.monotonic()
    write(row, folder / "models", text_layers, layers)
    write_lora(folder / "loras" / "lora.safetensors", row, RANK, 0, layers)
    print(f"{row.id}: checkpoint written in {time.monotonic() - began:.0f} s", flush=True)


def videos(folder: Path, row: WanModel, size: tuple[int, int, int], steps: int, whole_steps: int,
           caps: Sequence[int | None], compile: CompileMode) -> list[dict[str, Any]]:  # fmt: skip
    """Whole videos through the engine, under caps on the GPU's memory in GiB: phases, seconds a step, equal frames.

    The first video under each cap has `steps` steps. The second has another LoRA scale, and under the first cap
    `whole_steps`.
    """
    found: list[dict[str, Any]] = []
    first = None
    total = torch.cuda.get_device_properties(0).total_memory
    for cap in caps:
        torch.cuda.set_per_process_memory_fraction(1.0 if cap is None else cap * GIB / total)
        memory: MemoryMode = "auto"
        engine = Engine(folder / "models", folder / "loras", "cuda", memory, folder / "data", compile=compile)
        moments: list[tuple[str, int, float]] = []

        def on_progress(progress: Any, moments: list[tuple[str, int, float]] = moments) -> None:
            moments.append((progress.phase, progress.step, time.monotonic()))

        began = time.monotonic()
        torch.cuda.reset_peak_memory_stats()
        (clip,) = engine.generate(request(row, size, steps), on_progress)
        whole = time.monotonic() - began
        peak = torch.cuda.max_memory_allocated() / GIB
        began = time.monotonic()
        moments.clear()
        again_steps = whole_steps if first is None else steps
        (again,) = engine.generate(request(row, size, again_steps, 0.5), on_progress)
        again_whole = time.monotonic() - began
        ends = [moment for phase, _, moment in moments if phase == "denoise"]
        gaps = np.diff(ends)
        first = first if first is not None else clip.frames
        result = {
            "model": row.id,
            "size": "×".join(map(str, size)),
            "cap GiB": cap,
            "memory": clip.metadata["memory"],
            "arithmetic": clip.metadata["arithmetic"],
            "steps": steps,
            "first video s": whole,
            "first video by phase": clip.metadata["seconds"],
            "second video s": again_whole,
            "second video steps": again_steps,
            "outside denoising": 1 - again.metadata["seconds"]["denoise"] / again_whole,
            "second video by phase": again.metadata["seconds"],
            "seconds a step": [round(float(gap), 3) for gap in gaps],
            "peak GiB": peak,
            "equal to the first": bool(np.array_equal(clip.frames, first)),
            "bytes read": engine.loader.statistics.bytes_read,
        }
        found.append(result)
        print(json.dumps(result), flush=True)
        engine.close()
        gc.collect()
        torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def video_table(found: Sequence[dict[str, Any]]) -> str:
    """The second video of each run by phase, and what the first took longer for its steps."""
    heads = ("model", "size", "steps", *PHASES, "whole", "seconds a step", "first video longer by", "GPU, peak GiB")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for each in found:
        phases, first = each["second video by phase"], each["first video by phase"]
        step = float(np.median(each["seconds a step"]))
        longer = sum(first.values()) - sum(phases.values()) + step * (each["second video steps"] - each["steps"])
        seconds_of = (f"{phases[name]:.2f}" for name in PHASES)
        figures = (f"{each['second video s']:.1f}", f"{step:.2f}", f"{longer:.1f}", f"{each['peak GiB']:.1f}")
        cells = (each["model"], each["size"], each["second video steps"], *seconds_of, *figures)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forwards", nargs="*", default=[], choices=list(SIZES), help="models to time a forward of")
    parser.add_argument("--sizes", type=int, help="how many of each model's sizes (default: all)")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, help="what is timed (default: all)")
    parser.add_argument("--layers", type=int, help="blocks of each model, for a quick look (default: all)")
    parser.add_argument(
        "--reference",
        nargs="?",
        const="default",
        choices=comparison.REFERENCE_MODES,
        help="also the reference server's way, compiled in this mode (default: default; max-autotune takes minutes)",
    )
    parser.add_argument("--video", nargs="+", default=[], choices=list(MODELS), help="models to render videos with")
    parser.add_argument(
        "--size", type=int, nargs=3, metavar=("W", "H", "FRAMES"), help="default: each model's usual one"
    )
    parser.add_argument("--text-layers", type=int, default=24, help="blocks of the text encoder")
    parser.add_argument("--steps", type=int, default=4, help="of a video or a cell of the comparison")
    parser.add_argument("--whole-steps", type=int, default=25, help="of the second video under the first cap")
    parser.add_argument("--comparison", default=None, choices=list(MODELS), help="a model to compare four scales with")
    parser.add_argument("--caps", type=int, nargs="*", default=[0, 24, 12], help="GiB of GPU memory; 0 is all of it")
    parser.add_argument("--compile", default="auto", choices=["auto", "exact", "fast", "off"])
    parser.add_argument("--folder", type=Path, help="where checkpoints are kept for the next run (default: nowhere)")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--cpu", action="store_true", help="only count what is done, on tiny checkpoints")
    chosen = parser.parse_args()
    if chosen.cpu:
        counts.run(chosen.json)
        return
    torch.set_grad_enabled(False)
    top = ceilings()
    print({name: round(value, 2) for name, value in top.items()}, torch.cuda.get_device_name(), torch.__version__)
    found: dict[str, Any] = {"ceilings": top, "forwards": [], "videos": []}
    for label in chosen.forwards:
        model_id, sizes = SIZES[label]
        model = built(MODELS[model_id], chosen.layers)
        for size in sizes[: chosen.sizes]:
            found["forwards"].append(forwards(label, MODELS[model_id], size, model, top, chosen.ways, chosen.reference))
            write_json(chosen.json, found)
        del model
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name)
        for model_id in chosen.video:
            row, caps = MODELS[model_id], [cap or None for cap in chosen.caps]
            checkpoint(folder, row, chosen.layers, chosen.text_layers)
            size = tuple(chosen.size or USUAL_SIZES.get(model_id, USUAL_SIZE))
            found["videos"] += videos(folder, row, size, chosen.steps, chosen.whole_steps, caps, chosen.compile)
            write_json(chosen.json, found)
            if chosen.folder is None:  # the disk has no room for the transformers of all
                for part in row.slots.values():
                    source = row.components[part]
                    shutil.rmtree(folder / "models" / source.repo / source.subfolder)
        if found["videos"]:
            print(video_table(found["videos"]), flush=True)
        if chosen.comparison:
            row = MODELS[chosen.comparison]
            checkpoint(folder, row, chosen.layers, chosen.text_layers)
            size = tuple(chosen.size or USUAL_SIZE)
            found["comparison"] = comparison.run(
                folder, request(row, size, chosen.steps), chosen.compile, chosen.reference or "default"
            )
    write_json(chosen.json, found)


def write_json(file: Path | None, found: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
