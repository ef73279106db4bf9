"""An MP4's comment by its boxes: what our own files carry, and files that lie about every size."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.mp4_boxes import box, carrying, film, mp4, wide
from wan_ui.errors import VideoInvalid
from wan_ui.media import boxes, video

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
WHOLE = carrying({"a": 1})


def kept(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        mp4(box(b"free", b"\0" * 9), film(b'{"a": 1}'), box(b"mdat", b"\0" * 64, 0)),
        mp4(wide(b"mdat", b"\0" * 64), film(b'{"a": 1}')),
        mp4(film(b'{"a": 1}'), film(b'{"a": 2}')),
        mp4(film(b'{"a": 1}')) + b"\0\0\0",
    ],
    ids=["as ours", "to the end", "64 bits", "the first counts", "a few bytes more"],
)
def test_the_comment_is_found(tmp_path: Path, data: bytes) -> None:
    assert boxes.comment(kept(tmp_path, data)) == b'{"a": 1}'
    assert video.read_metadata(tmp_path / "clip.mp4") == {"a": 1}


@pytest.mark.parametrize(
    "data",
    [mp4(box(b"moov")), mp4(box(b"moov", box(b"udta"))), mp4(box(b"moov", box(b"udta", box(b"meta", b"\0\0"))))],
)
def test_a_file_without_one(tmp_path: Path, data: bytes) -> None:
    assert boxes.comment(kept(tmp_path, data)) is None
    assert video.read_metadata(tmp_path / "clip.mp4") == {}


def nested(depth: int) -> bytes:
    """A comment under so many boxes of one kind, by their heads alone."""
    return b"".join((8 * (depth - at)).to_bytes(4) + b"moov" for at in range(depth))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\0" * 7, "is not an MP4"),
        (PNG, "is a PNG picture"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 20, "is a JPEG picture"),
        (b"\x1aE\xdf\xa3" + b"\0" * 20, "is a WebM or Matroska video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "is not an MP4"),
        (WHOLE[:-1], "is cut off"),
        (WHOLE[:60], "is cut off"),
        (mp4(), "is cut off, or was never finished"),
        (mp4(film(b"{}"), box(b"mdat", b"", 2**32 - 1)), "is cut off"),
        (mp4(film(b"{}"), wide(b"mdat", b"", 2**64 - 1)), "is cut off"),
        (mp4(film(b"{}"), wide(b"mdat", b"", 3)), "is damaged"),
        (mp4(film(b"{}"), box(b"mdat", b"", 7)), "is damaged"),
        (mp4(film(b"{}", 2**31)), "is (cut off|damaged)"),
        (mp4(film(b"{}", 9000)), "is (cut off|damaged)"),
        (mp4(box(b"moov", box(b"udta", b"\0" * 20, 2**31))), "is (cut off|damaged)"),
        (mp4(*[box(b"free")] * (boxes.MOST_BOXES + 1)), "more parts"),
        (mp4(box(b"moov", box(b"free") * (boxes.MOST_BOXES + 1))), "more parts"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(VideoInvalid, match=said) as caught:
        boxes.comment(kept(tmp_path, data))
    assert str(tmp_path) not in caught.value.message


def test_boxes_in_boxes_in_boxes_are_not_followed(tmp_path: Path) -> None:
    assert boxes.comment(kept(tmp_path, mp4(nested(200_000)))) is None


def test_a_comment_of_200_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mp4"
    size = 200 << 20
    grown = mp4(film(b""))
    # The same boxes with the size of what follows, which is a hole in the file.
    for kind in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        at = grown.index(kind) - 4
        grown = grown[:at] + (int.from_bytes(grown[at : at + 4]) + size).to_bytes(4) + grown[at + 4 :]
    with path.open("wb") as file:
        file.write(grown)
        file.truncate(len(grown) + size)
    tracemalloc.start()
    with pytest.raises(VideoInvalid, match="209715200 bytes of text"):
        boxes.comment(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_huge_video_costs_no_more_than_a_small_one(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    size = 20 << 30
    with path.open("wb") as file:
        file.write(mp4(film(b'{"a": 1}')) + b"\0\0\0\1mdat" + (size + 16).to_bytes(8))
        file.truncate(file.tell() + size)
    assert boxes.comment(path) == b'{"a": 1}'


@pytest.mark.parametrize("about", [b"[" * 100_000, b"\xff\xfe\xfa", b"[1]", b"9" * 10_000, b"a holiday", b""])
def test_what_is_no_mapping_is_another_programs(tmp_path: Path, about: bytes) -> None:
    assert video.read_metadata(kept(tmp_path, carrying(about))) == {}


@pytest.mark.slow
def test_the_command_prints_what_a_video_carries(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    video.write(path, np.zeros((1, 64, 64, 3), np.uint8), 16, {"request": {"model": "x"}})

    def said(file: Path) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "wan_ui.media", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout, done.stderr

    assert json.loads(said(path)[1]) == {"request": {"model": "x"}}
    code, out, problem = said(kept(tmp_path, PNG))
    assert (code, out) == (1, "") and json.loads(problem)["code"] == "VIDEO_INVALID"
    code, out, problem = said(tmp_path / "none.mp4")
    assert (code, out) == (1, "") and str(tmp_path) not in problem


@pytest.mark.slow
def test_the_first_frame_of_a_video(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[0, :, :48] = (200, 30, 40)
    video.write(tmp_path / "clip.mp4", frames, 16, {})
    with Image.open(io.BytesIO(video.first_frame(tmp_path / "clip.mp4"))) as image:
        assert image.format == "PNG" and image.size == (96, 64)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[0]).mean() < 3


@pytest.mark.slow
@pytest.mark.parametrize("data", [PNG, WHOLE, mp4(film(b"{}")), b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"])
def test_no_first_frame_where_there_is_no_video(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(VideoInvalid):
        video.first_frame(kept(tmp_path, data))
