"""A preview file against a render: the numbers of a known pair, each fault by its name, and files that lie."""

from __future__ import annotations

import contextlib
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools.demo_scenes import Words, draw, render
from wan_ui.errors import InvalidRequest, PayloadTooLarge, WanUIError
from wan_ui.media import video
from wan_ui.trainer.sample_comparison import MOST_PSNR, align, compare, difference, psnr, ssim
from wan_ui.trainer.sample_files import MOST_FRAMES, Frames, SampleFacts, decode

pytestmark = pytest.mark.slow

FPS = 16


def clip(seed: int = 1, width: int = 160, height: int = 96, frames: int = 17, words: Words | None = None) -> Frames:
    """Moving shapes, another scene for another seed."""
    rng = np.random.default_rng(seed)
    return render(draw(rng, words or Words(), wide=width / height), width, height, frames)


def saved(path: Path, frames: Frames, fps: int = FPS, **options: Any) -> Path:
    """As the trainer saves its samples."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    made = {"quality": 80, "loop": 0, **options}
    first.save(path, save_all=True, append_images=rest, duration=1000 // fps, **made)
    return path


def causes(path: Path, frames: Frames, fps: int = FPS) -> list[str]:
    return [cause.id for cause in compare(decode(path), frames, fps).causes]


@pytest.mark.parametrize("seed", range(6))
def test_a_webp_of_the_same_clip(tmp_path: Path, seed: int) -> None:
    frames = clip(seed)
    preview = decode(saved(tmp_path / "a.webp", frames))
    assert preview.facts == SampleFacts(160, 96, 17, (16,), "WEBP")
    found = compare(preview, frames, FPS)
    assert found.causes == ()
    assert found.mean_psnr > 30 and min(found.psnr) > 30 and found.mean_ssim > 0.9
    assert found.pairs == tuple((index, index) for index in range(17))
    assert found.body()["psnr"] == [round(value, 3) for value in found.psnr]


def brighter(frames: Frames) -> Frames:
    return (frames * 0.9).astype(np.uint8)


def warmer(frames: Frames) -> Frames:
    return np.clip(frames + np.array([9.0, 0, -9]), 0, 255).astype(np.uint8)


def limited(frames: Frames) -> Frames:
    return (frames * (219 / 255) + 16).astype(np.uint8)


def swapped(frames: Frames) -> Frames:
    return frames[..., ::-1]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fault", [brighter, warmer, limited, swapped])
def test_a_shift_of_all_colours_is_named(tmp_path: Path, fault: Callable[[Frames], Frames], seed: int) -> None:
    frames = clip(seed)
    assert causes(saved(tmp_path / "a.webp", fault(frames)), frames) == ["colour"]


@pytest.mark.parametrize("seed", range(4))
def test_another_seed_is_named(tmp_path: Path, seed: int) -> None:
    assert causes(saved(tmp_path / "a.webp", clip(seed)), clip(seed + 100)) == ["seed_or_sampler"]


@pytest.mark.parametrize("seed", range(4))
def test_another_seed_of_the_same_colours_is_named(tmp_path: Path, seed: int) -> None:
    """Where almost all of the picture is the same, and no threshold of the mean alone would do."""
    words = Words(shape="circle", colour="blue", background="navy", motion="right")
    path = saved(tmp_path / "a.webp", clip(seed, words=words))
    assert causes(path, clip(seed + 100, words=words)) == ["seed_or_sampler"]


def test_another_size_is_named_and_nothing_is_said_of_the_seed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.webp", clip(1, 176, 96))
    assert causes(path, clip(2)) == ["size"]
    found = compare(decode(path), clip(1), FPS)
    assert "176 × 96" in found.causes[0].message and "160 × 96" in found.causes[0].message
    assert len(found.psnr) == 17


def test_another_number_of_frames_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.webp", clip(1, frames=13))
    found = compare(decode(path), clip(1), FPS)
    assert [cause.id for cause in found.causes] == ["frames"]
    assert found.pairs == tuple((index, index) for index in range(13))


def test_another_fps_is_named_and_the_frames_still_agree(tmp_path: Path) -> None:
    found = compare(decode(saved(tmp_path / "a.webp", clip(), fps=24)), clip(), FPS)
    assert [cause.id for cause in found.causes] == ["fps"]
    assert min(found.psnr) > 30


def test_two_faults_are_both_named(tmp_path: Path) -> None:
    assert causes(saved(tmp_path / "a.webp", clip(1, 128, 96), fps=24), clip(2)) == ["size", "fps"]
    assert causes(saved(tmp_path / "b.webp", clip(1), fps=24), clip(2)) == ["fps", "seed_or_sampler"]


def test_a_texture_that_compresses_badly_is_still_the_same_clip(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 96, 160, 3), np.uint8)
    found = compare(decode(saved(tmp_path / "a.webp", noise)), noise, FPS)
    assert found.mean_psnr < 30 and found.causes == ()
    assert causes(tmp_path / "a.webp", noise[:, ::-1]) == ["seed_or_sampler"]


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_a_gif_and_an_mp4_of_the_same_clip(tmp_path: Path, kind: str) -> None:
    frames, path = clip(), tmp_path / f"a.{kind}"
    if kind == "gif":
        saved(path, frames)
    else:
        video.write(path, frames, FPS, {})
    preview = decode(path)
    assert FPS in preview.facts.rates and preview.facts.num_frames == 17
    found = compare(preview, frames, FPS)
    assert found.causes == () and found.mean_psnr > 30
    assert causes(path, clip(50)) == ["seed_or_sampler"]
    assert causes(path, frames, 24) == ["fps"]


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_preview_of_one_frame(tmp_path: Path, kind: str) -> None:
    frames = clip(frames=1)
    Image.fromarray(frames[0]).save(tmp_path / f"a.{kind}", quality=95)
    found = compare(decode(tmp_path / f"a.{kind}"), frames, FPS)
    assert found.causes == () and found.mean_psnr > 30


@pytest.mark.parametrize("fps", [8, 10, 12, 15, 16, 20, 24, 25, 30, 50, 60])
def test_the_frames_durations_are_a_rate(tmp_path: Path, fps: int) -> None:
    facts = decode(saved(tmp_path / "a.webp", clip(frames=3), fps=fps)).facts
    assert fps in facts.rates and facts.fps == fps


def test_equal_frames_that_the_file_merged_are_counted(tmp_path: Path) -> None:
    frames = clip()
    held = frames[[0, 1, 1, 1, 2, 3, 3, 4, 5]]
    for kind in ("webp", "gif"):
        preview = decode(saved(tmp_path / f"a.{kind}", held))
        assert len(preview.frames) == 9, kind
        assert compare(preview, held, FPS).causes == ()


def test_a_clip_that_stands_still_is_one_frame_in_its_file(tmp_path: Path) -> None:
    still = clip(words=Words(motion="still"))
    path = saved(tmp_path / "a.webp", still)
    assert decode(path).facts.num_frames == 1
    assert causes(path, still) == []
    assert causes(path, clip()) == ["frames"]


def test_frames_by_index_or_by_time() -> None:
    def facts(count: int, *rates: int) -> SampleFacts:
        return SampleFacts(8, 8, count, rates, "WEBP")

    assert align(facts(3, 24), 3, 16) == ((0, 0), (1, 1), (2, 2))
    assert align(facts(5, 16), 3, 16) == ((0, 0), (1, 1), (2, 2))
    assert align(facts(2, 16), 4, 16) == ((0, 0), (1, 1))
    assert align(facts(7, 24), 4, 16) == ((0, 0), (1, 1), (2, 3), (3, 4))
    assert align(facts(3, 8), 6, 16) == ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2))
    assert align(facts(3), 5, 16) == ((0, 0), (1, 1), (2, 2))


def test_the_numbers_by_hand() -> None:
    black, grey = np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 10, np.uint8)
    assert psnr(black, black) == MOST_PSNR
    assert psnr(black, grey) == pytest.approx(10 * math.log10(255**2 / 100))
    assert ssim(grey, grey) == pytest.approx(1)
    c1 = 2.55**2
    assert ssim(black, grey) == pytest.approx(c1 / (100 + c1))
    assert difference(black, grey).max() == 40 and difference(grey, np.full_like(grey, 250)).min() == 255
    assert ssim(black[:3, :4], black[:3, :4]) == pytest.approx(1)


def test_ssim_is_the_mean_over_every_window() -> None:
    rng = np.random.default_rng(3)
    one = np.repeat(rng.integers(0, 256, (12, 15, 1), np.uint8), 3, axis=2)
    other = np.clip(one + rng.normal(0, 20, (12, 15, 1)), 0, 255).astype(np.uint8)
    x, y = one[..., 0].astype(float), other[..., 0].astype(float)
    values = []
    for row in range(6):
        for column in range(9):
            a, b = x[row : row + 7, column : column + 7], y[row : row + 7, column : column + 7]
            shared = ((a - a.mean()) * (b - b.mean())).mean()
            top = (2 * a.mean() * b.mean() + 2.55**2) * (2 * shared + 7.65**2)
            values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + 2.55**2) * (a.var() + b.var() + 7.65**2)))
    assert ssim(one, other) == pytest.approx(np.mean(values))


def test_a_large_frame_is_averaged_down_before_ssim() -> None:
    large = np.kron(np.random.default_rng(0).integers(0, 256, (256, 300, 1)), np.ones((3, 3, 3))).astype(np.uint8)
    small = large[::3, ::3]
    assert ssim(large, large[::-1]) == pytest.approx(ssim(small, small[::-1]))


# Files that lie


def many_frames(path: Path, count: int, kind: str) -> Path:
    """A WebP of tiny frames written by its container's own rules, since an encoder merges equal ones."""
    if kind == "gif":
        frames = [Image.new("P", (2, 2), index % 2) for index in range(count)]
        for index, frame in enumerate(frames):
            frame.putpalette([index % 256, index // 256, 0, 255, 255, 255])
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
        return path
    Image.new("RGB", (2, 2)).save(path, "WEBP")
    picture = path.read_bytes()[12:]
    body = b"VP8X" + struct.pack("<LB3x", 10, 2) + bytes((1, 0, 0, 1, 0, 0))
    body += b"ANIM" + struct.pack("<LLH", 6, 0, 0)
    entry = bytes(6) + bytes((1, 0, 0, 1, 0, 0)) + (62).to_bytes(3, "little") + b"\0" + picture
    body += (b"ANMF" + struct.pack("<L", len(entry)) + entry) * count
    path.write_bytes(b"RIFF" + struct.pack("<L", 4 + len(body)) + b"WEBP" + body)
    return path


def test_the_written_container_is_sound(tmp_path: Path) -> None:
    assert decode(many_frames(tmp_path / "a.webp", 7, "webp")).facts == SampleFacts(2, 2, 7, (16,), "WEBP")


@pytest.mark.parametrize(("kind", "count"), [("webp", 10_000), ("webp", MOST_FRAMES + 1), ("gif", MOST_FRAMES + 1)])
def test_too_many_frames(tmp_path: Path, kind: str, count: int) -> None:
    with pytest.raises(PayloadTooLarge, match="more than 1000 frames"):
        decode(many_frames(tmp_path / f"a.{kind}", count, kind))


def test_one_frame_that_lasts_for_an_hour_is_not_many(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in clip(frames=3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[62, 6_200_000, 62])
    with pytest.raises(PayloadTooLarge):
        decode(tmp_path / "a.webp")


def test_too_many_pixels(tmp_path: Path) -> None:
    Image.new("1", (8192, 4096)).save(tmp_path / "a.png")
    with pytest.raises(PayloadTooLarge, match="8192 × 4096"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"\0\0\0\x20ftypisom", b"#EXTM3U\n/etc/passwd", b"\x89PNG\r\n"],
)
def test_what_is_no_preview(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        decode(tmp_path / "a.mp4")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        decode(tmp_path / "a.webp")


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_any_damage_is_said_as_ours(tmp_path: Path, kind: str) -> None:
    whole = saved(tmp_path / f"a.{kind}", clip(width=32, height=32, frames=5)).read_bytes()
    chance = random.Random(3)
    for _ in range(40):
        data = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        for _ in range(chance.randrange(1, 6)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "bad").write_bytes(data)
        with contextlib.suppress(WanUIError):
            decode(tmp_path / "bad")
