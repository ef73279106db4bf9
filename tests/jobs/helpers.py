"""Small requests for the tests of the line."""

from __future__ import annotations

from typing import Any


def body(*seeds: int, steps: int = 2, **fields: Any) -> dict[str, Any]:
    """A text-to-video request with one tiny prompt per seed."""
    prompts = [
        {"prompt": f"clip {seed}", "width": 64, "height": 64, "num_frames": 1, "sample_steps": steps, "seed": seed}
        for seed in seeds
    ]
    return {"model": "wan21_1b", "prompts": prompts, **fields}
