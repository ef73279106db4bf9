"""The expected time of a comparison, from what an earlier clip took, and its time left on the board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ui.test_render import job as whole_job
from wan_ui.engine.result import Clip
from wan_ui.jobs.estimates import Outlook
from wan_ui.jobs.outlooks import JobOutlook, Outlooks
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT
from wan_ui.request import Generation, LoraUse, parse, resolve
from wan_ui.ui.comparison import status

PROMPT = {
    "prompt": "a kite",
    "width": 64,
    "height": 64,
    "num_frames": 5,
    "sample_steps": 10,
    "switch_step": 4,
    "seed": 1,
}


@pytest.fixture
def outlooks(store: Store, worker: Worker) -> Outlooks:
    return Outlooks(store, worker, UNKNOWN_ENVIRONMENT)


def generation(model: str = "wan22_14b_t2v", low: float = 1.0, **fields: Any) -> Generation:
    (made,) = resolve(parse({"model": model, "prompts": [{**PROMPT, **fields}]}), str)
    uses = (LoraUse("high", "a.safetensors", 1.0, "0" * 64), LoraUse("low", "b.safetensors", low, "1" * 64))
    return replace(made, loras=uses)


def record(outlooks: Outlooks, seconds: Mapping[str, float], shared: int = 0) -> None:
    """A clip was rendered in these seconds."""
    made, frames = generation(), np.zeros((5, 64, 64, 3), np.uint8)
    clip = Clip(frames, 64, 64, 5, made.fps, made.seed, {"steps": {"total": 10, "shared": shared}})
    outlooks.timings.record(made, clip, seconds, 0.0)


def test_shared_high_noise_steps_are_counted_once(outlooks: Outlooks) -> None:
    record(outlooks, {"denoise": 100.0})
    four = [generation(low=low) for low in (0.2, 0.4, 0.6, 0.8)]
    assert outlooks.expected(four) == 100 + 3 * 60
    assert outlooks.expected([generation(seed=seed) for seed in (1, 2)]) == 200


def test_a_clip_that_shared_steps_tells_what_one_step_takes(outlooks: Outlooks) -> None:
    record(outlooks, {"denoise": 60.0}, shared=4)
    assert outlooks.expected([generation()]) == 100


def test_it_scales_with_the_size_and_loading_and_decoding_are_on_top(outlooks: Outlooks) -> None:
    record(outlooks, {"loading": 30.0, "denoise": 100.0, "decode": 10.0})
    assert outlooks.expected([generation()]) == 30 + 110
    assert outlooks.expected([generation(width=128)]) == pytest.approx(30 + 220, rel=0.01)


def test_nothing_is_expected_before_the_first_clip(outlooks: Outlooks) -> None:
    assert outlooks.expected([generation()]) is None


@pytest.mark.parametrize(
    ("left", "about", "wait", "shown"),
    [
        (15.0, False, 0.0, "15 s left"),
        (15.0, True, 6.0, "about 21 s left"),
        (None, False, 0.0, ""),
        (15.0, False, None, ""),
    ],
)
def test_the_board_shows_the_time_left_of_the_job_s_outlook(left: Any, about: bool, wait: Any, shown: str) -> None:
    outlook = JobOutlook(Outlook(left, about, 0, 0, None), wait, None)
    html = status(whole_job("in_progress"), outlook)
    assert (f'<b class="left">{shown}</b>' in html) if shown else ("left" not in html)
