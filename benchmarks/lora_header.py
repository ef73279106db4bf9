"""How long a large LoRA file takes to be known: `python -m benchmarks.lora_header [GB]`.

Inspection reads the header alone; the SHA-256, computed once per file and remembered, reads it all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from wan_ui.access import LOCAL_ACCESS
from wan_ui.lora.library import Library
from wan_ui.lora.report import inspect

WIDTH, FFN, BLOCKS = 5120, 13824, 40  # Wan 14B
BYTES = 2  # bf16


def write(path: Path, gigabytes: float) -> None:
    """A plain 14B LoRA of about that size on every attention and feed-forward layer, random bf16."""
    shapes = {f"{kind}_attn.{part}": (WIDTH, WIDTH) for kind in ("self", "cross") for part in "qkvo"}
    shapes |= {"ffn.0": (FFN, WIDTH), "ffn.2": (WIDTH, FFN)}
    per_rank = BLOCKS * BYTES * sum(out + into for out, into in shapes.values())
    rank = max(1, round(gigabytes * 1e9 / per_rank))
    state = {}
    for block in range(BLOCKS):
        for module, (out, into) in shapes.items():
            key = f"diffusion_model.blocks.{block}.{module}"
            state[f"{key}.lora_A.weight"] = torch.rand(rank, into).to(torch.bfloat16)
            state[f"{key}.lora_B.weight"] = torch.rand(out, rank).to(torch.bfloat16)
    save_file(state, path, metadata={"format": "pt"})


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.5
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "large.safetensors"
        write(path, gigabytes)
        library = Library(Path(name))
        known = inspect(path)
        print(f"{path.stat().st_size / 1e9:.2f} GB, {known['modules']} modules, rank {known['rank']}")
        print(f"inspect: {min(seconds(lambda: inspect(path)) for _ in range(5)):.3f} s")
        print(f"locate, first (SHA-256): {seconds(lambda: library.locate(path.name, LOCAL_ACCESS)):.2f} s")
        print(f"locate, then: {seconds(lambda: library.locate(path.name, LOCAL_ACCESS)):.5f} s")


if __name__ == "__main__":
    main()
