"""Seconds that one live picture takes at full size: `python -m benchmarks.live_picture --help`.

The latents are random, and so is the map to RGB: the work is the same with any numbers, only noise makes the largest
pictures, and so the slowest ones. Smoothed noise, as a real estimate is smooth, is timed beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wan_ui.engine.live_picture import LatentToRgb, as_webp

SIZES = ((832, 480, 81), (1280, 720, 81))
CHANNELS = 16  # of the latents of all models but TI2V 5B
REPEATS = 20


def measure(size: tuple[int, int, int], smooth: bool, device: str) -> dict[str, Any]:
    """The median time of a picture, from the estimate on the device to the bytes of the WebP."""
    width, height, frames = size
    shape = (1, CHANNELS, (frames - 1) // 4 + 1, height // 8, width // 8)
    latents = torch.randn(shape, device=device)
    if smooth:
        coarse = F.avg_pool3d(latents, (1, 8, 8))
        latents = F.interpolate(coarse, shape[2:], mode="trilinear") * 4
    generator = torch.Generator().manual_seed(0)
    first, later = (torch.randn(CHANNELS + 1, 3, generator=generator) * 0.2 for _ in range(2))
    maps, times, webp = LatentToRgb(first, later), [], b""
    for _ in range(REPEATS + 3):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        webp = as_webp(maps.frames(latents).cpu().numpy())
        times.append(time.perf_counter() - began)
    took = float(np.median(times[3:]))
    return {"size": "×".join(map(str, size)), "smooth": smooth, "milliseconds": 1000 * took, "bytes": len(webp)}


def main() -> None:
    """Prints a line for each size, and writes the figures as JSON."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    flags.add_argument("--json", type=Path, help="a file for the figures")
    chosen = flags.parse_args()
    found = [measure(size, smooth, chosen.device) for size in SIZES for smooth in (True, False)]
    for line in found:
        print(json.dumps(line, ensure_ascii=False), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
