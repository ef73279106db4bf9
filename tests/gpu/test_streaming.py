"""Streamed and offloaded models render a resident model's frames, with adapters or merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_cases import CHECKPOINTS
from tests.lora.writers import FORMATS, Width
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.config import MemoryMode
from wan_ui.engine.result import Progress

pytestmark = pytest.mark.gpu


def request(recipe: str, **scales: float) -> dict[str, Any]:
    prompt = {"prompt": "a cat", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 4, "seed": 3}
    items = [
        {"path": f"{slot}.safetensors", "transformer": slot, "network_multiplier": scale}
        for slot, scale in scales.items()
    ]
    return {"model": "wan22_14b_t2v", "recipe": recipe, "prompts": [prompt], "loras": items}


REQUESTS = (
    request("reference"),
    request("reference", high=1.0, low=0.5),
    request("reference", low=0.7),
    request("preview", high=1.0, low=1.0),
    request("preview", high=0.3),
    {**request("reference"), "loras": [{"path": "dora.safetensors", "transformer": "high"}]},
    request("reference", high=1.0, low=0.5),
)


def write_loras(folder: Path) -> None:
    for slot, seed in (("high", 1), ("low", 2)):
        write_lora(folder / f"{slot}.safetensors", seed=seed)
    FORMATS["ai-toolkit dora"](Width(48, 2, 96, 3)).save(folder / "dora.safetensors")


@pytest.mark.parametrize("memory", ["pair", "stream"])
def test_the_frames_of_a_resident_model(memory: MemoryMode, tmp_path: Path) -> None:
    write_loras(tmp_path)
    resident = Engine(CHECKPOINTS, tmp_path, "cuda", "resident", compile="off")
    offloaded = Engine(CHECKPOINTS, tmp_path, "cuda", memory, compile="off")
    for body in REQUESTS:
        (expected,), (found,) = resident.generate(body), offloaded.generate(body)
        assert found.metadata["memory"] == memory
        assert np.array_equal(found.frames, expected.frames)
    resident.close()
    offloaded.close()


class Shortage:
    """Memory that runs out at a step of a render, so many times."""

    def __init__(self, step: int, times: int) -> None:
        self._step, self._left = step, times

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "denoise" and progress.step == self._step and self._left:
            self._left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(("times", "memory"), [(1, "pair"), (2, "stream"), (3, "stream")])
def test_memory_that_runs_out_costs_time_and_no_frame(step: int, times: int, memory: str, tmp_path: Path) -> None:
    write_loras(tmp_path)
    resident = Engine(CHECKPOINTS, tmp_path, "cuda", "resident", compile="off")
    short = Engine(CHECKPOINTS, tmp_path, "cuda", "auto", compile="off")
    for body in (REQUESTS[3], REQUESTS[1]):  # a preview first: its casts must come off again after the move
        (expected,) = resident.generate(body)
        (found,) = short.generate(body, Shortage(step, times if body is REQUESTS[3] else 0))
        assert found.metadata["memory"] == memory
        assert "shared" not in found.metadata["steps"]
        assert np.array_equal(found.frames, expected.frames)
    resident.close()
    short.close()
