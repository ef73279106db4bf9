"""Samplers, shifts, boundaries, a second guidance scale, last frames and speed LoRAs: plain diffusers' own frames."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import CHECKPOINTS, GOLDEN, differences
from wan_ui import Engine

pytestmark = pytest.mark.slow
FOLDER = GOLDEN / "generation"
CASES: list[dict[str, Any]] = sorted(  # an engine loads each model once
    json.loads((FOLDER / "cases.json").read_text()), key=lambda case: str(case["request"]["model"])
)
MEAN, MOST = 0.1, 2  # of 255, on the CPU


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """The case's request with its images inside."""
    request: dict[str, Any] = json.loads(json.dumps(case["request"]))
    for name, field in (("image", "ctrl_img"), ("image_last", "ctrl_img_last")):
        if case.get(name):
            request["prompts"][0][field] = base64.b64encode((FOLDER / case[name]).read_bytes()).decode()
    return request


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=FOLDER / "loras", device="cpu")
    yield engine
    engine.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_frames_are_those_of_diffusers(engine: Engine, case: dict[str, Any]) -> None:
    (clip,) = engine.generate(request_of(case))
    mean, most = differences(clip.frames, np.load(FOLDER / "frames" / f"{case['name']}.npz")["frames"])
    assert mean <= MEAN
    assert most <= MOST
    fields = {"sampler", "flow_shift", "boundary", "switch_step", "guidance_scale_2", "ctrl_img_last"}
    assert set(clip.metadata["replaced"]) == fields & set(request_of(case)["prompts"][0])
