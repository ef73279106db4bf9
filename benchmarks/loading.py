"""A 14B transformer loaded from each kind of checkpoint, cold and warm: `python -m benchmarks.loading FOLDER --help`.

Writes one kind after another into FOLDER with random numbers, loads it with the engine's own functions, and deletes it
before the next; nothing is downloaded. A cold load begins with the files out of the page cache, which `posix_fadvise`
does as far as the system lets it: how much was left in it stands in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from benchmarks.single_files import HostMemory
from tests.gpu.single_files import write_folder, write_gguf, write_safetensors
from wan_ui.checkpoints.bases import FOLDER, Base
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.folders import Checkpoints, Component
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.engine.components import Components, Target, load_components
from wan_ui.engine.memory import MemoryPolicy, release
from wan_ui.engine.prefetch import CHUNK, READERS, Prefetcher, is_cached
from wan_ui.engine.result import ignore_progress
from wan_ui.models import MODELS

Kind = Literal["folder", "single", "fp8_scaled", "Q8_0", "Q4_K"]
MODEL = MODELS["wan21_14b"]
NAMES: Mapping[Kind, str] = {
    "single": "diffusion_models/wan2.1_t2v_14B_bf16.safetensors",
    "fp8_scaled": "diffusion_models/wan2.1_t2v_14B_fp8_scaled.safetensors",
    "Q8_0": "unet/wan2.1-t2v-14b-Q8_0.gguf",
    "Q4_K": "unet/wan2.1-t2v-14b-Q4_K.gguf",
}
PAGE = 4096  # bytes
LONG = 86_400.0  # seconds
GB = 1e9


def write(folder: Path, kind: Kind, layers: int | None) -> None:
    """The transformer of a kind, under a models folder in diffusers' layout or a ComfyUI folder."""
    source = MODEL.components["transformer"]
    config = dict(ModelConfigs().config(MODEL, "transformer"))
    if layers is not None:
        config["num_layers"] = layers
        configs = folder / "configs" / source.repo / source.subfolder
        configs.mkdir(parents=True, exist_ok=True)
        (configs / "config.json").write_text(json.dumps(config))
    if kind == "folder":
        write_folder(folder / "models" / source.repo / source.subfolder, config, 0)
    elif kind in ("Q8_0", "Q4_K"):
        write_gguf(folder / "comfy" / NAMES[kind], config, kind, 0)
    else:
        write_safetensors(folder / "comfy" / NAMES[kind], config, "bf16" if kind == "single" else "fp8_scaled", 0)


def found(folder: Path, kind: Kind) -> Component:
    """The transformer as the engine finds it."""
    configs = folder / "configs"
    checkpoints = Checkpoints(folder / "models", offline=True)
    sources = CheckpointSources(checkpoints, folder / "comfy", configs_dir=configs if configs.is_dir() else None)
    base: Base = "folder" if kind == FOLDER else {"transformer": Path(NAMES[kind]).name}
    return sources.local(MODEL, base, ("transformer",))["transformer"]


def drop(files: tuple[Path, ...]) -> float:
    """Asks the system to forget the files; the part of them that is still in the page cache."""
    cached, whole = 0, 0
    for file in files:
        with file.open("rb", buffering=0) as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for at in range(CHUNK // 2, file.stat().st_size, CHUNK):  # between the places that the readers ask for
                whole += 1
                cached += is_cached(opened, (at,))
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached / max(1, whole)


def sequential(files: tuple[Path, ...]) -> None:
    """The disk's own way: one reader, front to back."""
    buffer = bytearray(CHUNK)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def side_by_side(files: tuple[Path, ...]) -> None:
    """The engine's readers alone."""
    ahead = Prefetcher(files)
    ahead.start()
    ahead.wait(LONG)


def load(part: Component, device: torch.device, packed: bool, prefetch: bool = True) -> None:
    """As the engine loads it; `packed`: fp8 weights stay fp8 in memory."""
    target = Target(device, torch.bfloat16, packed=packed)
    others = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    policy = MemoryPolicy("auto", device)
    loaded: Components = load_components(
        {part.name: part}, target, others, policy.has_host_room if prefetch else lambda size: False, ignore_progress
    )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    else:  # a file that is mapped is read when it is touched
        for parameter in loaded.transformers[part.name].parameters():
            parameter.flatten()[:: PAGE // parameter.element_size()].float().sum()


def io_counters() -> dict[str, int]:
    """What this process has read so far: `rchar` by read calls, `read_bytes` from disks, mapped files included."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


@dataclass
class Measurements:
    """The rows of the table, each printed as soon as it is there."""

    device: torch.device
    rows: list[dict[str, Any]]
    json: Path | None

    def measure(self, part: Component, kind: Kind, name: str, work: Callable[[], None], cold: bool) -> None:
        """One load of a component, from the disk where `cold`."""
        release(self.device)
        left = drop(part.files) if cold else 1.0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        host, before, began = HostMemory(), io_counters(), time.perf_counter()
        with host.watched():
            work()
            seconds = time.perf_counter() - began
        after = io_counters()
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        row = {
            "kind": kind,
            "what": name,
            "file GB": round(part.size / GB, 1),
            "in the page cache before": round(left, 3),
            "seconds": round(seconds, 2),
            "GB/s": round(part.size / seconds / GB, 2),
            "from the disk GB": round((after["read_bytes"] - before["read_bytes"]) / GB, 2),
            "by read calls GB": round((after["rchar"] - before["rchar"]) / GB, 2),
            "host GiB, own": host.most.get("RssAnon"),
            "host GiB, mapped": host.most.get("RssFile"),
            "device GB": round(peak / GB, 1),
        }
        self.rows.append(row)
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
        if self.json is not None:
            self.json.write_text(json.dumps({"device": str(self.device), "rows": self.rows}, indent=1) + "\n")


def measure_kind(measurements: Measurements, folder: Path, kind: Kind, extra: bool, layers: int | None) -> None:
    """Writes, loads and deletes one kind; `extra`: the disk by itself, and loads without prefetch too."""
    began = time.monotonic()
    write(folder, kind, layers)
    print(f"{kind}: written in {time.monotonic() - began:.0f} s", flush=True)
    part, device = found(folder, kind), measurements.device

    def measure(name: str, work: Callable[[], None], cold: bool) -> None:
        measurements.measure(part, kind, name, work, cold)

    if extra:
        measure("disk, one reader", lambda: sequential(part.files), True)
        measure(f"disk, {READERS} readers", lambda: side_by_side(part.files), True)
        measure("cold, without prefetch", lambda: load(part, device, False, prefetch=False), True)
    measure("cold", lambda: load(part, device, False), True)
    measure("warm", lambda: load(part, device, False), False)
    if kind == "fp8_scaled":
        measure("cold, kept fp8", lambda: load(part, device, True), True)
        measure("warm, kept fp8", lambda: load(part, device, True), False)
    for name in ("models", "comfy"):
        shutil.rmtree(folder / name, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures each kind and prints its rows."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    flags.add_argument("--kinds", nargs="*", default=get_args(Kind), choices=get_args(Kind), help="default: all")
    flags.add_argument("--extra", nargs="*", default=("folder",), choices=get_args(Kind), metavar="KIND",
                       help="kinds that are also read by themselves and loaded without prefetch")  # fmt: skip
    flags.add_argument("--layers", type=int, help="blocks of the transformer, for a quick look (default: all)")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    flags.add_argument("--json", type=Path, help="where the figures go too")
    chosen = flags.parse_args(arguments)
    measurements = Measurements(torch.device(chosen.device), [], chosen.json)
    if measurements.device.type == "cuda":
        torch.zeros(1, device=measurements.device)  # the context is not a part of the first load
    for kind in chosen.kinds:
        measure_kind(measurements, chosen.folder, kind, kind in chosen.extra, chosen.layers)


if __name__ == "__main__":
    main()
