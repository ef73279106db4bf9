"""A 14B pair from fp8_scaled files, packed and unpacked, under caps: `python -m benchmarks.single_files FOLDER --help`.

Writes the pair, a text encoder, a VAE and a LoRA of random numbers into FOLDER, renders the same two short videos
from them in each way, and says whether the frames are those of the first way. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import psutil
import torch

from benchmarks.gpu import GIB, RANK, request
from tests.gpu.full_size import write, write_lora
from tests.gpu.single_files import write_safetensors
from wan_ui import Engine
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.config import CompileMode
from wan_ui.engine.budget import Fp8Weights
from wan_ui.models import MODELS

MODEL = MODELS["wan22_14b_t2v"]
NAMES = {"transformer": "wan2.2_t2v_high_noise_14B", "transformer_2": "wan2.2_t2v_low_noise_14B"}
CGROUP = Path("/sys/fs/cgroup")
SIZE = (832, 480, 81)
PERIOD = 0.05  # seconds between two looks at the memory
STATUS = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmLck", "VmPin")


def files(folder: Path) -> None:
    """What the pair is loaded from; files that are there are used again."""
    config = ModelConfigs().config(MODEL, "transformer") or {}
    for seed, (component, name) in enumerate(NAMES.items()):
        path = folder / "comfy" / "diffusion_models" / f"{name}_fp8_scaled.safetensors"
        if not path.is_file():
            began = time.monotonic()
            write_safetensors(path, config, "fp8_scaled", seed)
            print(f"{component}: {path.stat().st_size / 1e9:.1f} GB in {time.monotonic() - began:.0f} s", flush=True)
    write(MODEL, folder / "models", without=NAMES)
    lora = folder / "loras" / "lora.safetensors"
    if not lora.is_file():
        write_lora(lora, MODEL, RANK, 0)


class HostMemory:
    """The largest values seen of this process's memory, and of what the whole machine has in use, in GiB."""

    def __init__(self) -> None:
        self.most: dict[str, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(PERIOD):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            status = dict(line.split(":", 1) for line in lines)
            now = {name: int(status[name].split()[0]) / (1 << 20) for name in STATUS if name in status}
            whole = psutil.virtual_memory()
            now["machine, in use"] = (whole.total - whole.available) / GIB
            for name, value in now.items():
                self.most[name] = max(self.most.get(name, 0.0), round(value, 2))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watches within it."""
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join()


def bound_host(gibibytes: int) -> str:
    """Limits this process's memory by a cgroup of its own; what came of it."""
    group = CGROUP / f"wan-ui-{os.getpid()}"
    try:
        (CGROUP / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        group.mkdir()
        (group / "memory.max").write_text(str(gibibytes * GIB), encoding="ascii")
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    except OSError as error:
        return f"not bounded: {error}"
    return f"{gibibytes} GiB"


def render(
    folder: Path,
    weights: Fp8Weights,
    cap: int | None,
    size: tuple[int, int, int],
    steps: tuple[int, int],
    compile: CompileMode,
) -> dict[str, Any]:
    """Two videos, the second of another scale: seconds, memory, and a digest of the frames."""
    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    if total:
        torch.cuda.set_per_process_memory_fraction(1.0 if cap is None else cap * GIB / total)
        torch.cuda.reset_peak_memory_stats()
    host, result = HostMemory(), dict[str, Any](weights=weights, cap=cap)
    with host.watched():
        engine = Engine(
            folder / "models",
            folder / "loras",
            data_dir=folder / "data",
            compile=compile,
            comfy_dir=folder / "comfy",
            fp8_weights=weights,
        )
        digest = hashlib.sha256()
        for name, count, scale in (("first", steps[0], 1.0), ("second", steps[1], 0.5)):
            ends: list[float] = []
            began = time.monotonic()
            (clip,) = engine.generate(
                request(MODEL, size, count, scale),
                lambda progress, ends=ends: ends.append(time.monotonic()) if progress.phase == "denoise" else None,
            )
            result[f"{name}, s"] = round(time.monotonic() - began, 2)
            result[f"{name}, steps"] = [round(end - start, 3) for start, end in itertools.pairwise(ends)]
            result[f"{name}, phases"] = clip.metadata["seconds"]
            digest.update(clip.frames.tobytes())
        result |= {name: clip.metadata[name] for name in ("memory", "arithmetic", "base") if name in clip.metadata}
        engine.close()
    result |= {"frames": digest.hexdigest(), "host GiB": host.most, "bytes read": engine.loader.statistics.bytes_read}
    if total:
        result["GPU GiB"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        torch.cuda.empty_cache()
    gc.collect()
    return result


def main() -> None:
    """Renders in each way, and writes the figures after each."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    flags.add_argument(
        "--ways", nargs="*", default=["unpacked:0", "packed:0", "auto:24", "auto:12"], metavar="WEIGHTS:CAP",
        help=f"how weights lie in memory ({', '.join(get_args(Fp8Weights))}) and GiB of GPU memory, 0 for all",
    )  # fmt: skip
    flags.add_argument("--size", type=int, nargs=3, default=SIZE, metavar=("W", "H", "FRAMES"))
    flags.add_argument("--steps", type=int, nargs=2, default=(2, 5), help="of the first and the second video")
    flags.add_argument("--host", type=int, help="GiB of host memory, by a cgroup's memory.max")
    flags.add_argument("--compile", default="auto", choices=get_args(CompileMode))
    flags.add_argument("--json", type=Path, help="a file for the figures")
    chosen = flags.parse_args()
    torch.set_grad_enabled(False)
    files(chosen.folder)
    bound = bound_host(chosen.host) if chosen.host else None
    first = chosen.folder / "frames.sha256"
    found = []
    for way in chosen.ways:
        weights, _, cap = way.partition(":")
        result = render(
            chosen.folder,
            cast(Fp8Weights, weights),
            int(cap or 0) or None,
            tuple(chosen.size),
            tuple(chosen.steps),
            chosen.compile,
        )
        if not first.is_file():
            first.write_text(result["frames"], encoding="ascii")
        result |= {"host": bound, "equal to the first way": result["frames"] == first.read_text(encoding="ascii")}
        found.append(result)
        print(json.dumps(result), flush=True)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
