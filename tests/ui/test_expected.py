"""The expected time of a comparison, from what an earlier clip took, and its time left on the board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.ui.test_render import job as whole_job
from wan_ui.job import Job
from wan_ui.jobs.estimates import Outlook
from wan_ui.jobs.outlooks import JobOutlook
from wan_ui.request import Generation, LoraUse, parse, resolve
from wan_ui.ui.comparison import expected, status

PROMPT = {"prompt": "a kite", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 10, "seed": 1}


def generation(model: str = "wan22_14b_t2v", low: float = 1.0, **fields: Any) -> Generation:
    (made,) = resolve(parse({"model": model, "prompts": [{**PROMPT, **fields}]}), str)
    uses = (LoraUse("high", "a.safetensors", 1.0, "0" * 64), LoraUse("low", "b.safetensors", low, "1" * 64))
    return replace(made, loras=uses)


def job(made: Generation, metadata: Mapping[str, Any]) -> Job:
    return cast(Job, SimpleNamespace(generations=(made,), clips=(SimpleNamespace(index=0, metadata=metadata),)))


def test_shared_high_noise_steps_are_counted_once() -> None:
    known = job(generation(), {"seconds": {"denoise": 100.0}, "steps": {"total": 10, "high_noise": 4}})
    four = [generation(low=low) for low in (0.2, 0.4, 0.6, 0.8)]
    assert expected(four, [known]) == 100 + 3 * 60
    assert expected([generation(seed=seed) for seed in (1, 2)], [known]) == 200


def test_a_clip_that_shared_steps_tells_what_one_step_takes() -> None:
    known = job(generation(), {"seconds": {"denoise": 60.0}, "steps": {"total": 10, "high_noise": 4, "shared": 4}})
    assert expected([generation()], [known]) == 100


def test_it_scales_with_the_pixels_and_the_decoding_is_on_top() -> None:
    known = job(generation(), {"seconds": {"denoise": 100.0, "decode": 10.0}, "steps": {"total": 10}})
    assert expected([generation(width=128)], [known]) == 220


def test_another_model_or_a_clip_without_times_tells_nothing() -> None:
    assert expected([generation()], []) is None
    assert expected([generation()], [job(generation("wan22_5b"), {"seconds": {"denoise": 1.0}})]) is None
    assert expected([generation()], [job(generation(), {})]) is None


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
