"""The image store: every way in, every file that lies, and the very pixels of the reference server."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import ControlImageInvalid, DiskFull, FetchFailed, PayloadTooLarge
from wan_ui.media.image import ImageStore, fit

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def noise(width: int = 40, height: int = 24, mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(levels, "RGBA").convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def no_fetch(url: str) -> bytes:
    raise AssertionError("nothing here is fetched")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", no_fetch)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_kept_by_the_hash_of_its_bytes(store: ImageStore, kind: str) -> None:
    data = encoded(noise(), kind)
    sha256 = store.put(text(data), LOCAL_ACCESS)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert store.data(sha256, LOCAL_ACCESS) == data
    image = store.open(sha256, LOCAL_ACCESS)
    assert (image.mode, image.size) == ("RGB", (40, 24))
    assert image.tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw: f"data:image/png;base64,{raw}",
        lambda raw: f"DATA:image/PNG;charset=utf-8;Base64,{raw}",
        lambda raw: f"data:;base64,{raw}",
        lambda raw: f"  {raw}\n",
        lambda raw: "\r\n".join(raw[at : at + 76] for at in range(0, len(raw), 76)),
        lambda raw: f"data:image/png;base64,\n{raw[:50]}\n {raw[50:]}",
    ],
)
def test_base64_with_and_without_a_header(store: ImageStore, wrap: Callable[[str], str]) -> None:
    data = encoded(noise())
    assert store.put(wrap(text(data)), LOCAL_ACCESS) == hashlib.sha256(data).hexdigest()


def test_an_address_goes_through_the_given_fetch(tmp_path: Path) -> None:
    data, asked = encoded(noise()), []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return data

    store = ImageStore(tmp_path, fetch)
    assert store.put(" HTTPS://cdn.example/a.png ", LOCAL_ACCESS) == hashlib.sha256(data).hexdigest()
    assert asked == ["HTTPS://cdn.example/a.png"]


def test_a_failed_fetch_says_what_happened(tmp_path: Path) -> None:
    def fetch(url: str) -> bytes:
        raise FetchFailed("cdn.example answered with status 404.", host="cdn.example")

    with pytest.raises(ControlImageInvalid, match="could not be downloaded.*status 404") as caught:
        ImageStore(tmp_path, fetch).put("http://cdn.example/a.png", LOCAL_ACCESS)
    assert caught.value.details == {"host": "cdn.example"}


def test_an_upload_is_named_by_its_hash_and_written_once(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, no_fetch)
    sha256 = store.put_bytes(encoded(noise()), LOCAL_ACCESS)
    written = (tmp_path / sha256).stat().st_mtime_ns
    assert store.put(f"upload://{sha256}", LOCAL_ACCESS) == sha256
    assert store.put(f"UPLOAD://{sha256.upper()}", LOCAL_ACCESS) == sha256
    assert store.put_bytes(encoded(noise()), LOCAL_ACCESS) == sha256
    assert (tmp_path / sha256).stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [sha256]


@pytest.mark.parametrize("name", ["0" * 64, "", "..", "../../etc/passwd", "a" * 63, "A" * 65, "é" * 64])
def test_an_upload_that_is_not_here(store: ImageStore, name: str) -> None:
    with pytest.raises(ControlImageInvalid, match="upload the first frame again"):
        store.put(f"upload://{name}", LOCAL_ACCESS)


def test_an_image_that_is_gone(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, no_fetch)
    sha256 = store.put_bytes(encoded(noise()), LOCAL_ACCESS)
    (tmp_path / sha256).unlink()
    for use in (store.open, store.data):
        with pytest.raises(ControlImageInvalid, match="was not found"):
            use(sha256, LOCAL_ACCESS)
    with pytest.raises(ControlImageInvalid):
        store.open("../" + sha256, LOCAL_ACCESS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("data:image/png;base64,", "empty"),
        ("hello world!", "neither base64 nor an address"),
        ("abc", "neither base64"),
        ("QUJD-_==", "neither base64"),
        ("é" * 8, "neither base64"),
        ("file:///etc/passwd", "neither base64"),
        ("ftp://cdn.example/a.png", "neither base64"),
        ("/etc/passwd", "neither base64|not an image"),
        ("data:image/png,%89PNG", "must hold base64"),
        ("data:image/png;base64", "must hold base64"),
        ("data:" + ";x" * 500 + ",", "must hold base64"),
        (text(b"plain text, no image at all"), "Cannot read the first frame"),
        (text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "Cannot read the first frame"),
        (text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "Cannot read the first frame"),
        (text(b"\x89PNG\r\n\x1a\n"), "Cannot read the first frame|damaged"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(ControlImageInvalid, match=message):
        ImageStore(tmp_path, no_fetch).put(value, LOCAL_ACCESS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_cut_off_is_refused_at_once(store: ImageStore, kind: str) -> None:
    data = encoded(noise(), kind)
    with pytest.raises(ControlImageInvalid):
        store.put_bytes(data[: len(data) * 6 // 10], LOCAL_ACCESS)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_lie_in_a_file_escapes_as_another_error(store: ImageStore, kind: str) -> None:
    """Byte flips and cuts, most of them near the header: kept whole, or refused as an image."""
    draw, sound = random.Random(kind), encoded(noise(), kind)
    for _ in range(60):
        data = bytearray(sound[: draw.randrange(8, len(sound) + 1)])
        for _ in range(draw.randrange(1, 9)):
            data[min(int(draw.expovariate(1 / 40)), len(data) - 1)] = draw.randrange(256)
        try:
            sha256 = store.put_bytes(bytes(data), LOCAL_ACCESS)
        except ControlImageInvalid:
            continue
        assert store.open(sha256, LOCAL_ACCESS).mode == "RGB"


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises width × height pixels and whose data is not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(8193, 8192), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_decompression_bomb_is_refused_from_its_header(store: ImageStore, width: int, height: int) -> None:
    with pytest.raises(ControlImageInvalid, match="more than 67108864 pixels"):
        store.put_bytes(bomb(width, height), LOCAL_ACCESS)


def test_the_bounds_are_exact(tmp_path: Path) -> None:
    data = encoded(noise(40, 24))
    assert ImageStore(tmp_path, no_fetch, max_bytes=len(data), max_pixels=960).put(text(data), LOCAL_ACCESS)
    with pytest.raises(ControlImageInvalid, match=r"more than 959 pixels \(40 × 24\)"):
        ImageStore(tmp_path / "a", no_fetch, max_pixels=959).put(text(data), LOCAL_ACCESS)
    small = ImageStore(tmp_path / "b", no_fetch, max_bytes=len(data) - 1)
    for way in (
        lambda: small.put(text(data), LOCAL_ACCESS),
        lambda: small.put_bytes(data, LOCAL_ACCESS),
        lambda: small.put("A" * 10_000_000, LOCAL_ACCESS),
    ):
        with pytest.raises(PayloadTooLarge, match="send a smaller one"):
            way()


def photo_on_its_side() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    return encoded(noise(), "JPEG", exif=exif)


MODES: dict[str, Callable[[], bytes]] = {
    "1": lambda: encoded(noise(mode="1")),
    "L": lambda: encoded(noise(mode="L")),
    "LA": lambda: encoded(noise(mode="LA")),
    "RGBA": lambda: encoded(noise(mode="RGBA")),
    "P": lambda: encoded(noise(mode="P")),
    "P with one transparent colour": lambda: encoded(noise(mode="P"), transparency=3),
    "P with transparency in bytes": lambda: encoded(noise(mode="P"), transparency=bytes(range(256))),
    "RGB with a transparent colour": lambda: encoded(noise(), transparency=(1, 2, 3)),
    "CMYK": lambda: encoded(noise(mode="CMYK"), "JPEG"),
    "F": lambda: encoded(noise(mode="F"), "TIFF"),
    "EXIF turn": photo_on_its_side,
    "animated GIF": lambda: encoded(noise(mode="P"), "GIF", save_all=True, append_images=[noise(mode="L")]),
    "animated WEBP": lambda: encoded(noise(), "WEBP", save_all=True, append_images=[noise(mode="L").convert("RGB")]),
    "two-picture JPEG": lambda: encoded(noise(), "MPO", save_all=True, append_images=[noise(mode="L").convert("RGB")]),
}


@pytest.mark.parametrize("name", MODES)
def test_pixels_are_those_of_the_reference_server(store: ImageStore, name: str) -> None:
    data = MODES[name]()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        image = store.open(store.put_bytes(data, LOCAL_ACCESS), LOCAL_ACCESS)
    assert heard == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.size == expected.size == (40, 24)
    assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_u18_16_bit_images_are_scaled_to_8_bits_and_it_is_said(store: ImageStore, kind: str) -> None:
    levels = np.arange(960, dtype=np.uint16).reshape(24, 40) * 68
    sha256 = store.put_bytes(encoded(Image.fromarray(levels), kind), LOCAL_ACCESS)
    shown = np.asarray(store.open(sha256, LOCAL_ACCESS))
    expected = np.rint(levels * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(shown, np.stack([expected] * 3, axis=-1))
    (note,) = store.notes(sha256, LOCAL_ACCESS)
    assert "16 bits" in note


@pytest.mark.parametrize("orientation", range(1, 9))
def test_u18_exif_orientation_is_said_and_applied_on_request(store: ImageStore, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), "JPEG", exif=exif)
    stored = store.put(text(data), LOCAL_ACCESS)
    plain = Image.open(io.BytesIO(data))
    assert store.open(stored, LOCAL_ACCESS).tobytes() == plain.convert("RGB").tobytes()
    assert len(store.notes(stored, LOCAL_ACCESS)) == (orientation != 1)
    turned = store.put_upright(f"upload://{stored}", LOCAL_ACCESS)
    expected = ImageOps.exif_transpose(plain)
    shown = store.open(turned, LOCAL_ACCESS)
    assert shown.size == expected.size and shown.tobytes() == expected.convert("RGB").tobytes()
    assert store.notes(turned, LOCAL_ACCESS) == ()
    assert store.put_upright(f"upload://{turned}", LOCAL_ACCESS) == turned
    assert (turned == stored) == (orientation == 1)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_u18_an_odd_orientation_turns_nothing(store: ImageStore, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    sha256 = store.put_bytes(encoded(noise(), "JPEG", exif=exif), LOCAL_ACCESS)
    assert store.notes(sha256, LOCAL_ACCESS) == ()
    assert store.put_upright(f"upload://{sha256}", LOCAL_ACCESS) == sha256


def test_fit_is_lanczos_without_a_crop() -> None:
    image = noise(50, 30)
    assert fit(image, 64, 96).tobytes() == image.resize((64, 96), Image.Resampling.LANCZOS).tobytes()
    assert fit(image, 50, 30).tobytes() == image.tobytes()


def test_threads_may_open_and_put_the_same_image(store: ImageStore) -> None:
    data = encoded(noise(200, 100))
    expected = noise(200, 100).tobytes()

    def use(_: int) -> bool:
        return store.open(store.put_bytes(data, LOCAL_ACCESS), LOCAL_ACCESS).tobytes() == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(64)))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_operator_s_move(tmp_path: Path, number: int) -> None:
    def save(path: Path, data: bytes) -> None:
        raise OSError(number, "full")

    with pytest.raises(DiskFull, match="no space for the first frame"):
        ImageStore(tmp_path, no_fetch, save=save).put_bytes(encoded(noise()), LOCAL_ACCESS)


def test_another_write_error_is_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file where the folder should be")
    with pytest.raises(FileExistsError):
        ImageStore(tmp_path / "images", no_fetch).put_bytes(encoded(noise()), LOCAL_ACCESS)
