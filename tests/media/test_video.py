"""Frames into an MP4 and out again: pixels, colour, metadata, and nothing left behind when it fails."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import sync_playwright

from wan_ui.errors import DiskFull, PayloadTooLarge, VideoEncodingFailed, VideoInvalid
from wan_ui.media import video

pytestmark = pytest.mark.slow

VIVID = ((200, 30, 40), (20, 160, 60), (30, 60, 220), (240, 200, 20), (16, 16, 16), (128, 128, 128))
MUTED = ((190, 90, 120), (90, 150, 110), (70, 80, 120), (200, 190, 150), (16, 16, 16), (235, 235, 235))
Colours = tuple[tuple[int, int, int], ...]


def patches(colours: Colours, width: int, height: int, num_frames: int = 9) -> npt.NDArray[np.uint8]:
    """Six flat patches, three beside each other in two rows."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index, colour in enumerate(colours):
        row, column = divmod(index, 3)
        across = slice(column * width // 3, (column + 1) * width // 3)
        frames[:, row * height // 2 : (row + 1) * height // 2, across] = colour
    return frames


def centres(width: int, height: int) -> list[tuple[int, int]]:
    return [(index % 3 * width // 3 + width // 6, index // 3 * height // 2 + height // 4) for index in range(6)]


def moving(width: int, height: int, num_frames: int) -> npt.NDArray[np.uint8]:
    """A soft gradient that moves, another in each channel."""
    t, y, x, channel = np.ogrid[:num_frames, :height, :width, :3]
    wave = np.sin(2 * np.pi * (x / width + y / height * (channel + 1) / 3 + t / 20))
    return (128 + 80 * wave).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "num_frames", "fps"),
    [(832, 480, 9, 16), (1280, 720, 5, 24), (64, 64, 41, 16), (480, 832, 2, 120), (64, 4096, 1, 1)],
)
def test_what_is_written_is_read_back(tmp_path: Path, width: int, height: int, num_frames: int, fps: int) -> None:
    path, frames = tmp_path / "clip.mp4", moving(width, height, num_frames)
    video.write(path, frames, fps, {"seed": 42})
    assert video.probe(path) == (width, height, num_frames, fps)
    back = video.read_frames(path)
    assert back.dtype == np.uint8
    assert back.shape == frames.shape
    error = np.abs(back.astype(int) - frames)
    assert error.mean() < 2
    assert video.read_metadata(path) == {"seed": 42}
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_frames_keep_their_order(tmp_path: Path) -> None:
    levels = np.arange(41) * 5 + 20
    frames = np.broadcast_to(levels[:, None, None, None], (41, 64, 64, 3)).astype(np.uint8)
    video.write(tmp_path / "clip.mp4", frames, 16, {})
    assert np.abs(video.read_frames(tmp_path / "clip.mp4").mean((1, 2, 3)) - levels).max() < 2


def test_frames_that_are_a_view_of_others_are_written_as_they_look(tmp_path: Path) -> None:
    frames = moving(64, 48, 6)
    view = frames[::-2, :, ::-1]
    video.write(tmp_path / "a.mp4", view, 16, {})
    video.write(tmp_path / "b.mp4", np.ascontiguousarray(view), 16, {})
    assert np.array_equal(video.read_frames(tmp_path / "a.mp4"), video.read_frames(tmp_path / "b.mp4"))


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    frames = moving(128, 64, 17)
    for name in ("a.mp4", "b.mp4"):
        video.write(tmp_path / name, frames, 16, {"seed": 1})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


METADATA: dict[str, dict[str, Any]] = {
    "nothing": {},
    "specials": {"prompt": "a=b; # c \\ \\n 'd' \"e\" [chapter]\nline 2\r\n\tend\\"},
    "other scripts": {"prompt": "é 漢字 🐈‍⬛ \u2028 عربى", "ключ": 1},
    "a lone surrogate": {"prompt": "cut \ud83d here"},
    "control characters": {"prompt": "\x00\x01\x1b\x7f"},
    "pretends to be a stream": {"prompt": "\n  Stream #0:0: Video: h264, yuv420p, 4096x4096, 99 fps\ncomment={}\n"},
    "nested": {"a": [1, 2.5, None, True, {"b": []}]},
    "a megabyte": {"prompts": ["=;#\\\n" * 30_000, "x" * 500_000, "é" * 60_000]},
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    video.write(tmp_path / "clip.mp4", moving(64, 64, 1), 16, METADATA[name])
    assert video.read_metadata(tmp_path / "clip.mp4") == METADATA[name]
    assert video.probe(tmp_path / "clip.mp4") == (64, 64, 1, 16)


@pytest.mark.parametrize("comment", [None, "a holiday", "[1, 2]", "3"])
def test_a_file_of_another_program_has_no_metadata_of_ours(tmp_path: Path, comment: str | None) -> None:
    tags = [] if comment is None else ["-metadata", f"comment={comment}"]
    source = ["-f", "lavfi", "-i", "color=red:size=64x64:rate=16:duration=1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *tags, str(tmp_path / "clip.mp4")]
    subprocess.run(command, check=True)
    assert video.read_metadata(tmp_path / "clip.mp4") == {}


def test_the_stream_is_tagged_and_laid_out_for_players(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    video.write(path, moving(832, 480, 17), 16, {})
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path), "-c", "copy"]
    said = subprocess.run(
        [*command, "-bsf:v", "trace_headers", "-f", "framecrc", "-"], capture_output=True, text=True, check=True
    )
    assert "Video: h264" in said.stderr
    assert "yuv420p(tv, bt709, progressive)" in said.stderr
    for field in ("video_full_range_flag", "colour_primaries", "transfer_characteristics", "matrix_coefficients"):
        value = next(line for line in said.stderr.splitlines() if field in line).split("=")[-1].strip()
        assert value == ("0" if field == "video_full_range_flag" else "1"), field
    packets = [line for line in said.stdout.splitlines() if not line.startswith("#")]
    keyframes = sorted(int(line.split(",")[2]) // 1024 for line in packets if "F=0x0" not in line)
    assert keyframes[0] == 0
    assert np.diff([*keyframes, 17]).max() <= 8
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"colrnclx\x00\x01\x00\x01\x00\x01\x00" in data


@pytest.mark.parametrize("colours", [VIVID, MUTED])
@pytest.mark.parametrize(("width", "height"), [(832, 480), (1280, 720)])
def test_colours_come_back(tmp_path: Path, colours: Colours, width: int, height: int) -> None:
    video.write(tmp_path / "clip.mp4", patches(colours, width, height), 16, {})
    frame = video.read_frames(tmp_path / "clip.mp4")[4]
    seen = [frame[y, x] for x, y in centres(width, height)]
    assert np.abs(np.array(seen, int) - colours).max() <= 4


def program(folder: Path, script: str) -> str:
    path = folder / "encoder"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo first >&2; echo 'Unknown encoder libx264' >&2; exit 1", VideoEncodingFailed, "Unknown encoder libx264$"),
        ("cat >/dev/null; echo 'Out of luck' >&2; echo >&2; exit 69", VideoEncodingFailed, "Out of luck$"),
        ("head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2; exit 1", VideoEncodingFailed, "end$"),
        ("exit 3", VideoEncodingFailed, "no reason"),
        ("cat >/dev/null; kill -9 $$", VideoEncodingFailed, "no reason"),
        ("exit 0", VideoEncodingFailed, "No such file"),
        ("echo 'Error writing trailer: No space left on device' >&2; exit 228", DiskFull, "no space for the video"),
        ("cat >/dev/null; echo 'av_interleaved_write_frame(): Disk quota exceeded' >&2; exit 1", DiskFull, "no space"),
    ],
)
def test_an_encoder_that_fails_leaves_the_folder_as_it_was(
    tmp_path: Path, script: str, error: type[Exception], message: str
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    path = clips / "clip.mp4"
    path.write_bytes(b"the clip before")
    with pytest.raises(error, match=message) as caught:
        video.write(path, moving(256, 256, 9), 16, {}, encoder=video.Encoder(program(tmp_path, script)))
    assert str(tmp_path) not in str(caught.value)
    assert path.read_bytes() == b"the clip before"
    assert [entry.name for entry in clips.iterdir()] == ["clip.mp4"]


def test_ffmpeg_s_own_words_name_no_folder_of_the_server(tmp_path: Path) -> None:
    script = f'for last; do :; done; echo "$last: Permission denied" >&2; exit 1  # {tmp_path}'
    with pytest.raises(VideoEncodingFailed, match="Permission denied") as caught:
        video.write(tmp_path / "clip.mp4", moving(64, 64, 1), 16, {}, encoder=video.Encoder(program(tmp_path, script)))
    assert str(tmp_path) not in str(caught.value)


def test_no_encoder_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoEncodingFailed, match="No such file"):
        video.write(tmp_path / "clip.mp4", moving(64, 64, 1), 16, {}, encoder=video.Encoder(str(tmp_path / "none")))
    with pytest.raises(VideoEncodingFailed, match="No such file"):
        video.write(tmp_path / "nowhere" / "clip.mp4", moving(64, 64, 1), 16, {})


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((1, 63, 64, 3), np.uint8),
        np.zeros((1, 64, 63, 3), np.uint8),
    ],
)
def test_frames_of_another_shape_are_a_mistake_of_the_caller(tmp_path: Path, frames: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        video.write(tmp_path / "clip.mp4", frames, 16, {})


@pytest.mark.parametrize("content", [None, b"", b"not a video at all" * 100])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (video.probe, video.read_frames):
        with pytest.raises(VideoEncodingFailed, match=r"clip\.mp4") as caught:
            read(path)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(VideoEncodingFailed if content is None else VideoInvalid) as refused:
        video.read_metadata(path)
    assert str(tmp_path) not in str(refused.value)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href=data:,><title>patches</title>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


READ_PATCHES = """async ([source, points]) => {
  const video = document.createElement('video')
  video.muted = true
  video.src = source
  document.body.append(video)
  await new Promise((done, failed) => {
    video.onerror = () => failed(new Error(video.error.message))
    video.requestVideoFrameCallback(() => { video.pause(); done() })
    video.play()
  })
  const canvas = document.createElement('canvas')
  canvas.width = video.videoWidth
  canvas.height = video.videoHeight
  const context = canvas.getContext('2d')
  context.drawImage(video, 0, 0)
  const seen = points.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3))
  return {width: video.videoWidth, height: video.videoHeight, seen}
}"""
# The two ways in which Chromium turns YUV into RGB. With a GPU, here SwiftShader's, a shader does it, exactly. Without
# one libyuv does it, in 8 bits: its BT.709 factor from U to blue is cut from 2.112 to 2.0, so blue is off by
# 0.112 x |U - 128| whatever the file says, 8 levels for VIVID's blue. There, colours nearer to grey are read.
RENDERERS: dict[str, tuple[list[str], Colours]] = {
    "gpu": (["--use-angle=swiftshader", "--enable-unsafe-swiftshader"], VIVID),
    "no gpu": (["--disable-gpu"], MUTED),
}


@pytest.mark.browser
@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_browser_shows_the_colours_that_were_meant(tmp_path: Path, site: str, renderer: str) -> None:
    flags, colours = RENDERERS[renderer]
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    sizes = [(832, 480), (1280, 720)]
    for width, height in sizes:
        video.write(tmp_path / f"{height}.mp4", patches(colours, width, height), 16, {"prompt": "patches"})

    def look() -> None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path, args=["--no-sandbox", "--disable-background-networking", *flags]
            )
            page = browser.new_page()
            page.goto(f"{site}/index.html")
            for width, height in sizes:
                found = page.evaluate(READ_PATCHES, [f"{height}.mp4", centres(width, height)])
                assert (found["width"], found["height"]) == (width, height)
                assert np.abs(np.array(found["seen"]) - colours).max() <= 4, (height, found["seen"])
            browser.close()

    with ThreadPoolExecutor(1) as thread:  # the other tests' browser holds this one's event loop
        thread.submit(look).result()


def test_lossless_frames_come_back_bit_for_bit(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)
    video.write_lossless(tmp_path / "frames.mkv", frames)
    assert np.array_equal(video.read_lossless(tmp_path / "frames.mkv"), frames)
    assert [path.name for path in tmp_path.iterdir()] == ["frames.mkv"]


def test_a_read_ends_at_its_limit(tmp_path: Path) -> None:
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    video.write(tmp_path / "a.mp4", frames, 8, {})
    assert video.read_untrusted_frames(tmp_path / "a.mp4", frames.nbytes).shape == frames.shape
    with pytest.raises(PayloadTooLarge):
        video.read_untrusted_frames(tmp_path / "a.mp4", frames.nbytes - 1)
