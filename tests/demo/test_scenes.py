"""Text to clip and back: what is drawn is what is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tools import demo_scenes as scenes
from tools.demo_scenes import Scene, Words


def _scenes(count: int, seed: int, look: str = "plain") -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [scenes.draw(rng, Words(speed=str(rng.choice(scenes.SPEEDS))), look) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize("look", scenes.LOOKS)
def test_the_reader_reads_what_was_drawn(look: str, count: int) -> None:
    for scene in _scenes(count, 1, look):
        found = scenes.read(scenes.render(scene))
        assert (found.shape, found.colour, found.background, found.motion, found.look) == (
            scene.shape, scene.colour, scene.background, scene.motion, look,
        ), scene  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("width", "height", "frames"), [(96, 96, 9), (192, 128, 17), (128, 224, 33), (64, 64, 5)])
def test_any_size_and_length_can_be_drawn_and_read(width: int, height: int, frames: int, count: int) -> None:
    short = min(width, height)
    rng = np.random.default_rng(2)
    for _ in range(count):
        scene = scenes.draw(rng, wide=width / short, high=height / short)
        clip = scenes.render(scene, width, height, frames)
        assert clip.shape == (frames, height, width, 3) and clip.dtype == np.uint8
        found = scenes.read(clip)
        assert (found.colour, found.motion) == (scene.colour, scene.motion), scene
        assert found.shape == scene.shape or short == 64, scene


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, pytest.param(25, marks=pytest.mark.soak)])
def test_it_is_read_through_noise_and_blur_as_a_small_autoencoder_leaves_them(count: int) -> None:
    rng = np.random.default_rng(3)
    for scene in _scenes(count, 3):
        clip = scenes.render(scene).astype(np.float32)
        clip[:, 1:-1, 1:-1] = (clip[:, :-2, 1:-1] + clip[:, 2:, 1:-1] + clip[:, 1:-1, :-2] + clip[:, 1:-1, 2:]) / 4
        found = scenes.read(scenes.to_bytes(clip + rng.normal(0, 6, clip.shape).astype(np.float32)))
        assert (found.shape, found.colour, found.motion, found.look) == (
            scene.shape, scene.colour, scene.motion, "plain",
        ), scene  # fmt: skip


def test_a_shape_stays_inside_the_frame() -> None:
    for scene in _scenes(200, 4):
        for share in np.linspace(0, 1, 9):
            x, y, size = scenes.place(scene, float(share))
            reach = scenes.REACH[scene.shape] * size
            assert max(abs(x), abs(y)) + reach <= 0.5 + 1e-6, scene


def test_an_empty_or_noisy_clip_shows_nothing() -> None:
    empty = scenes.to_bytes(scenes.blank(scenes.BACKGROUNDS["navy"], 128, 128, 17))
    assert scenes.read(empty) == scenes.Reading(None, None, "navy", None, "plain")


def test_a_look_can_fade_in_over_a_plain_first_frame() -> None:
    scene = replace(_scenes(1, 5)[0], look="stripes", fade=0.3)
    clip, plain = scenes.render(scene), scenes.render(replace(scene, look="plain"))
    assert np.array_equal(clip[0], plain[0]) and not np.array_equal(clip[-1], plain[-1])
    assert scenes.read(clip).look == "stripes"


def test_every_sentence_is_understood_and_in_the_vocabulary() -> None:
    rng, known = np.random.default_rng(6), set(scenes.vocabulary())
    for index, scene in enumerate(_scenes(200, 6)):
        text = scenes.describe(scene, rng if index else None, trigger=index % 2 == 0)
        found = scenes.parse(text)
        assert (found.shape, found.colour, found.background, found.motion) == (
            scene.shape, scene.colour, scene.background, scene.motion,
        ), text  # fmt: skip
        assert found.trigger == (index % 2 == 0)
        assert found.speed == (None if scene.motion == "still" or scene.speed == "normal" else scene.speed)
        assert set(text.replace(",", " , ").split()) <= known, text


def test_words_of_another_world_are_passed_over() -> None:
    assert scenes.parse("A Photo of a RED panda, falling slowly!") == Words(colour="red", motion="down", speed="slow")
    assert scenes.parse("") == Words()


def test_the_same_seed_draws_the_same_scene_and_words_are_kept() -> None:
    words = Words(shape="star", colour="pink", background="teal", motion="circling", speed="fast")
    one, other = (scenes.draw(np.random.default_rng(7), words) for _ in range(2))
    assert one == other
    assert Words(one.shape, one.colour, one.background, one.motion, one.speed) == words


def test_a_contact_sheet_shows_a_row_for_each_clip() -> None:
    clips = [scenes.render(scene) for scene in _scenes(3, 8)]
    assert scenes.sheet(clips, columns=4).shape == (3 * 130, 4 * 130, 3)
