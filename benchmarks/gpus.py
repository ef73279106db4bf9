"""Denoising of one full-size video on 1, 2, 4 … GPUs: `torchrun --nproc-per-node=N -m benchmarks.gpus FOLDER`.

Run it with 1 first: its latents are kept in FOLDER, and the runs with more GPUs compare theirs with them. A pair of 14B
transformers with random weights and a LoRA of rank 32 on each, compiled in the exact arithmetic.
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

import benchmarks.gpu
from benchmarks.gpu import RANK, adapter, built
from wan_ui.engine.adapters import BaseWeights, TransformerAdapters
from wan_ui.engine.compile import CompiledBlocks
from wan_ui.engine.components import build_scheduler
from wan_ui.engine.conditioning import from_text, noise
from wan_ui.engine.parallel import Group
from wan_ui.engine.recipes import unipc_config
from wan_ui.engine.sampling import Callbacks, Experts, Guidance, Schedule, denoise
from wan_ui.engine.split import Split, choose_split
from wan_ui.models import MODELS

MODEL = MODELS["wan22_14b_t2v"]
SIZES = {"832x480x81": ((832, 480, 81), 4), "1280x720x81": ((1280, 720, 81), 2)}  # size and steps
BOUNDARY = 0.875


class Bench:
    """A pair on this rank's GPU, and the groups it belongs to."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.folder = folder
        self.pair = [built(MODEL, None) for _ in range(2)]
        for parameter in self.pair[1].parameters():  # the experts must not be equal
            parameter.mul_(0.97) if parameter.ndim > 1 else None
        originals = BaseWeights(lambda size: "checkpoint", lambda name: torch.empty(0))
        self.compiled = CompiledBlocks("exact")
        for seed, transformer in enumerate(self.pair):
            adapters = TransformerAdapters(transformer, originals, device)
            adapters.attach([adapter(transformer, RANK, seed)])
            adapters.set_scales({f"rank {RANK}": 1.0})
            self.compiled.install(transformer)
        self.groups: dict[str, Group] = {}

    def run(self, label: str, guided: bool, split: Split) -> dict[str, Any]:
        """Seconds a step of the second of two runs, and whether the latents equal those of one GPU."""
        (width, height, frames), steps = SIZES[label]
        shape = (1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        generator = torch.Generator("cpu").manual_seed(1)
        texts = [torch.randn(1, 512, 4096, generator=generator).to(self.device, torch.bfloat16) for _ in range(2)]
        group = None
        if split.ranks > 1:
            group = self.groups.setdefault(str(split), Group(split, self.device))
        guidance = Guidance(texts[0], texts[1] if guided else None, 4.0 if guided else 1.0, group=group)
        marks: list[float] = []

        def on_step(step: int) -> None:
            torch.cuda.synchronize()
            marks.append(time.monotonic())

        def once(count: int) -> torch.Tensor:
            marks.clear()
            schedule = Schedule(build_scheduler("UniPCMultistepScheduler", unipc_config(3.0)), count)
            experts = Experts(self.pair[0], self.pair[1], BOUNDARY, lambda transformer: None)
            with ExitStack() as stack:
                if group is not None:
                    stack.enter_context(group.divided(self.pair))
                    stack.enter_context(self.compiled.checked_together(group.all_agree))
                start = from_text(noise(shape, 1, self.device), masked=False)
                return denoise(experts, schedule, start, guidance, Callbacks(on_step))

        once(2)
        latents = once(steps).cpu()
        kept = self.folder / f"{label}_{'guided' if guided else 'unguided'}.pt"
        equal = None
        if split.ranks == 1:
            torch.save(latents, kept)
        elif kept.is_file():
            equal = torch.equal(latents, torch.load(kept))
        each = [round(after - before, 3) for before, after in itertools.pairwise(marks)]
        return {"gpus": split.ranks, "split": str(split), "size": label, "guided": guided, "equal": equal,
                "seconds a step": each, "denoising": round(sum(each), 3), "graphs": self.compiled.graphs,
                "refused": self.compiled.refused}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where one GPU's latents and the figures are kept")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    rank, count = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(rank)
    torch.set_grad_enabled(False)
    benchmarks.gpu.DEVICE = device = torch.device("cuda", rank)
    dist.init_process_group("nccl", device_id=device)
    bench, found = Bench(device, folder), []
    for label in SIZES:
        for guided in (True, False):
            found.append(bench.run(label, guided, choose_split(count, guided)))
            if rank == 0:
                print(json.dumps(found[-1]), flush=True)
                (folder / f"{count}_gpus.json").write_text(json.dumps(found, indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
