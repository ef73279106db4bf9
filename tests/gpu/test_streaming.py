"""Blocks that travel between host and device: a resident model's frames, whatever is attached, merged or skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.engine.streaming import Streamed
from wan_ui.settings import MemoryMode

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


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


class Blocks(torch.nn.Module):
    """Seven layers that each change their input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(512, 512) for _ in range(7))

    def forward(self, given: torch.Tensor, skipped: frozenset[int] = frozenset()) -> torch.Tensor:
        for index, block in enumerate(self.blocks):
            given = given if index in skipped else block(given).relu()
        return given


@pytest.mark.parametrize("resident", [0, 1, 3, 5, 7])
def test_any_number_of_blocks_may_stay_and_any_be_skipped(resident: int) -> None:
    torch.manual_seed(0)
    model, given = Blocks(), torch.randn(8, 512, device=DEVICE)
    expected_model = Blocks().to(DEVICE)
    expected_model.load_state_dict(model.state_dict())
    streamed = Streamed(model, DEVICE)
    with torch.no_grad():
        for _ in range(2):
            streamed.enter(resident)
            for skipped in (frozenset[int](), frozenset({0, 4}), frozenset({1, 2, 3, 5}), frozenset[int]()):
                assert torch.equal(model(given, skipped), expected_model(given, skipped))
            streamed.leave()
            assert all(parameter.device.type == "cpu" for parameter in model.parameters())
            for parameter, other in zip(model.parameters(), expected_model.parameters(), strict=True):
                parameter.mul_(1.5)
                other.mul_(1.5)
    streamed.close()
