"""Blocks that travel between host and device: a resident model's frames, whatever is attached or merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.settings import MemoryMode

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
    request("reference", high=1.0, low=0.5),
)


@pytest.mark.parametrize("memory", ["pair", "stream"])
def test_the_frames_of_a_resident_model(memory: MemoryMode, tmp_path: Path) -> None:
    for slot, seed in (("high", 1), ("low", 2)):
        write_lora(tmp_path / f"{slot}.safetensors", seed=seed)
    resident = Engine(CHECKPOINTS, tmp_path, "cuda", "resident", compile="off")
    visiting = Engine(CHECKPOINTS, tmp_path, "cuda", memory, compile="off")
    for body in REQUESTS:
        (expected,), (found,) = resident.generate(body), visiting.generate(body)
        assert found.metadata["memory"] == memory
        assert np.array_equal(found.frames, expected.frames)
    resident.close()
    visiting.close()
