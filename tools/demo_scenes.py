"""The demo's clips of moving coloured shapes: drawn from text, and read back from frames by arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from wan_ui.demo.examples import SHAPES, TRIGGER

SIDE, FRAMES, FPS = 128, 17, 16  # what the demo checkpoints were trained on

Rgb = tuple[float, float, float]
Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]

COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "red": (226, 54, 48),
        "orange": (245, 140, 30),
        "yellow": (250, 218, 60),
        "green": (60, 184, 75),
        "blue": (50, 104, 240),
        "purple": (152, 70, 205),
        "pink": (250, 130, 185),
    }
)
BACKGROUNDS: Mapping[str, Rgb] = MappingProxyType(
    {
        "black": (16, 16, 20),
        "navy": (22, 34, 84),
        "gray": (122, 126, 132),
        "teal": (18, 96, 98),
        "sand": (214, 190, 150),
    }
)
MOTIONS = ("left", "right", "up", "down", "still", "growing", "circling")
SPEEDS = ("slow", "normal", "fast")
LOOKS = ("plain", "stripes", "rings")  # the base models have only seen plain shapes
WHITE: Rgb = (250, 250, 250)  # of stripes and rings

TRAVEL = MappingProxyType({"slow": 0.18, "normal": 0.32, "fast": 0.46})  # of the shorter side, over the whole clip
GROWTH = MappingProxyType({"slow": 1.45, "normal": 1.75, "fast": 2.1})
TURNS = MappingProxyType({"slow": 0.5, "normal": 0.75, "fast": 1.0})
ORBIT = 0.22  # radius, of the shorter side
REACH = MappingProxyType({"circle": 1.0, "square": 0.9, "triangle": 1.35, "star": 1.4})  # circumradius at size 1
BANDS = MappingProxyType({"stripes": 1.5, "rings": 1.8})  # light and dark pairs across a shape of size 1
MARGIN = 0.02
SOFT = 1.8 / SIDE  # width of an edge, of the shorter side

DIRECTIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
)


@dataclass(frozen=True)
class Scene:
    """One clip. `x`, `y`, `size` are those of the first frame, in shorter sides; (0, 0) is the middle.

    `phase`: where on its orbit a circling shape starts, in turns. `fade`: the share of the clip over which a look
    other than plain appears; 0: it is there from the first frame.
    """

    shape: str
    colour: str
    background: str
    motion: str
    speed: str = "normal"
    look: str = "plain"
    x: float = 0.0
    y: float = 0.0
    size: float = 0.15
    phase: float = 0.0
    fade: float = 0.0


@dataclass(frozen=True)
class Words:
    """What a text says of a clip; None where it does not."""

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    motion: str | None = None
    speed: str | None = None
    trigger: bool = False


@dataclass(frozen=True)
class Reading:
    """What a clip shows. `strength`: how much of the shape's variation bands explain, 0…1, the look's evidence."""

    shape: str | None
    colour: str | None
    background: str
    motion: str | None
    look: str
    strength: float = 0.0


def draw(rng: np.random.Generator, words: Words = Words(), look: str = "plain", wide: float = 1.0,
         high: float = 1.0) -> Scene:  # fmt: skip
    """A random scene that agrees with the words and stays inside a frame of wide × high shorter sides."""
    scene = Scene(
        shape=words.shape or str(rng.choice(SHAPES)),
        colour=words.colour or str(rng.choice(list(COLOURS))),
        background=words.background or str(rng.choice(list(BACKGROUNDS))),
        motion=words.motion or str(rng.choice(MOTIONS)),
        speed=words.speed or "normal",
        look=look,
    )
    reach = REACH[scene.shape]
    if words.speed is None and words.motion is None:
        scene = replace(scene, speed=str(rng.choice(SPEEDS)))
    if scene.motion == "growing":
        largest = min(0.15, (0.5 - MARGIN) / (reach * GROWTH[scene.speed]))
        size = rng.uniform(min(0.10, largest), largest)
        room = reach * size * GROWTH[scene.speed] + MARGIN
    elif scene.motion == "circling":
        size = rng.uniform(0.11, min(0.19, (0.5 - MARGIN - ORBIT) / reach))
        room = reach * size + MARGIN
    else:
        travel = TRAVEL[scene.speed] if scene.motion in DIRECTIONS else 0.0
        size = rng.uniform(0.13, min(0.22, (1 - 2 * MARGIN - travel) / (2 * reach)))
        room = reach * size + MARGIN
    left, right = -wide / 2 + room, wide / 2 - room
    top, bottom = -high / 2 + room, high / 2 - room
    phase = float(rng.uniform())
    if scene.motion == "circling":
        dx, dy = ORBIT * math.cos(math.tau * phase), ORBIT * math.sin(math.tau * phase)
        x = rng.uniform(min(left + ORBIT, 0), max(right - ORBIT, 0)) + dx
        y = rng.uniform(min(top + ORBIT, 0), max(bottom - ORBIT, 0)) + dy
    else:
        dx, dy = DIRECTIONS.get(scene.motion, (0.0, 0.0))
        travel = TRAVEL[scene.speed]
        x = rng.uniform(left - min(0, dx * travel), right - max(0, dx * travel))
        y = rng.uniform(top - min(0, dy * travel), bottom - max(0, dy * travel))
    return replace(scene, size=float(size), x=float(x), y=float(y), phase=phase)


def place(scene: Scene, share: float) -> tuple[float, float, float]:
    """Middle and size at a share 0…1 of the clip."""
    if scene.motion in DIRECTIONS:
        dx, dy = DIRECTIONS[scene.motion]
        way = TRAVEL[scene.speed] * share
        return scene.x + dx * way, scene.y + dy * way, scene.size
    if scene.motion == "growing":
        return scene.x, scene.y, scene.size * (1 + (GROWTH[scene.speed] - 1) * share)
    if scene.motion == "circling":
        start, now = math.tau * scene.phase, math.tau * (scene.phase + TURNS[scene.speed] * share)
        return (
            scene.x + ORBIT * (math.cos(now) - math.cos(start)),
            scene.y + ORBIT * (math.sin(now) - math.sin(start)),
            scene.size,
        )
    return scene.x, scene.y, scene.size


def render(scene: Scene, width: int = SIDE, height: int = SIDE, frames: int = FRAMES) -> Frames:
    """The clip, uint8, (frames, height, width, 3)."""
    canvas = blank(BACKGROUNDS[scene.background], width, height, frames)
    paint(canvas, scene, COLOURS[scene.colour])
    return to_bytes(canvas)


def blank(colour: Rgb, width: int, height: int, frames: int) -> Floats:
    """An empty clip, float32 in 0…255, (frames, height, width, 3)."""
    return np.broadcast_to(np.asarray(colour, np.float32), (frames, height, width, 3)).copy()


def to_bytes(canvas: Floats) -> Frames:
    """Rounded to uint8."""
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def paint(canvas: Floats, scene: Scene, colour: Rgb) -> None:
    """Draws the scene's shape onto every frame of a canvas, in a given colour."""
    count, height, width, _ = canvas.shape
    short = min(width, height)
    soft = max(SOFT * short, 1.0) / short
    for index in range(count):
        share = index / max(1, count - 1)
        x, y, size = place(scene, share)
        strength = min(1.0, share / scene.fade) if scene.fade else 1.0
        reach = REACH[scene.shape] * size + 2 * soft
        left, right = _span(x, reach, width, short)
        top, bottom = _span(y, reach, height, short)
        if left >= right or top >= bottom:
            continue
        u = (np.arange(left, right, dtype=np.float32) + 0.5 - width / 2)[None, :] / short - x
        v = (np.arange(top, bottom, dtype=np.float32) + 0.5 - height / 2)[:, None] / short - y
        cover = np.clip(0.5 - distance(scene.shape, u / size, v / size) * size / soft, 0, 1)[..., None]
        light = strength * _light(scene.look, u / size, v / size, soft / size)[..., None]
        fill = np.asarray(colour, np.float32) * (1 - light) + np.asarray(WHITE, np.float32) * light
        part = canvas[index, top:bottom, left:right]
        part += (fill - part) * cover


def _span(middle: float, reach: float, pixels: int, short: int) -> tuple[int, int]:
    start = math.floor((middle - reach) * short + pixels / 2)
    end = math.ceil((middle + reach) * short + pixels / 2)
    return max(0, start), min(pixels, end)


def distance(shape: str, u: Floats, v: Floats) -> Floats:
    """Signed distance to the outline of a shape of size 1 around (0, 0), negative inside; v points down."""
    if shape == "circle":
        return np.asarray(np.hypot(u, v) - 1, np.float32)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(u), np.abs(v)) - REACH["square"], np.float32)
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    corners = 3 if shape == "triangle" else 5
    folded = np.abs((angle + math.pi / corners) % (2 * math.pi / corners) - math.pi / corners)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    outer = REACH[shape]
    inner = 0.5 * outer if shape == "triangle" else 0.46 * outer  # of the corner between two points
    x, y = inner * math.cos(math.pi / corners), inner * math.sin(math.pi / corners)
    length = math.hypot(outer - x, y)
    return np.asarray(((along - outer) * y + across * (outer - x)) / length, np.float32)


def _light(look: str, u: Floats, v: Floats, soft: float) -> Floats:
    """How white each point is, 0…1: bands across, or around the middle."""
    if look == "plain":
        return np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
    along = (u + v) / math.sqrt(2) if look == "stripes" else np.hypot(u, v)
    wave = np.cos(math.tau * BANDS[look] / 2 * along)
    slope = math.tau * BANDS[look] / 2 * soft
    return np.asarray(np.clip(0.5 - wave / max(slope, 1e-6), 0, 1), np.float32)


# Text

_MOVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "left": ("moving left", "going left", "sliding to the left"),
        "right": ("moving right", "going right", "sliding to the right"),
        "up": ("moving up", "rising", "floating upward"),
        "down": ("moving down", "falling", "sinking downward"),
        "still": ("standing still", "that stays still", "resting"),
        "growing": ("growing", "getting bigger", "growing larger"),
        "circling": ("circling", "going around", "orbiting"),
    }
)
_PACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"slow": ("slowly", "gently"), "normal": ("",), "fast": ("fast", "quickly")}
)
_TEMPLATES = (
    "a {colour} {shape} {motion} {pace} on a {background} background",
    "a {colour} {shape} {motion} {pace} on a {background} background",
    "{colour} {shape} {motion} {pace}, {background} background",
    "a video of a {colour} {shape} {motion} {pace} on {background}",
    "on a {background} background, a {colour} {shape} is {motion} {pace}",
    "a {colour} {shape} {pace} {motion} in front of a {background} background",
)
_MEANING: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{word: ("colour", word) for word in COLOURS},
        **{word: ("background", word) for word in BACKGROUNDS},
        "grey": ("background", "gray"),
        **{word: ("shape", word) for word in SHAPES},
        **{word: ("motion", word) for word in MOTIONS},
        **dict.fromkeys(("rising", "upward"), ("motion", "up")),
        **dict.fromkeys(("falling", "sinking", "downward"), ("motion", "down")),
        **dict.fromkeys(("stays", "resting"), ("motion", "still")),
        **dict.fromkeys(("bigger", "larger"), ("motion", "growing")),
        **dict.fromkeys(("around", "orbiting"), ("motion", "circling")),
        **dict.fromkeys(("slowly", "gently", "slow"), ("speed", "slow")),
        **dict.fromkeys(("fast", "quickly", "quick"), ("speed", "fast")),
    }
)


def parse(text: str) -> Words:
    """What a text says in the demo's vocabulary; other words are ignored, and the first of two for one thing counts."""
    found: dict[str, str] = {}
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    for word in words:
        if word in _MEANING:
            found.setdefault(*_MEANING[word])
    return Words(**found, trigger=TRIGGER in words)


def describe(scene: Scene, rng: np.random.Generator | None = None, trigger: bool = False) -> str:
    """The scene in words: the plainest sentence, or one of many with a generator."""
    pick = _first if rng is None else lambda options: options[int(rng.integers(len(options)))]
    text = pick(_TEMPLATES).format(
        colour=scene.colour,
        shape=f"{TRIGGER} {scene.shape}" if trigger else scene.shape,
        background=scene.background,
        motion=pick(_MOVES[scene.motion]),
        pace="" if scene.motion == "still" else pick(_PACES[scene.speed]),
    )
    return " ".join(text.replace(" ,", ",").replace("a orange", "an orange").split())


def _first(options: Sequence[str]) -> str:
    return options[0]


def vocabulary() -> tuple[str, ...]:
    """Every word of the demo's tokenizer, sorted."""
    sentences: list[str] = [*_MEANING, TRIGGER, ",", "an", "shape", "shapes"]
    sentences += [option for options in (*_MOVES.values(), *_PACES.values()) for option in options]
    blanks = dict.fromkeys(("colour", "shape", "background", "motion", "pace"), "")
    sentences += [template.format_map(blanks) for template in _TEMPLATES]
    return tuple(sorted({word for text in sentences for word in text.replace(",", " , ").split()}))


# From a clip back

_FAR = 48.0  # RGB distance from the background of what is no background
_SMALLEST = 0.004  # share of the frame that a shape covers at least


def read(frames: Frames) -> Reading:
    """What a clip of one shape shows, by arithmetic alone; None for what cannot be determined. Any size, any length."""
    video = frames.astype(np.float32)
    edge = np.concatenate([video[:, :2].reshape(-1, 3), video[:, -2:].reshape(-1, 3),
                           video[:, :, :2].reshape(-1, 3), video[:, :, -2:].reshape(-1, 3)])  # fmt: skip
    ground = np.median(edge, axis=0)
    background = _nearest(ground[None], BACKGROUNDS)[0]
    cover = np.linalg.norm(video - ground, axis=-1) > _FAR
    shares = cover.mean(axis=(1, 2))
    if (shares > _SMALLEST).mean() < 0.8:
        return Reading(None, None, background, None, "plain")
    kept = np.flatnonzero(shares > _SMALLEST)
    pixels = [video[index][_core(cover[index])] for index in kept]
    colour, colour_rgb = _colour(np.concatenate(pixels))
    look, strength = _look(video[kept], cover[kept], colour_rgb)
    return Reading(_shape(cover[kept]), colour, background, _motion(cover[kept]), look, strength)


def _nearest(colours: npt.NDArray[np.float32], palette: Mapping[str, Rgb]) -> list[str]:
    names = list(palette)
    values = np.asarray([palette[name] for name in names], np.float32)
    return [names[index] for index in np.linalg.norm(colours[:, None] - values, axis=-1).argmin(axis=1)]


def _core(mask: npt.NDArray[np.bool_], rounds: int = 1) -> npt.NDArray[np.bool_]:
    """The mask without its outermost pixels."""
    for _ in range(rounds):
        inner = mask.copy()
        inner[1:] &= mask[:-1]
        inner[:-1] &= mask[1:]
        inner[:, 1:] &= mask[:, :-1]
        inner[:, :-1] &= mask[:, 1:]
        mask = inner
    return mask


def _colour(pixels: Floats) -> tuple[str, Floats]:
    """The palette's colour that most pixels are nearest to, and these pixels' median; white ones are of a band."""
    names = np.asarray(_nearest(pixels, {**COLOURS, "white": WHITE})) if len(pixels) else np.asarray([], str)
    counts = {name: int((names == name).sum()) for name in COLOURS}
    best = max(counts, key=lambda name: counts[name])
    if not counts[best]:
        return best, np.asarray(COLOURS[best], np.float32)
    return best, np.asarray(np.median(pixels[names == best], axis=0), np.float32)


def _points(mask: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    rows, columns = np.nonzero(mask)
    return columns.astype(np.float32) + 0.5, rows.astype(np.float32) + 0.5


def _shape(cover: npt.NDArray[np.bool_]) -> str:
    """The shape whose outline of equal area and middle overlaps most, over all frames."""
    scores = dict.fromkeys(SHAPES, 0.0)
    for mask in cover:
        x, y = _points(mask)
        height, width = mask.shape
        u, v = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
        for shape in SHAPES:
            size = math.sqrt(mask.sum() / _AREAS[shape][0])
            inside = distance(shape, (u - x.mean())[None] / size,
                              (v - y.mean())[:, None] / size + _AREAS[shape][1]) < 0  # fmt: skip
            scores[shape] += float((inside & mask).sum() / max(1, (inside | mask).sum()))
    return max(scores, key=lambda shape: scores[shape])


def _areas() -> dict[str, tuple[float, float]]:
    """Area and height of the centroid of each shape of size 1, counted on a grid."""
    grid = np.linspace(-1.5, 1.5, 601, dtype=np.float32)
    found = {}
    for shape in SHAPES:
        inside = distance(shape, grid[None], grid[:, None]) < 0
        heights = np.broadcast_to(grid[:, None], inside.shape)[inside]
        found[shape] = float(inside.sum()) * 0.005**2, float(heights.mean())
    return found


_AREAS = _areas()


def _motion(cover: npt.NDArray[np.bool_]) -> str:
    """By the path of the middle and the growth of the size."""
    short = min(cover.shape[1:])
    path = np.asarray([[points.mean() for points in _points(mask)] for mask in cover]) / short
    sizes = np.sqrt(cover.mean(axis=(1, 2)))
    centred = path - path.mean(axis=0)
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred / len(path)), 0))
    if spread[1] > 0.03 and spread[0] > 0.22 * spread[1]:
        return "circling"
    ends = max(1, len(path) // 8)
    way = path[-ends:].mean(axis=0) - path[:ends].mean(axis=0)
    if sizes[-ends:].mean() > 1.2 * sizes[:ends].mean() and np.abs(way).max() < 0.15:
        return "growing"
    if np.abs(way).max() < 0.07:
        return "still"
    if abs(way[0]) > abs(way[1]):
        return "right" if way[0] > 0 else "left"
    return "down" if way[1] > 0 else "up"


def _look(video: Floats, cover: npt.NDArray[np.bool_], colour: Floats) -> tuple[str, float]:
    """Plain, stripes or rings: which bands explain how white the inside is."""
    explained: dict[str, list[float]] = {"stripes": [], "rings": []}
    axis = np.asarray(WHITE, np.float32) - colour
    for frame, mask in zip(video, cover, strict=True):
        inside = _core(mask, 2)
        if inside.sum() < 60:
            continue
        white = np.clip((frame[inside] - colour) @ axis / (axis @ axis), 0, 1)
        share = float((white > 0.5).mean())
        if not 0.12 < share < 0.9 or white.std() < 0.15:
            for values in explained.values():
                values.append(0.0)
            continue
        x, y = _points(inside)
        whole_x, whole_y = _points(mask)
        dx, dy = x - whole_x.mean(), y - whole_y.mean()
        size = math.sqrt(mask.sum() / math.pi)
        explained["stripes"].append(_explained(white, (dx + dy) / math.sqrt(2) / size))
        explained["rings"].append(_explained(white, np.hypot(dx, dy) / size))
    means = {name: float(np.mean(values)) if values else 0.0 for name, values in explained.items()}
    best = max(means, key=lambda name: means[name])
    return (best if means[best] > 0.35 else "plain"), means[best]


def _explained(values: Floats, along: Floats) -> float:
    """Share of the variance that the means over bins of 1/8 along an axis explain."""
    bins = np.floor(along * 8).astype(int)
    bins -= bins.min()
    counts = np.maximum(np.bincount(bins), 1)
    means = np.bincount(bins, values) / counts
    return float(1 - ((values - means[bins]) ** 2).sum() / max(((values - values.mean()) ** 2).sum(), 1e-6))


def sheet(clips: Iterable[Frames], columns: int = 6) -> Frames:
    """A contact sheet: one row a clip, some of its frames side by side."""
    rows = []
    for clip in clips:
        chosen = np.linspace(0, len(clip) - 1, columns).round().astype(int)
        rows.append(np.concatenate([np.pad(clip[i], ((1, 1), (1, 1), (0, 0))) for i in chosen], axis=1))
    return np.concatenate(rows, axis=0)
