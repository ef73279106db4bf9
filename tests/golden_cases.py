"""The golden cases: the reference's own frames on tiny checkpoints, and how near a clip must come to them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINTS = GOLDEN / "checkpoints"
LORAS = GOLDEN / "loras"


@dataclass(frozen=True)
class Case:
    """One case: its request with the control image inside, and the frames, (T, H, W, 3) uint8."""

    name: str
    request: dict[str, Any]

    @property
    def cpu_frames(self) -> np.ndarray:
        return np.load(GOLDEN / "frames" / f"{self.name}.npz")["frames"]

    @property
    def cuda_frames(self) -> np.ndarray:
        return np.load(GOLDEN / "frames_cuda_bf16.npz")[self.name]


def cases() -> list[Case]:
    """All cases of cases.json, those of a model one after another: an engine loads each model once."""
    found = []
    for entry in json.loads((GOLDEN / "cases.json").read_text()):
        request = entry["request"]
        if entry["image"]:
            request["prompts"][0]["ctrl_img"] = base64.b64encode((GOLDEN / entry["image"]).read_bytes()).decode()
        found.append(Case(entry["name"], request))
    return sorted(found, key=lambda case: str(case.request["model"]))


def differences(frames: np.ndarray, golden: np.ndarray) -> tuple[float, int]:
    """Mean absolute and largest byte difference; the shapes must be the same."""
    assert frames.shape == golden.shape
    off = np.abs(frames.astype(np.int16) - golden.astype(np.int16))
    return float(off.mean()), int(off.max())
