"""Clips as one labelled picture or video: where they stand, what is over them, what stands for a missing one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wan_ui.errors import VideoEncodingFailed
from wan_ui.media import grid, video
from wan_ui.media.grid import Board, lay_out

pytestmark = pytest.mark.slow

COLOURS = {(0, 0): (200, 40, 40), (1, 0): (40, 160, 60), (0, 1): (40, 60, 200)}


def flat(path: Path, colour: tuple[int, int, int], count: int = 3, width: int = 96, height: int = 64) -> Path:
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = colour
    video.write(path, frames, 16, {})
    return path


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Two columns and two rows; the last cell has no clip, and one clip is shorter."""
    cells: dict[tuple[int, int], Path | str] = {
        place: flat(tmp_path / f"{index}.mp4", colour, count=2 if index else 4)
        for index, (place, colour) in enumerate(COLOURS.items())
    }
    return Board(("scale 0", "scale 1"), ("seed 42", "seed 43"), {**cells, (1, 1): "failed"})


def middles(board: Board, frame: npt.NDArray[np.uint8]) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
    layout = lay_out(board.columns, board.rows, (96, 64), grid.LARGEST_VIDEO)
    assert frame.shape[:2] == (layout.height, layout.width)
    found = {}
    for place in board.cells:
        x, y = layout.corner(*place)
        found[place] = frame[y + layout.cell[1] // 2, x + layout.cell[0] // 2].astype(int)
    return found


def test_every_cell_stands_in_its_place_in_every_frame(tmp_path: Path, board: Board) -> None:
    grid.write(tmp_path / "grid.mp4", board, {"request": {"model": "x"}})
    frames = video.read_frames(tmp_path / "grid.mp4")
    assert len(frames) == 4
    assert video.probe(tmp_path / "grid.mp4").fps == 16
    assert video.read_metadata(tmp_path / "grid.mp4") == {"request": {"model": "x"}}
    for frame in frames:  # the shorter ones hold their last
        seen = middles(board, frame)
        for place, colour in COLOURS.items():
            assert np.abs(seen[place] - colour).max() < 12
        assert np.abs(seen[1, 1] - grid.EMPTY).max() < 12


def test_the_labels_can_be_read_in_a_frame(tmp_path: Path, board: Board) -> None:
    grid.write(tmp_path / "grid.mp4", board, {})
    frame = video.read_frames(tmp_path / "grid.mp4")[1].astype(int)
    layout = lay_out(board.columns, board.rows, (96, 64), grid.LARGEST_VIDEO)
    drawn = np.array(grid.labels(board, layout)).astype(int)
    heads = np.zeros(frame.shape[:2], bool)
    heads[: layout.top] = heads[:, : layout.head] = True
    assert (drawn[heads].max(axis=-1) > 200).sum() > 200  # there is something to read
    assert np.abs(frame - drawn)[heads].mean() < 6
    # And they are these labels: others fit worse.
    other = np.array(grid.labels(Board(("scale 8", "scale 8"), ("seed 88", "seed 88"), {}), layout)).astype(int)
    assert np.abs(frame - other)[heads].mean() > 2 * np.abs(frame - drawn)[heads].mean()


def test_a_sheet_shows_the_asked_frame(tmp_path: Path) -> None:
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[3] = 255
    video.write(tmp_path / "clip.mp4", frames, 16, {})
    board = Board(("",), ("",), {(0, 0): tmp_path / "clip.mp4"})
    for frame, bright in ((2, False), (3, True), (99, False)):
        picture = Image.open(io.BytesIO(grid.sheet(board, frame)))
        assert picture.format == "PNG"
        assert bool(np.array(picture).mean() > 128) is bright


@pytest.mark.parametrize("clip", [(64, 64), (832, 480), (480, 832), (1280, 720), (64, 2048)])
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (4, 1), (1, 4), (8, 8), (64, 1), (1, 64)])
def test_no_layout_is_larger_than_players_take(clip: tuple[int, int], columns: int, rows: int) -> None:
    heads = tuple(f"scale {index / 10}" for index in range(columns))
    sides = tuple(f"a prompt with many words, and a longwordthatdoesnotend {index}" for index in range(rows))
    layout = lay_out(heads, sides, clip, grid.LARGEST_VIDEO)
    assert layout.width * layout.height <= grid.LARGEST_VIDEO
    assert max(layout.width, layout.height) <= grid.LONGEST_SIDE
    assert layout.width % 2 == layout.height % 2 == 0
    x, y = layout.corner(columns - 1, rows - 1)
    assert x + layout.cell[0] <= layout.width
    assert y + layout.cell[1] <= layout.height
    assert layout.font >= grid.FONT_SIZES[0]


def test_nothing_finished_is_no_grid(tmp_path: Path) -> None:
    board = Board(("",), ("",), {(0, 0): "not made"})
    with pytest.raises(VideoEncodingFailed, match="No cell is finished"):
        grid.write(tmp_path / "grid.mp4", board, {})
    with pytest.raises(VideoEncodingFailed, match="No cell is finished"):
        grid.sheet(board, 0)
    assert list(tmp_path.iterdir()) == []


def test_wide_characters_long_words_and_no_space_do_not_break_the_labels() -> None:
    board = Board(("x" * 400, "ünïcode 猫 \N{SNOWMAN}", " "), ("", "a b"), {(0, 0): "failed" * 40})
    layout = lay_out(board.columns, board.rows, (64, 64), grid.LARGEST_VIDEO)
    assert grid.labels(board, layout).size == (layout.width, layout.height)
