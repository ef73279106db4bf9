"""Lays out videos as one labelled image or video."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wan_ui.errors import VideoEncodingFailed
from wan_ui.files import folder_beside
from wan_ui.media import video
from wan_ui.media.clip_frames import allocate_frames, png

GROUND, INK, QUIET, EMPTY = (16, 16, 20), (236, 236, 240), (150, 150, 162), (34, 34, 40)
GAP = 8  # pixels around and between the cells
LARGEST_VIDEO = 2560 * 1440  # pixels; what players and chat programs still accept
LARGEST_SHEET = 48_000_000  # pixels
LONGEST_SIDE = 4096  # pixels; a limit of H.264 decoders
NARROWEST_CELL = 176  # pixels; narrower columns have no space for a label, so smaller videos are enlarged
FONT_SIZES = (16, 34)  # pixels, between which it follows the cells' size
LINES_OF_COLUMN, LINES_OF_ROW = 2, 6
GREATEST_SCALE = 8.0

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Board:
    """What to lay out: the labels, ("",) where there are none, and per (column, row) a video or a text in its place."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: Mapping[tuple[int, int], Path | str]

    @property
    def clips(self) -> tuple[Path, ...]:
        """Each file once, in the order of the cells."""
        return tuple(dict.fromkeys(cell for cell in self.cells.values() if isinstance(cell, Path)))


@dataclass(frozen=True)
class Layout:
    """Positions in pixels: the whole, a cell's size, the space of row labels (`head`) and column labels (`top`)."""

    width: int
    height: int
    cell: tuple[int, int]
    head: int
    top: int
    font: int

    def corner(self, column: int, row: int) -> tuple[int, int]:
        """x and y of a cell's upper left corner."""
        width, height = self.cell
        return self.head + GAP + column * (width + GAP), self.top + GAP + row * (height + GAP)


def write(path: Path, board: Board, metadata: Mapping[str, Any]) -> None:
    """Writes the board as an MP4 with its labels; a shorter video keeps its last frame.

    The frames are in a file beside `path` while they are assembled. Raises VideoEncodingFailed, also for a board
    without clips, and DiskFull.
    """
    infos = _infos(board)
    layout, ground = _drawn(board, infos, LARGEST_VIDEO)
    count = max(info.num_frames for info in infos.values())
    fps = max(1, round(max(info.fps for info in infos.values())))
    with folder_beside(path, "the grid", _not_written) as folder:
        # On disk: a minute of a large grid would not fit into memory.
        frames = allocate_frames(folder / "frames", (count, layout.height, layout.width, 3))
        frames[:] = ground
        for file in board.clips:
            shown = video.read_frames(file)
            for column, row in _places(board, file):
                for index, (frame, x, y) in enumerate(_placed(shown, layout, column, row)):
                    frames[index, y : y + frame.shape[0], x : x + frame.shape[1]] = frame
                frames[len(shown) :, y : y + frame.shape[0], x : x + frame.shape[1]] = frame
        video.write(path, frames, fps, metadata)
        del frames


def _not_written(reason: str | None) -> VideoEncodingFailed:
    return VideoEncodingFailed(f"The grid could not be written: {reason}.")


def sheet(board: Board, frame: int) -> bytes:
    """Frame `frame`, from 0, of every video, as a PNG with the labels; a shorter video shows its last one.

    Raises VideoEncodingFailed, also for a board without clips.
    """
    layout, ground = _drawn(board, _infos(board), LARGEST_SHEET)
    for file in board.clips:
        shown = video.read_frames(file)
        at = min(max(frame, 0), len(shown) - 1)
        for column, row in _places(board, file):
            for still, x, y in _placed(shown[at : at + 1], layout, column, row):
                ground[y : y + still.shape[0], x : x + still.shape[1]] = still
    return png(ground)


def lay_out(columns: tuple[str, ...], rows: tuple[str, ...], clip: tuple[int, int], largest: int) -> Layout:
    """The largest layout of cells of the clip's shape that stays within `largest` pixels; even sides."""
    smallest, biggest = FONT_SIZES

    def at(scale: float) -> Layout:
        # 4:2:0 colour needs even sides; even cells need no cropping.
        width, height = (max(2, round(side * scale / 2) * 2) for side in clip)
        size = max(smallest, min(biggest, min(width, height) // 14))
        font = _font(size)
        head = 0
        if any(rows):
            # As wide as its longest word, but no wider than a cell.
            longest = max(font.getlength(word) for label in rows for word in [label[:22], *label.split()])
            head = min(int(longest) + 2 * GAP, max(width, size * 9))
        lines = max((len(_wrapped(label, font, width - GAP, LINES_OF_COLUMN)) for label in columns if label), default=0)
        top = lines * _line(size) + GAP if lines else 0
        whole = (head + GAP + len(columns) * (width + GAP), top + GAP + len(rows) * (height + GAP))
        return Layout(whole[0] + whole[0] % 2, whole[1] + whole[1] % 2, (width, height), head, top, size)

    scale = min(GREATEST_SCALE, max(1.0, NARROWEST_CELL / clip[0]))
    layout = at(scale)
    while layout.width * layout.height > largest or max(layout.width, layout.height) > LONGEST_SIDE:
        if scale < 0.02:
            break
        scale *= min(
            0.98, sqrt(largest / (layout.width * layout.height)), LONGEST_SIDE / max(layout.width, layout.height)
        )
        layout = at(scale)
    return layout


def labels(board: Board, layout: Layout) -> Image.Image:
    """The background: labels, and the texts of cells without a video."""
    picture = Image.new("RGB", (layout.width, layout.height), GROUND)
    draw = ImageDraw.Draw(picture)
    font = _font(layout.font)
    width, height = layout.cell
    for column, label in enumerate(board.columns):
        x, _ = layout.corner(column, 0)
        lines = _wrapped(label, font, width - GAP, LINES_OF_COLUMN)
        _draw_text(draw, lines, font, x, layout.top - len(lines) * _line(layout.font), INK)
    for row, label in enumerate(board.rows):
        _, y = layout.corner(0, row)
        most = max(1, min(LINES_OF_ROW, height // _line(layout.font)))
        _draw_text(draw, _wrapped(label, font, layout.head - GAP, most), font, GAP, y, INK)
    for (column, row), cell in board.cells.items():
        if isinstance(cell, str):
            x, y = layout.corner(column, row)
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=EMPTY)
            _draw_text(draw, _wrapped(cell, font, width - 2 * GAP, 2), font, x + GAP, y + GAP, QUIET)
    return picture


def _infos(board: Board) -> dict[Path, video.VideoInfo]:
    if not board.clips:
        raise VideoEncodingFailed("No cell is finished yet.")
    return {file: video.probe(file) for file in board.clips}


def _drawn(board: Board, infos: Mapping[Path, video.VideoInfo], largest: int) -> tuple[Layout, Pixels]:
    clip = max(info.width for info in infos.values()), max(info.height for info in infos.values())
    layout = lay_out(board.columns, board.rows, clip, largest)
    return layout, np.array(labels(board, layout))


def _places(board: Board, file: Path) -> Iterator[tuple[int, int]]:
    return (place for place, cell in board.cells.items() if cell == file)


def _placed(frames: Pixels, layout: Layout, column: int, row: int) -> Iterator[tuple[Pixels, int, int]]:
    """Each frame as large as its cell allows, with its x and y."""
    x, y = layout.corner(column, row)
    width, height = layout.cell
    scale = min(width / frames.shape[2], height / frames.shape[1])
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    left, top = x + (width - size[0]) // 2, y + (height - size[1]) // 2
    for frame in frames:
        if size == (frame.shape[1], frame.shape[0]):
            yield frame, left, top
        else:
            yield np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)), left, top


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise VideoEncodingFailed("Pillow was built without FreeType, so no labels can be drawn. Install its wheel.")
    return font


def _line(size: int) -> int:
    return round(size * 1.3)


def _draw_text(
    draw: ImageDraw.ImageDraw, lines: list[str], font: ImageFont.FreeTypeFont, x: int, y: int, ink: tuple[int, int, int]
) -> None:
    for index, line in enumerate(lines):
        draw.text((x, y + index * _line(round(font.size))), line, fill=ink, font=font)


def _length(font: ImageFont.FreeTypeFont, text: str, end: int) -> float:
    return font.getlength(text[:end])


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """The text in lines of at most `width` pixels, at most `most` of them, the last one ending in … if it is cut."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < most:
        # At least one letter, or a narrow column would loop forever.
        fits = max(1, bisect_right(range(1, len(rest) + 1), width, key=partial(_length, font, rest)))
        if fits < len(rest) and len(lines) == most - 1:
            while fits > 1 and font.getlength(rest[:fits] + "…") > width:
                fits -= 1
            return [*lines, rest[:fits].rstrip() + "…"]
        space = rest.rfind(" ", 0, fits + 1)
        end = fits if fits == len(rest) or space <= 0 else space
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines
