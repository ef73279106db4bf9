"""A training sample against our render, frame by frame: alignment, PSNR, SSIM, and likely causes of a difference."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wan_ui.trainer.sample_files import WEBP_QUALITY, Frames, SampleFacts, SampleVideo

WINDOW = 7  # pixels; SSIM's square window
SSIM_SIDE = 256  # the shorter side is averaged down to about this before SSIM, as its authors advise
MOST_PSNR = 100.0  # decibels; reported for equal frames
FLOOR = 30.0  # decibels
CODEC_MARGIN = 3.0  # decibels under what the sample's own compression costs
SAME_SHAPES = 0.9  # correlation
FLAT = 3.0  # a video that deviates less from its mean, in levels, shows no shapes to correlate
SHIFTED = 2.0  # levels; a smaller correction of colour is due to compression
MOST_FITTED = 400_000  # pixels
STILL = 45.0  # decibels between the frames of a video without motion
GAIN = 4  # of the difference that is shown
SAMPLED = 4  # frames that are compressed again to measure what that costs

Floats = npt.NDArray[np.float64]


def align(facts: SampleFacts, count: int, fps: int) -> tuple[tuple[int, int], ...]:
    """Pairs (frame of the render, frame of the sample) of a render of `count` frames at `fps`.

    Equal counts are paired by index, whatever the frame rates: no model reads the frame rate. Otherwise by the time at
    which each frame is shown, up to the shorter end.
    """
    if facts.num_frames == count:
        return tuple((index, index) for index in range(count))
    rate = fps if fps in facts.rates else facts.fps or fps
    pairs = ((index, math.floor(index * rate / fps + 1e-9)) for index in range(count))
    return tuple(pair for pair in pairs if pair[1] < facts.num_frames)


def resized(frames: Frames, width: int, height: int) -> Frames:
    """The frames at another size in pixels, by LANCZOS."""
    if frames.shape[1:3] == (height, width):
        return frames
    resample = Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), resample)) for frame in frames])


def psnr(first: Frames, second: Frames) -> float:
    """Peak signal-to-noise ratio of two frames, (H, W, 3), in decibels, over all bytes; MOST_PSNR for equal ones.

    10 · log10(255² / mean squared error).
    """
    return _decibels(float(np.mean((first.astype(np.float32) - second) ** 2)))


def _decibels(error: float) -> float:
    return MOST_PSNR if error <= 0 else min(MOST_PSNR, 10 * math.log10(255**2 / error))


def ssim(first: Frames, second: Frames) -> float:
    """Structural similarity of two frames' luma (BT.601), -1…1, the mean over every uniform 7 × 7 window.

    K1 = 0.01, K2 = 0.03, as in Wang et al. (2004). Frames are averaged down first, by a whole factor, to a shorter
    side of about 256 pixels. A side under 7 pixels shrinks the window.
    """
    x, y = _luma(first), _luma(second)
    window = min(WINDOW, *x.shape)
    mean_x, mean_y = _means(x, window), _means(y, window)
    var_x = _means(x * x, window) - mean_x**2
    var_y = _means(y * y, window) - mean_y**2
    shared = _means(x * y, window) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * shared + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(value.mean())


def _luma(frame: Frames) -> Floats:
    luma: Floats = frame @ np.array([0.299, 0.587, 0.114])
    factor = max(1, round(min(luma.shape) / SSIM_SIDE))
    height, width = (side // factor * factor for side in luma.shape)
    blocks = luma[:height, :width].reshape(height // factor, factor, width // factor, factor)
    averaged: Floats = blocks.mean(axis=(1, 3))
    return averaged


def _means(values: Floats, window: int) -> Floats:
    """The mean of every window × window square inside the image, by running sums."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows = sums[window:] - sums[:-window]
    inner: Floats = rows[:, window:] - rows[:, :-window]
    return inner / window**2


def difference(first: Frames, second: Frames) -> Frames:
    """The absolute difference of two videos or frames of one shape, byte by byte, times GAIN; black: equal."""
    amplified = np.abs(first.astype(np.int16) - second) * GAIN
    capped: Frames = np.minimum(amplified, 255).astype(np.uint8)
    return capped


@dataclass(frozen=True)
class Cause:
    """One likely reason why a training sample and a render differ."""

    id: str
    message: str


@dataclass(frozen=True)
class Comparison:
    """A training sample and a render: `pairs` as in align, and for each of them PSNR in decibels and SSIM.

    `causes` is empty when the two are the same video but for the sample's compression.
    """

    pairs: tuple[tuple[int, int], ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    causes: tuple[Cause, ...]

    @property
    def mean_psnr(self) -> float:
        """Mean over the pairs, in decibels."""
        return sum(self.psnr) / len(self.psnr)

    @property
    def mean_ssim(self) -> float:
        """Mean over the pairs, -1…1."""
        return sum(self.ssim) / len(self.ssim)

    def body(self) -> dict[str, Any]:
        """The comparison as JSON-ready data."""
        return {
            "pairs": [list(pair) for pair in self.pairs],
            "psnr": [round(value, 3) for value in self.psnr],
            "ssim": [round(value, 5) for value in self.ssim],
            "mean_psnr": round(self.mean_psnr, 3),
            "mean_ssim": round(self.mean_ssim, 5),
            "causes": [{"id": cause.id, "message": cause.message} for cause in self.causes],
        }


CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "size": "The training sample is {sample}, this video {run}. Different size means different noise: the video "
        "cannot match. Render at the sample's size.",
        "frames": "The training sample has {sample} frames, this video {run}. Different length means different noise: "
        "the video cannot match. Render as many frames as the sample has.",
        "fps": "The training sample plays at {sample} frames per second, this video at {run}: the frames can be the "
        "same and the motion faster or slower. Set the sample's fps.",
        "colour": "Shapes and motion are the same and all colours are shifted: a converted file, another decoder or "
        "VAE, or a player's colour range.",
        "seed_or_sampler": "Size and length agree and the picture does not: another seed, sampler or shift, prompt, "
        "guidance, first frame or LoRA. The checklist says which.",
    }
)


def compare(sample: SampleVideo, frames: Frames, fps: int) -> Comparison:
    """Compares a training sample with a render's frames, uint8, (T, H, W, 3), at `fps`.

    A sample of another size is resized for the numbers. Another size or frame count ends the search for causes: the
    noise then has another shape, and the picture tells nothing about the seed.
    """
    height, width = frames.shape[1:3]
    facts, given = sample.facts, sample.frames
    if len(given) == 1 and facts.format in ("WEBP", "GIF") and _stands_still(frames):
        # An encoder writes equal frames as one picture, and how many there were is lost.
        facts, given = replace(facts, num_frames=len(frames)), np.repeat(given, len(frames), axis=0)
    pairs = align(facts, len(frames), fps)
    causes: list[Cause] = []
    if (facts.width, facts.height) != (width, height):
        causes.append(_cause("size", f"{facts.width} × {facts.height}", f"{width} × {height}"))
    if facts.num_frames != len(frames):
        causes.append(_cause("frames", facts.num_frames, len(frames)))
    if facts.rates and fps not in facts.rates:
        causes.append(_cause("fps", facts.fps, fps))
    ours = frames[[index for index, _ in pairs]]
    theirs = resized(given[[index for _, index in pairs]], width, height)
    if not {"size", "frames"} & {cause.id for cause in causes}:
        causes += _picture_causes(theirs, ours, facts.format)
    return Comparison(
        pairs,
        tuple(psnr(x, y) for x, y in zip(ours, theirs, strict=True)),
        tuple(ssim(x, y) for x, y in zip(ours, theirs, strict=True)),
        tuple(causes),
    )


def _stands_still(frames: Frames) -> bool:
    return all(psnr(frames[0], frame) >= STILL for frame in frames[1:])


def _cause(name: str, sample: object = None, run: object = None) -> Cause:
    return Cause(name, CAUSES[name].format(sample=sample, run=run))


def _picture_causes(theirs: Frames, ours: Frames, kind: str) -> Iterator[Cause]:
    """Another picture, or the same one in other colours: the best linear map of colours (least squares) decides.

    The loss of the sample's own compression is measured first, on the render: a fine texture costs much.
    """
    original, packed = _compressed(ours, kind)
    cost = _error(packed, original)
    floor = min(FLOOR, _decibels(cost) - CODEC_MARGIN)
    alike = SAME_SHAPES * _likeness(packed, original)
    step = max(1, math.ceil(math.sqrt(ours[..., 0].size / MOST_FITTED)))
    target, given = _colours(ours[:, ::step, ::step]), _colours(theirs[:, ::step, ::step])
    mapping, *_ = np.linalg.lstsq(np.column_stack([given, np.ones(len(given))]), target, rcond=None)
    mapped = np.clip(given @ mapping[:3] + mapping[3], 0, 255)
    before, after, shift = _error(given, target), _error(mapped, target), _error(mapped, given)
    if _decibels(after) < floor or _likeness(mapped, target) < alike:
        yield _cause("seed_or_sampler")
    elif _decibels(before) < floor or (shift >= max(SHIFTED**2, 2 * cost) and after <= before / 2):
        yield _cause("colour")


def _colours(frames: Frames) -> Floats:
    return frames.reshape(-1, 3).astype(np.float64)


def _error(first: Floats, second: Floats) -> float:
    return float(np.mean((first - second) ** 2))


def _likeness(first: Floats, second: Floats) -> float:
    """Correlation of the deviations from the mean colour; 1 where nothing deviates."""
    x, y = first - first.mean(axis=0), second - second.mean(axis=0)
    if max(x.std(), y.std()) < FLAT:
        return 1.0
    size = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else 0.0


def _compressed(run: Frames, kind: str) -> tuple[Floats, Floats]:
    """The colours of a few of the render's frames, before and after compression in the sample's format."""
    chosen = run[np.unique(np.linspace(0, len(run) - 1, SAMPLED).astype(int))]
    packed = chosen
    if kind in ("WEBP", "GIF", "JPEG"):
        packed = np.stack([_packed(frame, kind) for frame in chosen])
    return _colours(chosen), _colours(packed)


def _packed(frame: Frames, kind: str) -> Frames:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, quality=WEBP_QUALITY)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
