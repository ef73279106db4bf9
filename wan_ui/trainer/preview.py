"""The trainer's preview file -> frames, aligned to a render's and compared; it knows no jobs and no requests."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wan_ui.errors import InvalidRequest, PayloadTooLarge, VideoEncodingFailed
from wan_ui.media import video

MOST_BYTES = 512 * 2**20  # of the file
MOST_FRAMES = 1000  # the wire's own bound of num_frames
MOST_PIXELS = 4096 * 4096  # of one frame
MOST_PIXELS_IN_ALL = 2**28  # 768 MiB as RGB
FORMATS = ("WEBP", "GIF", "PNG", "JPEG")  # the last two: what the trainer writes for one frame
RATES = range(1, 121)  # frames per second that a request may ask for
COMMON_RATES = (16, 24, 30, 25, 12, 8, 10, 15, 20, 50, 60, 120)
SHORTEST = 1000 // RATES[-1]  # milliseconds of a frame
WEBP_QUALITY = 80  # the trainer's

WINDOW = 7  # pixels; SSIM's square window
SSIM_SIDE = 256  # the shorter side is averaged down to about this before SSIM, as its authors advise
MOST_PSNR = 100.0  # decibels; said of equal frames
FLOOR = 30.0  # decibels
CODEC_MARGIN = 3.0  # decibels under what the preview's own compression costs
SAME_SHAPES = 0.9  # correlation
FLAT = 3.0  # a clip that deviates less from its mean, in levels, shows no shapes to correlate
SHIFTED = 2.0  # levels; a correction of colour smaller than this is the compression's
MOST_FITTED = 400_000  # pixels
STILL = 45.0  # decibels between the frames of a clip in which nothing moves
SAMPLED = 4  # frames that are compressed again to learn what that costs

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

# What Pillow's readers raise on a file that lies; as in media.image.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    EOFError,
    MemoryError,
    AssertionError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class PreviewFacts:
    """What a preview file itself says. `rates`: the whole fps that its frame durations stand for; empty: unknown."""

    width: int
    height: int
    num_frames: int
    rates: tuple[int, ...]
    format: str

    @property
    def fps(self) -> int | None:
        """The likeliest of `rates`."""
        return next((rate for rate in (*COMMON_RATES, *self.rates) if rate in self.rates), None)


@dataclass(frozen=True)
class Preview:
    """A preview's frames, uint8, (T, H, W, 3), RGB; equal ones that the file merged into a long one stand apart."""

    frames: Frames
    facts: PreviewFacts


def decode(path: Path) -> Preview:
    """Read a WebP, GIF, MP4, PNG or JPEG, told apart by its content.

    Raises PayloadTooLarge beyond the limits, from the header where the format tells; InvalidRequest for a file that
    is none of these, or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise _unreadable("it is not here") from error
    if size > MOST_BYTES:
        raise PayloadTooLarge(f"The preview's file is larger than {MOST_BYTES // 2**20} MiB.", max_bytes=MOST_BYTES)
    # By its first bytes: ffmpeg would also follow a playlist that only calls itself an MP4.
    return _film(path) if start[4:8] == b"ftyp" else _images(path)


def first_frame(path: Path) -> Image.Image | None:
    """The first frame of a picture file, as RGB, without decoding the others; None for a film.

    Raises InvalidRequest and PayloadTooLarge as `decode`.
    """
    with path.open("rb") as file:
        if file.read(12)[4:8] == b"ftyp":
            return None
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check(*image.size, 1)
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise _unreadable("it is no image or video") from error
    except _UNREADABLE as error:
        raise _unreadable("it is damaged or cut off") from error


def _unreadable(problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"The preview cannot be read: {problem}. Give the trainer's WebP, or a GIF or MP4.",
        fields=[{"loc": "preview", "msg": problem}],
    )


def _check(width: int, height: int, count: int) -> None:
    if count > MOST_FRAMES:
        raise PayloadTooLarge(f"The preview has more than {MOST_FRAMES} frames: cut it.", max_frames=MOST_FRAMES)
    if width * height > MOST_PIXELS or width * height * count > MOST_PIXELS_IN_ALL:
        raise PayloadTooLarge(
            f"The preview is too large: {width} × {height}, {count} frames.", max_pixels=MOST_PIXELS_IN_ALL
        )


def _film(path: Path) -> Preview:
    try:
        info = video.probe(path)
        _check(info.width, info.height, info.num_frames)
        frames = video.read_frames(path, most_bytes=3 * MOST_PIXELS_IN_ALL)
    except (VideoEncodingFailed, ValueError) as error:  # ValueError: its size changes on the way
        raise _unreadable("it is damaged or cut off") from error
    rate = round(info.fps)
    height, width = frames.shape[1:3]
    return Preview(frames, PreviewFacts(width, height, len(frames), (rate,) if rate in RATES else (), "MP4"))


def _images(path: Path) -> Preview:
    try:
        with Image.open(path, formats=FORMATS) as image:
            kind = image.format or ""
            _check(*image.size, getattr(image, "n_frames", 1) if kind == "WEBP" else 1)  # a GIF's would be walked twice
            shown, durations = _walk(image)
    except UnidentifiedImageError as error:
        raise _unreadable("it is no image or video") from error
    except _UNREADABLE as error:
        raise _unreadable("it is damaged or cut off") from error
    unit = _unit(durations)
    repeats = [max(1, round(duration / unit)) for duration in durations] if unit else [1] * len(shown)
    height, width = shown.shape[1:3]
    _check(width, height, sum(repeats))
    frames = shown if set(repeats) == {1} else np.repeat(shown, repeats, axis=0)
    return Preview(frames, PreviewFacts(width, height, len(frames), _rates(unit, 10 if kind == "GIF" else 1), kind))


def _walk(image: Image.Image) -> tuple[Frames, list[int]]:
    """Every frame as RGB, and its milliseconds."""
    shown: list[Frames] = []
    durations: list[int] = []
    while True:
        try:
            image.seek(len(shown))
        except EOFError:
            break
        _check(*image.size, len(shown) + 1)
        shown.append(np.asarray(image.convert("RGB")))
        durations.append(max(0, int(image.info.get("duration", 0))))
    return np.stack(shown), durations


def _unit(durations: list[int]) -> int:
    """Milliseconds of one frame: all durations are multiples of it, or else the shortest; 0: the file has none."""
    told = [duration for duration in durations if duration]
    if len(durations) < 2 or not told:
        return 0
    common = reduce(math.gcd, told)
    return common if common >= SHORTEST else max(SHORTEST, min(told))


def _rates(unit: int, resolution: int) -> tuple[int, ...]:
    """The rates whose frames, 1000 // fps milliseconds as the trainer writes them, come to the unit in the file."""
    return tuple(rate for rate in RATES if unit and 1000 // rate // resolution * resolution == unit)


# Two clips, frame by frame


def align(facts: PreviewFacts, count: int, fps: int) -> tuple[tuple[int, int], ...]:
    """Pairs (frame of the render, frame of the preview) of a render of `count` frames.

    As many frames are the same frames, however fast they are played: fps enters no model. Else by the time at which
    each is shown, as far as both last.
    """
    if facts.num_frames == count:
        return tuple((index, index) for index in range(count))
    rate = fps if fps in facts.rates else facts.fps or fps
    pairs = ((index, math.floor(index * rate / fps + 1e-9)) for index in range(count))
    return tuple(pair for pair in pairs if pair[1] < facts.num_frames)


def resized(frames: Frames, width: int, height: int) -> Frames:
    """The frames at another size, by LANCZOS."""
    if frames.shape[1:3] == (height, width):
        return frames
    resample = Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), resample)) for frame in frames])


def psnr(one: Frames, other: Frames) -> float:
    """Peak signal-to-noise ratio of two frames, (H, W, 3), in decibels, over all bytes; MOST_PSNR for equal ones."""
    return _decibels(float(np.mean((one.astype(np.float32) - other) ** 2)))


def _decibels(error: float) -> float:
    return MOST_PSNR if error <= 0 else min(MOST_PSNR, 10 * math.log10(255**2 / error))


def ssim(one: Frames, other: Frames) -> float:
    """Structural similarity of two frames' luma (BT.601), -1…1, the mean over every uniform 7 × 7 window.

    K1 = 0.01, K2 = 0.03, as in Wang et al. (2004). Frames are averaged down first, by a whole factor, to a shorter
    side of about 256 pixels. A side under 7 pixels shrinks the window.
    """
    x, y = _luma(one), _luma(other)
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


def difference(one: Frames, other: Frames, gain: int = 4) -> Frames:
    """How far two clips or frames of one shape are apart, byte by byte, times `gain`; black: equal."""
    apart = np.abs(one.astype(np.int16) - other) * gain
    capped: Frames = np.minimum(apart, 255).astype(np.uint8)
    return capped


@dataclass(frozen=True)
class Cause:
    """One likely reason why a preview and a render differ."""

    id: str
    message: str


@dataclass(frozen=True)
class Comparison:
    """A preview beside a render: `pairs` as in align, and for each of them PSNR in decibels and SSIM.

    `causes` is empty when the two are the same video but for the preview's compression.
    """

    pairs: tuple[tuple[int, int], ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    causes: tuple[Cause, ...]

    @property
    def mean_psnr(self) -> float:
        return sum(self.psnr) / len(self.psnr)

    @property
    def mean_ssim(self) -> float:
        return sum(self.ssim) / len(self.ssim)

    def body(self) -> dict[str, Any]:
        """As JSON-ready data."""
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
        "size": "The preview is {preview}, this video {run}: the noise has another shape, so it is another video. "
        "Render at the preview's size.",
        "frames": "The preview has {preview} frames, this video {run}: the noise has another shape, so it is another "
        "video. Render as many frames as the preview has.",
        "fps": "The preview plays at {preview} frames per second, this video at {run}: the frames can be the same and "
        "the motion faster or slower. Set the fps of the preview.",
        "colour": "The shapes and motions are the same and the colours are shifted all over: a converted file, another "
        "decoder or VAE, or a player's colour range.",
        "seed_or_sampler": "Size and frames agree and the picture does not: another seed, sampler or shift, prompt, "
        "guidance, first frame or LoRA. The checklist says which.",
    }
)


def compare(preview: Preview, frames: Frames, fps: int) -> Comparison:
    """The preview beside a render's frames, uint8, (T, H, W, 3), at `fps`.

    A preview of another size is resized for the numbers. Another size or frame count ends the search for causes:
    the noise then has another shape, and the picture says nothing of the seed.
    """
    height, width = frames.shape[1:3]
    facts, given = preview.facts, preview.frames
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
    shown = frames[[one for one, _ in pairs]]
    other = resized(given[[two for _, two in pairs]], width, height)
    if not {"size", "frames"} & {cause.id for cause in causes}:
        causes += _picture(other, shown, facts.format)
    return Comparison(
        pairs,
        tuple(psnr(one, two) for one, two in zip(shown, other, strict=True)),
        tuple(ssim(one, two) for one, two in zip(shown, other, strict=True)),
        tuple(causes),
    )


def _stands_still(frames: Frames) -> bool:
    return all(psnr(frames[0], frame) >= STILL for frame in frames[1:])


def _cause(name: str, preview: object = None, run: object = None) -> Cause:
    return Cause(name, CAUSES[name].format(preview=preview, run=run))


def _picture(preview: Frames, run: Frames, kind: str) -> Iterator[Cause]:
    """Another picture, or the same one in other colours: the best linear map of colours settles which.

    What the preview's own compression does to the render is measured first: a fine texture costs it much.
    """
    sample, packed = _compressed(run, kind)
    cost = _error(packed, sample)
    floor = min(FLOOR, _decibels(cost) - CODEC_MARGIN)
    alike = SAME_SHAPES * _likeness(packed, sample)
    step = max(1, math.ceil(math.sqrt(run[..., 0].size / MOST_FITTED)))
    target, given = _colours(run[:, ::step, ::step]), _colours(preview[:, ::step, ::step])
    mapping, *_ = np.linalg.lstsq(np.column_stack([given, np.ones(len(given))]), target, rcond=None)
    mapped = np.clip(given @ mapping[:3] + mapping[3], 0, 255)
    before, after, shift = _error(given, target), _error(mapped, target), _error(mapped, given)
    if _decibels(after) < floor or _likeness(mapped, target) < alike:
        yield _cause("seed_or_sampler")
    elif _decibels(before) < floor or (shift >= max(SHIFTED**2, 2 * cost) and after <= before / 2):
        yield _cause("colour")


def _colours(frames: Frames) -> Floats:
    return frames.reshape(-1, 3).astype(np.float64)


def _error(one: Floats, other: Floats) -> float:
    return float(np.mean((one - other) ** 2))


def _likeness(one: Floats, other: Floats) -> float:
    """Correlation of what deviates from the mean colour: the same places, however weak. 1 where nothing does."""
    x, y = one - one.mean(axis=0), other - other.mean(axis=0)
    if max(x.std(), y.std()) < FLAT:
        return 1.0
    size = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else 0.0


def _compressed(run: Frames, kind: str) -> tuple[Floats, Floats]:
    """The colours of a few of the render's frames, and the same as the preview's format leaves them."""
    sample = run[np.unique(np.linspace(0, len(run) - 1, SAMPLED).astype(int))]
    packed = sample
    if kind in ("WEBP", "GIF", "JPEG"):
        packed = np.stack([_packed(frame, kind) for frame in sample])
    return _colours(sample), _colours(packed)


def _packed(frame: Frames, kind: str) -> Frames:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, quality=WEBP_QUALITY)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
