"""Cold and warm loads of a transformer against the disk's own rate: `python -m benchmarks.loading FOLDER --help`.

Writes a checkpoint of random numbers with 14B's layers into FOLDER; nothing is
downloaded. A cold load begins with the files out of the page cache, which `posix_fadvise` does as far as the system
lets it: how much was left in it stands in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.gpu.full_size import TRANSFORMERS
from wan_ui.checkpoints.folders import Component
from wan_ui.engine.components import load_transformer
from wan_ui.engine.memory import release
from wan_ui.engine.prefetch import CHUNK, READERS, Prefetcher, is_cached

LAYER = 0.703e9  # bytes of one of 14B's layers in bfloat16
SHARD = "5GB"  # as the hub has them
PAGE = 4096  # bytes
LONG = 86_400.0  # seconds
BLOCK = 64 << 20  # bytes of random numbers that are repeated


def write(folder: Path, gigabytes: float, shard: str) -> Component:
    """A transformer of about so many gigabytes; one that is there already is used again."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    layers = max(1, round(gigabytes * 1e9 / LAYER))
    if not config.is_file() or json.loads(config.read_text())["num_layers"] != layers:
        from diffusers import WanTransformer3DModel

        with torch.device("meta"):
            model = WanTransformer3DModel(**TRANSFORMERS["wan22_14b"] | {"num_layers": layers, "text_dim": 4096})
        model = model.to(torch.bfloat16).to_empty(device="cpu")
        noise = torch.randint(0, 0x3F80, (BLOCK // 2,), dtype=torch.int16)  # finite numbers only
        for parameter in model.parameters():
            flat = parameter.data.view(torch.int16).flatten()
            for part in flat.split(len(noise)):
                part.copy_(noise[: len(part)])
        model.save_pretrained(folder, max_shard_size=shard)
    files = (config, *sorted(folder.glob("*.safetensors")))
    return Component("transformer", folder, files)


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
    return cached / whole


def sequential(files: tuple[Path, ...]) -> None:
    """The disk's own way: one reader, front to back."""
    buffer = bytearray(CHUNK)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def side_by_side(files: tuple[Path, ...]) -> None:
    ahead = Prefetcher(files)
    ahead.start()
    ahead.wait(LONG)


def load(part: Component, device: torch.device, readers: bool) -> None:
    """As the engine loads it."""
    ahead = Prefetcher(part.files if readers else ())
    ahead.start()
    model = load_transformer(part, device, torch.bfloat16)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    else:  # a file that is mapped is read when it is touched
        for parameter in model.parameters():
            parameter.flatten()[:: PAGE // parameter.element_size()].float().sum()
    ahead.stop()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    flags.add_argument("--gigabytes", type=float, default=28.0, help="of the checkpoint; default: %(default)s")
    flags.add_argument("--shard", default=SHARD, help="the most that a file holds; default: %(default)s")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    flags.add_argument("--json", type=Path, help="where the figures go too")
    said = flags.parse_args()
    device = torch.device(said.device)
    part = write(said.folder, said.gigabytes, said.shard)
    size = part.size
    rows: list[dict[str, Any]] = []

    def measure(name: str, work: Callable[[], None], cold: bool) -> None:
        release(device)
        left = drop(part.files) if cold else 1.0
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        rows.append(
            {"what": name, "cached": round(left, 3), "seconds": round(seconds, 2), "GB/s": size / seconds / 1e9}
        )

    measure("warm-up", lambda: load(part, device, True), cold=False)
    rows.clear()
    measure("disk, one reader", lambda: sequential(part.files), cold=True)
    measure(f"disk, {READERS} readers", lambda: side_by_side(part.files), cold=True)
    measure("cold load, without prefetch", lambda: load(part, device, False), cold=True)
    measure("cold load", lambda: load(part, device, True), cold=True)
    measure("warm load, without prefetch", lambda: load(part, device, False), cold=False)
    measure("warm load", lambda: load(part, device, True), cold=False)

    parallel = os.environ.get("HF_ENABLE_PARALLEL_LOADING")
    shards = len(part.files) - 1
    print(f"{size / 1e9:.1f} GB in {shards} shards, {device}, HF_ENABLE_PARALLEL_LOADING={parallel}\n")
    print("| what | in the page cache before | seconds | GB/s |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['what']} | {row['cached']:.0%} | {row['seconds']:.2f} | {row['GB/s']:.2f} |")
    if said.json is not None:
        about = {"bytes": size, "shards": shards, "device": str(device), "parallel": parallel, "rows": rows}
        said.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
