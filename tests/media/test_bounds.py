"""Limits on what a file may cost: programs, decoders, and the sizes that files state."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.attacks.files import box, film, many_scans, numbers, png
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import (
    Cancelled,
    ControlImageInvalid,
    InvalidRequest,
    PayloadTooLarge,
    VideoEncodingFailed,
    VideoInvalid,
)
from wan_ui.media import boxes, image_cost, process, video
from wan_ui.media.image import PIXELS_SUFFIX, ImageStore
from wan_ui.trainer import sample_files

pytestmark = pytest.mark.slow


def running_sleeps(mark: str) -> list[str]:
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (text := _text(path)) and mark in text and "launcher" not in text
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""  # it has ended


def test_a_program_ends_at_each_limit() -> None:
    done = process.run(["sh", "-c", "cat; echo why >&2; exit 3"], process.Limits(30, 10), pieces=(b"ab", b"cd"))
    assert (done.status, bytes(done.output), bytes(done.messages)) == (3, b"abcd", b"why\n")
    with pytest.raises(process.TooMuchOutput):
        process.run(["sh", "-c", "yes"], process.Limits(30, 100_000))
    with pytest.raises(process.OutOfTime):
        process.run(["sh", "-c", "sleep 1234.25 & sleep 1234.25"], process.Limits(0.3))
    wait_until(lambda: not running_sleeps("1234.25"))  # the whole group
    ate = process.run(["python3", "-c", "bytearray(10**9)"], process.Limits(30, 0, 300 << 20))
    assert ate.status == 1 and b"MemoryError" in ate.messages
    assert process.run(["/nowhere/ffmpeg"], process.Limits(30)).status == 127

    def stop() -> None:
        raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        process.run(["sleep", "1234.5"], process.Limits(30), beat=stop)
    wait_until(lambda: not running_sleeps("1234.5"))


def test_pieces_that_fail_are_not_taken_for_the_end() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        process.run(["cat"], process.Limits(30, 100), pieces=pieces())


def hanging(folder: Path) -> str:
    path = folder / "encoder"
    path.write_text("#!/bin/sh\nexec sleep 1234.75\n")
    path.chmod(0o755)
    return str(path)


def test_an_encoder_that_hangs_is_ended(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    clips = tmp_path / "clips"
    clips.mkdir()
    with pytest.raises(VideoEncodingFailed, match="could not be encoded within"):
        video.write(clips / "a.mp4", frames, 16, {}, encoder=video.Encoder(hanging(tmp_path), 0.3))
    begun = threading.Event()

    def cancel() -> None:
        begun.set()
        raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        video.write(clips / "a.mp4", frames, 16, {}, encoder=video.Encoder(hanging(tmp_path)), beat=cancel)
    assert begun.is_set() and list(clips.iterdir()) == []
    wait_until(lambda: not running_sleeps("1234.75"))


def test_a_film_states_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(film(1_000_000, 1_000))
    for read in (video.first_frame, lambda path: boxes.check_sizes(path, video.MOST_SAMPLES, video.MOST_PIXELS)):
        with pytest.raises(VideoInvalid, match="more than 20000 frames"):
            read(path)
    with pytest.raises(InvalidRequest, match="damaged"):
        sample_files.decode(path)
    path.write_bytes(film(1_500, 100))
    with pytest.raises(PayloadTooLarge, match="1000 frames"):
        sample_files.decode(path)
    path.write_bytes(film(5, 5, width=60_000, height=60_000))
    with pytest.raises(VideoInvalid, match="pixels"):
        video.first_frame(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"stsz" + numbers(0, 1, 50), b"stsz" + numbers(0, 0, 50)),
        lambda data: data.replace(b"stsz" + numbers(0, 1, 50), b"stsz" + numbers(0, 1, 2**31)),
        lambda data: data.replace(b"stts" + numbers(0, 1, 50), b"stts" + numbers(0, 1, 49)),
        lambda data: data.replace(b"stts" + numbers(0, 1), b"stts" + numbers(0, 2**31)),
        lambda data: data.replace(b"trak", b"skip"),
        lambda data: data.replace(b"stbl", b"skip"),
        lambda data: data.replace(b"hdlr", b"skip"),
        lambda data: data + box(b"moof", bytes(8)),
        lambda data: data[: data.index(b"moov") + 4] + box(b"cmov", bytes(8)) + data[data.index(b"moov") + 4 :],
        lambda data: data[:-3],
        lambda data: data[:12],
    ],
)  # fmt: skip
def test_tables_that_contradict_each_other_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(change(film(50, 5)))
    with pytest.raises(VideoInvalid):
        boxes.check_sizes(path, video.MOST_SAMPLES, video.MOST_PIXELS)


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


def test_a_costly_image_is_decoded_apart(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, no_fetch)
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).save(buffer, "TIFF", compression="jpeg")
    sha256 = store.put_bytes(buffer.getvalue(), LOCAL_ACCESS)
    kept = tmp_path / f"{sha256}{PIXELS_SUFFIX}"
    expected = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    assert np.array_equal(np.asarray(Image.open(kept)), np.asarray(expected))
    assert np.array_equal(np.asarray(store.open(sha256, LOCAL_ACCESS)), np.asarray(expected))
    cheap = store.put_bytes(png(), LOCAL_ACCESS)
    assert not (tmp_path / f"{cheap}{PIXELS_SUFFIX}").exists()
    with pytest.raises(ControlImageInvalid, match="damaged"):
        store.put_bytes(buffer.getvalue()[:-40], LOCAL_ACCESS)


def test_scans_are_counted_and_bounded(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, no_fetch)
    assert image_cost.jpeg_scans(many_scans(64, 0)) == 6 and image_cost.jpeg_scans(many_scans(64, 30)) == 36
    store.put_bytes(many_scans(64, 10), LOCAL_ACCESS)
    with pytest.raises(ControlImageInvalid, match="passes"):
        store.put_bytes(many_scans(64, 100), LOCAL_ACCESS)
    thumbnail = io.BytesIO()
    Image.new("L", (64, 64)).save(thumbnail, "JPEG")
    inside = b"\xff\xe1" + (len(thumbnail.getvalue()) + 2).to_bytes(2) + thumbnail.getvalue()
    outer = thumbnail.getvalue()[:2] + inside * 100 + thumbnail.getvalue()[2:]
    assert image_cost.jpeg_scans(outer) == 1  # those in other segments are not this image's


def test_a_webp_s_canvas_is_looked_at_before_it_is_allocated(tmp_path: Path) -> None:
    head = b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + (16_382).to_bytes(3, "little") * 2
    with pytest.raises(ControlImageInvalid, match="pixels"):
        ImageStore(tmp_path, no_fetch).put_bytes(b"RIFF" + (22).to_bytes(4, "little") + b"WEBP" + head, LOCAL_ACCESS)
