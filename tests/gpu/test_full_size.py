"""Full-width random weights on a CUDA GPU: seconds per step, peak memory, and equal frames in every memory mode.

5B has all of its blocks. 14B's transformers have 8 of 40, and the GPU is capped in proportion; `python -m
benchmarks.gpu --video wan22_14b_t2v` renders with all of them.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.gpu.full_size import write, write_lora
from wan_ui import Engine
from wan_ui.config import MemoryMode
from wan_ui.engine.result import Clip
from wan_ui.models import MODELS

pytestmark = pytest.mark.gpu
GIB = 1 << 30
BLOCKS, TEXT_BLOCKS = 8, 2  # of each 14B transformer, 5.8 GB; of the text encoder, 2.8 GB
CAPS = {17: "pair", 11: "stream", 9: "stream"}  # GiB: room for one transformer, for some blocks, for a few


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def request(model: str, size: tuple[int, int, int], steps: int) -> dict[str, Any]:
    width, height, frames = size
    wan_model = MODELS[model]
    slots: tuple[str | None, ...] = ("high", "low") if wan_model.two_transformers else (None,)
    return {
        "model": model,
        "prompts": [
            {"prompt": "a red circle", "width": width, "height": height, "num_frames": frames, "sample_steps": steps}
        ],
        "loras": [{"path": f"{wan_model.family}.safetensors", "transformer": slot} for slot in slots],
    }


def run(folder: Path, model: str, size: tuple[int, int, int], steps: int, memory: MemoryMode, cap: int | None) -> Clip:
    """One clip on a fresh engine under a cap in bytes, its figures printed."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if cap is None else cap / total)
    torch.cuda.reset_peak_memory_stats()
    engine = Engine(models_dir=folder / "models", lora_dir=folder / "loras", device="cuda", memory=memory)
    marks: list[tuple[str, int]] = []

    def on_progress(progress: Any) -> None:
        if not marks or marks[-1][0] != progress.phase:
            marks.append((progress.phase, torch.cuda.max_memory_allocated()))
            torch.cuda.reset_peak_memory_stats()

    try:
        (clip,) = engine.generate(request(model, size, steps), on_progress)
        seconds = clip.metadata["seconds"]
        peaks = {phase: f"{after / GIB:.1f}" for (phase, _), (_, after) in itertools.pairwise(marks)}
        peaks["decode"] = f"{torch.cuda.max_memory_allocated() / GIB:.1f}"
        print(
            f"\n{model} {size} {clip.metadata['memory']} cap {cap and cap / GIB}: "
            f"{seconds['denoise'] / steps:.2f} s/step, {seconds}, peak GiB by phase {peaks}"
        )
        return clip
    finally:
        engine.close()
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_5b(folder: Path) -> None:
    model = MODELS["wan22_5b"]
    write(model, folder / "models", TEXT_BLOCKS)
    write_lora(folder / "loras" / f"{model.family}.safetensors", model, 32, 0)
    clip = run(folder, model.id, (1280, 704, 121), 3, "auto", None)
    assert clip.metadata["memory"] == "resident"
    assert clip.frames.shape == (121, 704, 1280, 3)


def test_14b_under_a_cap_equals_resident(folder: Path) -> None:
    model = MODELS["wan22_14b_t2v"]
    write(model, folder / "models", TEXT_BLOCKS, BLOCKS)
    write_lora(folder / "loras" / f"{model.family}.safetensors", model, 32, 1, BLOCKS)
    size = (832, 480, 41)
    resident = run(folder, model.id, size, 4, "auto", None)
    assert resident.metadata["memory"] == "resident"
    for cap, memory in CAPS.items():
        capped = run(folder, model.id, size, 4, "auto", cap * GIB)
        assert capped.metadata["memory"] == memory
        assert np.array_equal(capped.frames, resident.frames)
    long = run(folder, model.id, (832, 480, 81), 2, "auto", None)
    assert long.frames.shape == (81, 480, 832, 3)
