"""The sentence on the page about each speed-up has the figures of the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from wan_ui.engine.speedups import CHOICES, SpeedupChoice, describe
from wan_ui.models import Speedup

PERFORMANCE = Path(__file__).parent.parent.parent / "docs" / "performance.md"
LOSSY = [choice for choice in CHOICES.values() if choice.id != "none"]


def test_each_has_its_words() -> None:
    assert tuple(CHOICES) == get_args(Speedup)
    assert len({choice.label for choice in CHOICES.values()}) == len(CHOICES)
    assert CHOICES["none"].distance is None


@pytest.mark.parametrize("choice", LOSSY, ids=lambda choice: choice.id)
def test_its_sentence_says_what_it_costs_in_the_documentations_figures(choice: SpeedupChoice) -> None:
    far = choice.distance
    assert far is not None
    assert f"{far.psnr:.0f} dB" in choice.sentence and f"SSIM {far.ssim:.3f}" in choice.sentence
    model = f"| `{choice.id}` | {far.psnr} dB | {far.worst_psnr} dB | {far.ssim:.3f} |"
    assert model in PERFORMANCE.read_text(encoding="utf-8")


def test_no_inexact_speedup_is_called_exact() -> None:
    assert [choice.id for choice in LOSSY if "SSIM 1." in choice.sentence] == []


def test_how_a_video_was_made_counts_where_there_is_a_count() -> None:
    assert describe("fp8_storage") == "FP8 weights"
    assert describe("step_cache", {"total": 50, "computed": 34}) == "Step cache, 34 of 50 forwards computed"
