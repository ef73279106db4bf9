"""Denoising of one full-size video on 2, 4 … GPUs: `torchrun --nproc-per-node=N -m benchmarks.gpus FOLDER [--sizes …]`.

Each GPU first renders it alone, all at once, then they do so together: seconds, their ratio, and whether the latents
are equal bit for bit; the last lines are a table. A pair of 14B transformers with random weights and a LoRA of rank 32
on each, compiled in the exact arithmetic. `--tiny` runs the same with small transformers on the CPU, over gloo: it
proves that the program runs, and nothing about speed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel

import benchmarks.gpu
from benchmarks.gpu import RANK, adapter, built
from wan_ui.engine.adapters import BaseWeights, TransformerAdapters
from wan_ui.engine.compile import BlockCompiler
from wan_ui.engine.components import build_scheduler
from wan_ui.engine.conditioning import from_text, noise
from wan_ui.engine.parallel import Group
from wan_ui.engine.recipes import RECIPES, unipc_config
from wan_ui.engine.sampling import Callbacks, Experts, Guidance, Schedule, denoise
from wan_ui.engine.split import Split, choose_split
from wan_ui.models import MODELS

MODEL = MODELS["wan22_14b_t2v"]
SIZES = {"832x480x81": ((832, 480, 81), 4), "1280x720x81": ((1280, 720, 81), 2)}  # size and steps
TINY_SIZES = {"64x48x9": ((64, 48, 9), 4), "48x48x9": ((48, 48, 9), 2)}
WANTED = {("832x480x81", True): 1.95, ("832x480x81", False): 1.80, ("1280x720x81", True): 1.95,
          ("1280x720x81", False): 1.88}  # of two GPUs against one  # fmt: skip
BOUNDARY = 0.875


class Bench:
    """A pair on this rank's GPU, and the groups it belongs to."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pair = [built(MODEL, None) if device.type == "cuda" else tiny() for _ in range(2)]
        for parameter in self.pair[1].parameters():  # the experts must not be equal
            parameter.mul_(0.97) if parameter.ndim > 1 else None
        originals = BaseWeights(lambda size: "checkpoint", lambda name: torch.empty(0))
        self.compiled = BlockCompiler("auto", device).of(RECIPES["reference"])
        for seed, transformer in enumerate(self.pair):
            adapters = TransformerAdapters(transformer, originals, device)
            adapters.attach([adapter(transformer, RANK, seed)])
            adapters.set_scales({f"rank {RANK}": 1.0})
            if self.compiled is not None:
                self.compiled.install(transformer)
        self.groups: dict[str, Group] = {}

    def run(self, label: str, guided: bool, split: Split) -> tuple[torch.Tensor, dict[str, Any]]:
        """The latents of a run after one to warm up, and its seconds a step."""
        (width, height, frames), steps = (SIZES | TINY_SIZES)[label]
        shape = (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        generator = torch.Generator("cpu").manual_seed(1)
        wide = self.pair[0].config.text_dim
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        texts = [torch.randn(1, 512, wide, generator=generator).to(self.device, dtype) for _ in range(2)]
        group = None
        if split.ranks > 1:
            if str(split) not in self.groups:
                self.groups[str(split)] = Group(split, self.device)
                self.groups[str(split)].check()
            group = self.groups[str(split)]
        guidance = Guidance(texts[0], texts[1] if guided else None, 4.0 if guided else 1.0, group=group)
        marks: list[float] = []

        def on_step(step: int) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            marks.append(time.monotonic())

        def once(count: int) -> torch.Tensor:
            marks.clear()
            schedule = Schedule(build_scheduler("UniPCMultistepScheduler", unipc_config(3.0)), count)
            experts = Experts(self.pair[0], self.pair[1], BOUNDARY, lambda transformer: None)
            with ExitStack() as stack:
                if group is not None:
                    stack.enter_context(group.divided(self.pair))
                    if self.compiled is not None:
                        stack.enter_context(self.compiled.checked_together(group.all_agree, str(split)))
                start = from_text(noise(shape, 1, self.device), masked=False)
                return denoise(experts, schedule, start, guidance, Callbacks(on_step))

        once(1)
        latents = once(steps).cpu()
        each = [round(after - before, 3) for before, after in itertools.pairwise(marks)]
        return latents, {"seconds a step": each, "denoising": round(sum(each), 3)}

    def compare(self, label: str, guided: bool, split: Split) -> dict[str, Any]:
        """The same video alone on each GPU and together on all."""
        alone, seconds_alone = self.run(label, guided, Split())
        dist.barrier()
        together, seconds = self.run(label, guided, split)
        ratio = seconds_alone["denoising"] / max(seconds["denoising"], 1e-9)
        compiled = None if self.compiled is None else {"graphs": self.compiled.graphs, "refused": self.compiled.refused}
        memory = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return {"gpus": split.ranks, "split": str(split), "size": label, "guided": guided, "alone": seconds_alone,
                "together": seconds, "ratio": round(ratio, 3), "equal": torch.equal(alone, together),
                "compiled": compiled, "GiB": round(memory / 2**30, 1)}  # fmt: skip


def tiny() -> WanTransformer3DModel:
    """A transformer of four heads for the CPU; both of a pair have the same weights."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(num_attention_heads=4, attention_head_dim=32, text_dim=64, freq_dim=32, ffn_dim=128,
                                  num_layers=2)  # fmt: skip
    return model.eval().requires_grad_(False)


def table(found: list[dict[str, Any]]) -> str:
    """The figures as a table, with the ratio that two GPUs should reach."""
    lines = ["| GPUs | division | size | alone | together | ratio | wanted | equal |", "|" + " --- |" * 8]
    for each in found:
        wanted = WANTED.get((each["size"], each["guided"]), "") if each["gpus"] == 2 else ""
        cells = (each["gpus"], each["split"], each["size"], f"{each['alone']['denoising']:.2f} s",
                 f"{each['together']['denoising']:.2f} s", f"{each['ratio']:.2f}", wanted, each["equal"])  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the figures are kept")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="these only")
    parser.add_argument("--tiny", action="store_true", help="small transformers on the CPU")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        parser.error("start it with torchrun --nproc-per-node=2, or more")
    device = torch.device("cpu") if options.tiny else torch.device("cuda", rank)
    torch.set_grad_enabled(False)
    benchmarks.gpu.DEVICE = device
    if device.type == "cuda":
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", device_id=device)
    else:
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
    bench, found = Bench(device), list[dict[str, Any]]()
    for label in TINY_SIZES if options.tiny else options.sizes or SIZES:
        for guided in (True, False):
            found.append(bench.compare(label, guided, choose_split(count, guided)))
            if rank == 0:
                print(json.dumps(found[-1]), flush=True)
                (options.folder / f"{count}_gpus.json").write_text(json.dumps(found, indent=1) + "\n")
    if rank == 0:
        print(table(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
