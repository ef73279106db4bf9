"""Estimates of the time that is left: pure arithmetic over timings, and its accuracy over simulated jobs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wan_ui.engine.result import Clip, Phase, Progress
from wan_ui.jobs.estimates import (
    JobWork,
    Outlook,
    RunningClip,
    SizeKey,
    Timing,
    computed_steps,
    estimate,
    forwards_per_step,
    high_noise_steps,
    measured,
    outlook,
    size_key,
)
from wan_ui.jobs.store import Store
from wan_ui.jobs.timings import Timings
from wan_ui.request import Generation, LoraUse

DEVICE = "GPU"
MODEL = "wan21_14b"
PAIR = "wan22_14b_t2v"
WITHIN = 0.2


CLIP = Generation(
    model=MODEL,
    recipe="reference",
    prompt="",
    neg="",
    width=832,
    height=480,
    num_frames=81,
    fps=16,
    seed=7,
    sample_steps=20,
    guidance_scale=4.0,
    image=None,
    loras=(),
    requested_width=832,
    requested_height=480,
    requested_num_frames=81,
)


def clip(**fields: Any) -> Generation:
    return replace(CLIP, **fields)


TIMING = Timing(load=30.0, prepare=2.0, forward=1.0, decode=8.0, encode=3.0)
KNOWN = {size_key(clip(), DEVICE): TIMING}


def running(phase: Phase, step: int = 0, index: int = 0, passed: float = 0.0, **fields: Any) -> RunningClip:
    return RunningClip(index, replace(Progress(phase, step, 20), **fields), passed)


def test_a_waiting_job_takes_all_its_clips_and_the_last_encoding() -> None:
    work = JobWork((clip(), clip(seed=8)))
    assert outlook(work, KNOWN, DEVICE) == Outlook(2 * (2 + 40 + 8) + 3, False, 0, 40, 0.0)
    loads = replace(work, loads=True)
    assert outlook(loads, KNOWN, DEVICE).seconds_left == 133


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (running("text", passed=1.0), 1 + 40 + 8 + 3),
        (running("denoise", 5, seconds_per_step=2.0), 30 + 8 + 3),
        (running("decode", 20, fraction=0.0), 8 + 3),
        (running("decode", 20, passed=4.0, fraction=0.5), 4 + 3),
        (running("encode", 20, passed=1.5, fraction=0.5), 1.5),
        (running("loading", passed=15.0, bytes_done=1, bytes_total=2), 15 + 2 + 40 + 8 + 3),
        (running("downloading", passed=15.0, bytes_done=1, bytes_total=4), 45 + 30 + 2 + 40 + 8 + 3),
        (running("checking", passed=0.5), 1.5 + 40 + 8 + 3),
    ],
)
def test_what_is_left_of_the_running_clip(now: RunningClip, left: float) -> None:
    assert outlook(JobWork((clip(),), running=now), KNOWN, DEVICE).seconds_left == pytest.approx(left)


def test_a_clip_whose_model_is_not_loaded_still_loads_it_while_the_checkpoint_is_checked() -> None:
    work = JobWork((clip(),), running=running("checking", passed=5.0), loads=True)
    assert outlook(work, KNOWN, DEVICE).seconds_left == 25 + 2 + 40 + 8 + 3


def test_checking_belongs_to_the_load_where_there_was_one() -> None:
    seconds = {"checking": 8.0, "loading": 22.0, "text": 2.0, "denoise": 40.0, "decode": 8.0}
    assert measured(clip(), seconds, 3.0, 20) == TIMING
    del seconds["loading"]
    assert measured(clip(), {**seconds, "checking": 0.5}, 3.0, 20) == replace(TIMING, load=0.0, prepare=2.5)


def test_how_long_a_model_loads_is_known_from_any_of_its_sizes() -> None:
    key, small = size_key(clip(), DEVICE), size_key(clip(width=416, height=240), DEVICE)
    known = {key: replace(TIMING, load=0.0), small: TIMING, replace(small, model="wan21_1b"): replace(TIMING, load=5.0)}
    for wanted in (key, small, size_key(clip(width=480, height=272), DEVICE)):
        found = estimate(wanted, known)
        assert found is not None and found.timing.load == 30.0


def test_what_only_the_first_run_of_all_prepared_is_not_expected_again() -> None:
    """The clip that loads a model also reads the text encoder and chooses kernels; another size tells what is usual."""
    key, half = size_key(clip(), DEVICE), size_key(clip(width=416), DEVICE)
    cold = replace(TIMING, prepare=20.0, decode=16.0)
    warm = Timing(load=0.0, prepare=2.0, forward=0.4, decode=4.0, encode=2.0)
    assert cold.is_cold and not warm.is_cold
    found = estimate(key, {key: cold, half: warm})
    assert found is not None and not found.about
    assert found.timing == replace(cold, prepare=2.0, decode=8.0)  # encode stays 3: less than twice the half's
    assert estimate(key, {key: cold, replace(half, variant="other"): warm}).timing == cold  # type: ignore[union-attr]
    again = cold.after(replace(warm, prepare=3.0))
    assert estimate(key, {key: again, half: warm}).timing == again  # type: ignore[union-attr]


def test_a_slower_run_slows_everything_that_follows() -> None:
    work = JobWork((clip(), clip(seed=8)), running=running("denoise", 10, seconds_per_step=4.0))
    slow = 1 + 10 / 12  # half as fast as learned, and 10 steps measured against the weight of 2
    assert outlook(work, KNOWN, DEVICE).seconds_left == pytest.approx(slow * (20 + 8) + 2 + slow * (40 + 8 + 3))


def test_steps_of_the_whole_job_are_counted() -> None:
    work = JobWork((clip(), clip(seed=8)), frozenset({0}), running("denoise", 5, index=1, seconds_per_step=2.0))
    found = outlook(work, KNOWN, DEVICE)
    assert (found.steps_done, found.steps_total) == (25, 40)
    assert found.fraction == pytest.approx(1 - 41 / 103)


def test_a_new_size_is_scaled_from_the_nearest_and_marked() -> None:
    small = size_key(clip(width=416, height=240), DEVICE)
    near, far = size_key(clip(width=480, height=272), DEVICE), size_key(clip(), DEVICE)
    known = {far: replace(TIMING, forward=100.0), near: TIMING}
    found = estimate(small, known)
    assert found is not None and found.about
    assert found.timing.forward == pytest.approx(small.work / near.work)
    assert found.timing.decode == pytest.approx(8 * small.pixels / near.pixels)
    assert found.timing.prepare == 2.0
    other = estimate(replace(small, model="wan21_1b"), known)
    assert other is not None and other.timing.load == 0.0  # how long another model loads says nothing
    assert estimate(replace(small, device="another"), known) is None


def test_attention_makes_large_videos_dearer_than_their_tokens() -> None:
    small, large = size_key(clip(width=416, height=240), DEVICE), size_key(clip(width=1248, height=720), DEVICE)
    assert large.work / small.work > 1.5 * large.tokens / small.tokens


def test_without_any_earlier_run_the_steps_tell() -> None:
    assert outlook(JobWork((clip(),)), {}, DEVICE) == Outlook(None, True, 0, 20, None)
    found = outlook(JobWork((clip(),), running=running("denoise", 4, seconds_per_step=2.0)), {}, DEVICE)
    assert found.about and found.seconds_left == pytest.approx(16 * 2 + 4)


def test_high_noise_steps_follow_shift_and_boundary() -> None:
    pair = clip(model=PAIR, sample_steps=4, boundary=0.875)
    assert [high_noise_steps(replace(pair, flow_shift=shift)) for shift in (3.0, 5.0, 8.0, 12.0)] == [2, 2, 3, 3]
    assert high_noise_steps(replace(pair, switch_step=1)) == 1
    assert high_noise_steps(clip()) == 0


def test_cells_that_differ_on_the_low_noise_side_share_the_high_steps() -> None:
    cells = [
        clip(model=PAIR, boundary=0.875, flow_shift=5.0, loras=(LoraUse("low", "a", scale, "0" * 64),))
        for scale in (0.5, 1.0)
    ]
    high = high_noise_steps(cells[0])
    assert 0 < high < 20
    assert computed_steps(cells) == [20, 20 - high]


def test_what_the_first_run_alone_prepared_is_forgotten_at_once() -> None:
    first, later = replace(TIMING, prepare=20.0), replace(TIMING, prepare=2.0)
    assert first.after(later).prepare == 2.0
    assert later.after(first).prepare == 11.0


def test_timings_are_kept(store: Store) -> None:
    timings, wanted = Timings(store), clip(guidance_scale=1.0)
    made = Clip(
        np.zeros((1, 2, 2, 3), np.uint8), 2, 2, 1, 16, 1, {"device": DEVICE, "steps": {"total": 20, "shared": 8}}
    )
    seconds = {"checking": 1.0, "loading": 5.0, "text": 1.0, "denoise": 24.0, "decode": 4.0}
    timings.record(wanted, made, seconds, 2.0)
    key = size_key(wanted, DEVICE)
    assert forwards_per_step(wanted) == 1
    assert timings.known == {key: Timing(load=6.0, prepare=1.0, forward=2.0, decode=4.0, encode=2.0)}
    timings.record(wanted, made, {"text": 1.0, "denoise": 12.0, "decode": 4.0}, 2.0)
    assert timings.known[key] == Timing(load=6.0, prepare=1.0, forward=1.5, decode=4.0, encode=2.0, runs=2)
    assert Timings(store).known == timings.known


def test_what_several_gpus_took_together_is_kept_as_the_time_of_one(store: Store) -> None:
    timings, wanted = Timings(store), clip(guidance_scale=5.0)
    made = Clip(np.zeros((1, 2, 2, 3), np.uint8), 2, 2, 1, 16, 1, {"device": DEVICE, "split": "guidance 2"})
    timings.record(wanted, made, {"denoise": 20.0, "decode": 4.0}, 2.0)
    (timing,) = timings.known.values()
    assert (timing.forward, timing.decode) == (20.0 / wanted.sample_steps, 4.0)  # two forwards a step, 40 s


# Simulated jobs: a machine whose steps vary by 10 %, whose first run of a size is slower, and jobs of mixed sizes.


class Machine:
    """A simulated GPU: the true seconds of each phase, with noise."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen: set[SizeKey] = set()

    def clip(self, wanted: Generation) -> Timing:
        key = size_key(wanted, DEVICE)
        slow = 1.0 if key in self.seen else 1.15  # kernels are chosen and compiled
        self.seen.add(key)
        base = key.work / size_key(clip(), DEVICE).work
        pixels = key.pixels / size_key(clip(), DEVICE).pixels

        def noisy(value: float) -> float:
            return value * slow * self.random.uniform(0.9, 1.1)

        return Timing(0.0, noisy(2.0), noisy(1.0 * base), noisy(8.0 * pixels), noisy(3.0 * pixels))


def errors_at_a_quarter(seed: int) -> Iterator[float]:
    """Relative errors of the seconds left, read at 25 % of each job from the second of its size on."""
    machine = Machine(seed)
    known: dict[SizeKey, Timing] = {}
    sizes = [(416, 240, 33), (832, 480, 81), (1280, 720, 49)]
    for number in range(14):
        width, height, frames = machine.random.choice(sizes)
        clips = [
            clip(width=width, height=height, num_frames=frames, seed=each)
            for each in range(machine.random.choice((1, 1, 3)))
        ]
        truth = [machine.clip(wanted) for wanted in clips]
        key = size_key(clips[0], DEVICE)
        lasts = [each.prepare + 40 * each.forward + each.decode for each in truth]
        whole = sum(lasts) + truth[-1].encode
        if key in known:
            passed, index = 0.25 * whole, 0
            while passed > lasts[index]:
                passed -= lasts[index]
                index += 1
            now = truth[index]
            step = int(max(0.0, passed - now.prepare) / (2 * now.forward))
            progress = Progress("denoise", min(step, 20), 20, seconds_per_step=2 * now.forward if step else None)
            found = outlook(JobWork(clips, frozenset(range(index)), RunningClip(index, progress)), known, DEVICE)
            assert found.seconds_left is not None and not found.about, number
            yield abs(found.seconds_left - 0.75 * whole) / (0.75 * whole)
        for each in truth:
            known = {**known, key: known[key].after(each) if key in known else each}


def test_at_a_quarter_nine_of_ten_are_within_a_fifth() -> None:
    errors = [error for seed in range(20) for error in errors_at_a_quarter(seed)]
    assert len(errors) > 150
    assert sum(error <= WITHIN for error in errors) >= 0.9 * len(errors)
