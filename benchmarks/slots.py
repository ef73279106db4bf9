"""Videos on the server's own processes, one for each of two GPUs: `python -m benchmarks.slots FOLDER`.

How long the second process takes to its first step; one video on one GPU and on both, in both recipes and without
guidance, with a LoRA on each expert, frames compared; and four strengths of a comparison on one GPU and on two. A 14B
pair with random weights is written into FOLDER (`--layers` makes it smaller). `--tiny` runs the same with tiny
checkpoints and two processes on the CPU: it proves that the program runs, and nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden_cases import CHECKPOINTS, LORAS
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import Settings
from wan_ui.engine.result import Clip, Progress, ignore_progress
from wan_ui.engine.split import choose_split
from wan_ui.intake import prepare
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.store import Store
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS
from wan_ui.pool.gpus import list_gpus, slot_devices, visible
from wan_ui.pool.groups import SlotGroup
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.slots import SlotDevice
from wan_ui.request import Generation

MODEL = MODELS["wan22_14b_t2v"]
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
WANTED = 1.9  # of the comparison


def no_check() -> None:
    """Lets every render go on."""


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and its seconds."""
    began = time.perf_counter()
    result = work()
    return result, round(time.perf_counter() - began, 2)


class Bench:
    """Two slots over checkpoints and LoRAs, and the requests that they render."""

    def __init__(self, options: argparse.Namespace) -> None:
        models, loras = (CHECKPOINTS, LORAS) if options.tiny else full_size(options.folder, options.layers)
        devices: Sequence[SlotDevice] = [SlotDevice(f"CPU {number}", device="cpu") for number in range(2)]
        if not options.tiny:
            devices = slot_devices("auto", visible(list_gpus(), os.environ))[:2]
        if len(devices) < 2:
            raise SystemExit("This needs two GPUs, or --tiny.")
        self.folder: Path = options.folder
        settings = Settings(models_dir=models, lora_dir=loras, data_dir=options.folder / "data")
        self.slots = [ProcessSlot(device, EngineOptions.of(settings)) for device in devices]
        self._size = (64, 64, 5) if options.tiny else options.size
        self._steps = options.steps
        names = ("job_high_noise", "job_low_noise") if options.tiny else ("lora", "lora")
        self._loras = [f"{name}.safetensors" for name in names]
        self._library = Library(loras)
        self._sources = CheckpointSources(Checkpoints(models), models_dir=models)
        self._at_work: list[tuple[Dispatcher, Store]] = []
        self._images = ImageStore(options.folder / "images", lambda url: b"")

    def generation(
        self, recipe: str = "reference", guidance: float = 4.0, strength: float = 1.0, steps: int | None = None
    ) -> Generation:
        """A resolved generation with a LoRA on each expert."""
        width, height, frames = self._size
        prompt = {"prompt": "a red circle", "width": width, "height": height, "num_frames": frames, "seed": 1,
                  "sample_steps": steps or self._steps, "guidance_scale": guidance}  # fmt: skip
        items = [{"path": path, "transformer": slot, "network_multiplier": strength}
                 for path, slot in zip(self._loras, ("high", "low"), strict=True)]  # fmt: skip
        body = {"model": MODEL.id, "recipe": recipe, "prompts": [prompt], "loras": items}
        prepared = prepare(body, self._library, self._images, self._sources.transformer_config, LOCAL_ACCESS)
        return replace(prepared.generations[0], first_step_change=False)

    def start(self) -> dict[str, float]:
        """Starts both processes at once: seconds until each has done the step before its first."""
        began, first = time.perf_counter(), dict[str, float]()

        def render(slot: ProcessSlot) -> None:
            def on_progress(progress: Progress) -> None:
                if progress.phase == "denoise":
                    first.setdefault(slot.name, round(time.perf_counter() - began, 2))

            slot.render(self.generation(steps=2), on_progress, no_check)

        threads = [threading.Thread(target=render, args=(slot,)) for slot in self.slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return first

    def split(self, recipe: str, guidance: float) -> dict[str, Any]:
        """One video on the first GPU, and on both."""
        generation = self.generation(recipe, guidance)
        group = SlotGroup(self.slots, choose_split(2, generation.is_guided))
        for slot in self.slots:  # loads and compiles what the recipe needs
            slot.render(self.generation(recipe, guidance, steps=2), ignore_progress, no_check)
        group.render(self.generation(recipe, guidance, steps=2), ignore_progress, no_check)
        alone, whole_alone = timed(lambda: self.slots[0].render(generation, ignore_progress, no_check))
        together, whole = timed(lambda: group.render(generation, ignore_progress, no_check))
        return {"recipe": recipe, "guidance": guidance, "split": together.metadata["split"],
                "equal": bool(np.array_equal(alone.frames, together.frames)),
                "denoising": [_denoising(alone), _denoising(together)], "whole": [whole_alone, whole],
                "ratio": round(_denoising(alone) / max(_denoising(together), 1e-9), 3),
                "memory": together.metadata["memory"], "arithmetic": together.metadata["arithmetic"]}  # fmt: skip

    def comparison(self, slots: Sequence[ProcessSlot]) -> float:
        """Seconds of four strengths on these slots, through the queue, files written."""
        generations = [self.generation(strength=strength) for strength in STRENGTHS]
        folder = self.folder / f"comparison on {len(slots)} {time.monotonic_ns()}"
        folder.mkdir(parents=True)
        store = Store(folder / "jobs.sqlite")
        dispatcher = Dispatcher(store, slots, folder / "clips", video.write)
        self._at_work.append((dispatcher, store))
        prompts = [{"prompt": generation.prompt} for generation in generations]
        job = store.add({"model": MODEL.id, "prompts": prompts}, generations)
        began = time.perf_counter()
        dispatcher.start()
        dispatcher.wait(job.id, 3600.0)
        seconds = time.perf_counter() - began
        ended = store.job(job.id)
        if ended.status != "succeeded":
            raise SystemExit(f"The comparison ended as {ended.status}: {ended.error}")
        return round(seconds, 2)

    def close(self) -> None:
        """Ends the processes. Only now are the dispatchers stopped: each ends its slots' processes."""
        for dispatcher, store in self._at_work:
            if dispatcher.stop():
                store.close()
        for slot in self.slots:
            slot.end()


def _denoising(clip: Clip) -> float:
    return float(clip.metadata["seconds"]["denoise"])


def full_size(folder: Path, layers: int | None) -> tuple[Path, Path]:
    """The folders of a 14B pair with random weights and of a LoRA of rank 32, written where they are not there."""
    from tests.gpu.full_size import write, write_lora

    write(MODEL, folder / "models", text_layers=4, layers=layers)
    if not (folder / "loras" / "lora.safetensors").exists():
        write_lora(folder / "loras" / "lora.safetensors", MODEL, 32, 1, layers)
    return folder / "models", folder / "loras"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for checkpoints, the database and the figures")
    parser.add_argument("--size", type=int, nargs=3, default=(832, 480, 81), metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--layers", type=int, help="of each transformer, in place of all")
    parser.add_argument("--parts", nargs="+", choices=("split", "comparison"), default=("split", "comparison"))
    parser.add_argument("--tiny", action="store_true", help="tiny checkpoints on the CPU")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    try:
        print(json.dumps({"seconds to the first step": bench.start()}), flush=True)
        if "split" in options.parts:
            for recipe, guidance in (("reference", 4.0), ("reference", 1.0), ("preview", 4.0)):
                print(json.dumps(bench.split(recipe, guidance)), flush=True)
        if "comparison" in options.parts:
            for slot in bench.slots:
                slot.render(bench.generation(steps=2), ignore_progress, no_check)
            one, two = bench.comparison(bench.slots[:1]), bench.comparison(bench.slots)
            ratio = round(one / two, 3)
            print(json.dumps({"four strengths": [one, two], "ratio": ratio, "wanted": WANTED}), flush=True)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
