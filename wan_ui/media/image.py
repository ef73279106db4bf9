"""Stores control images (base64, URL or upload), checked once and named by their SHA-256."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from wan_ui.access import Access, FileOwners, UploadedFiles
from wan_ui.errors import ControlImageInvalid, FetchFailed, PayloadTooLarge
from wan_ui.files import create_folder, disk_full_mapped, remove_parts, write_file
from wan_ui.media import image_cost, image_decoder, process
from wan_ui.media.image_decoder import UNREADABLE, as_rgb, is_16_bit
from wan_ui.text import decode_base64, is_web_address
from wan_ui.turns import Turns, TurnsEach

MAX_BYTES = 50 * 2**20  # of the image file
FETCHES, FETCHES_EACH = 12, 3  # downloads at a time, of all and of one visitor: each may take 20 s of a thread
MAX_PIXELS = 8192 * 8192  # 64 Mi; 192 MiB as RGB
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
UPLOAD = "upload://"
ORIENTATION = 0x0112  # the EXIF tag
# By the value of that tag, what makes the image upright (EXIF 2.32, 4.6.4).
_TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})
_OTHER_KINDS: Mapping[bytes, str] = {
    b"\x1aE\xdf\xa3".lower(): "a video",
    b"<svg": "an SVG drawing",
    b"<?xml": "an SVG drawing",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"%pdf": "a PDF",
}
Taken = TypeVar("Taken")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATA_HEADER = re.compile(r"data:[^,;]*(?:;[^,;]*)*,", re.IGNORECASE)
_HEADER_LENGTH = 200
_EXIF_IN_PNG = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
MOST_PASSES = 16 * MAX_PIXELS  # pixels × scans of a JPEG
DECODER_SECONDS = 10.0
DECODER_MEMORY = 2 << 30  # bytes of address space
DECODER_OUTPUT = 320 << 20  # bytes of PNG
DECODERS = 2  # at once, each of hundreds of megabytes
WAIT_SECONDS = 30.0  # for one of them
PIXELS_SUFFIX = ".png"  # of the decoded pixels, which are kept beside an image that was costly to decode
_DECODER = Path(image_decoder.__file__)
_turns = Turns(WAIT_SECONDS, "Too many large images are being decoded. Send this one again in a moment.", DECODERS)


class _QuietWarnings:
    """Ignores warnings while any thread is inside: warnings.catch_warnings changes filters of the whole process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._saved.__exit__(None, None, None)


_quiet = _QuietWarnings()


class ImageStore:
    """Image files in one folder, each named by the SHA-256 of its bytes. Safe to use from several threads.

    `fetch` takes an http(s) address and returns the bytes behind it, or raises FetchFailed. `max_bytes` bounds a
    file, `max_pixels` its width × height. `save` writes a file whole or not at all. `owners` records who brought what:
    an image that is not the caller's to use is reported as missing.
    """

    def __init__(
        self,
        folder: Path,
        fetch: Callable[[str], bytes],
        *,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        save: Callable[[Path, bytes], None] = write_file,
        owners: FileOwners | None = None,
    ) -> None:
        self._folder = folder
        self._fetch = fetch
        self._fetches = TurnsEach(
            FETCHES, FETCHES_EACH, "Several first frames are being downloaded. Try again in a few seconds."
        )
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._save = save
        self._owned = UploadedFiles(owners, "image")

    def sweep(self) -> None:
        """Removes what a killed process left half written. Only for a process that alone holds the folder."""
        remove_parts(self._folder)

    def put(self, ctrl_img: str, access: Access) -> str:
        """Keep the image that a request names and return the SHA-256 (hex) of its file's bytes.

        `ctrl_img` is base64 with or without a `data:` header, an http(s) address, or `upload://<sha256>` for one
        that is kept already. Raises ControlImageInvalid, PayloadTooLarge or DiskFull.
        """
        text = ctrl_img.strip()
        start = text[:_HEADER_LENGTH].lower()
        if start.startswith(UPLOAD):
            return self._kept(text[len(UPLOAD) :].lower(), access)
        if is_web_address(ctrl_img):
            return self.put_bytes(self._fetched(text, access), access)
        return self.put_bytes(self._decoded(text), access)

    def put_bytes(self, data: bytes, access: Access) -> str:
        """Stores an image file given by its bytes; the rest as `put`."""
        if len(data) > self._max_bytes:
            raise self._too_large()
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._folder / sha256
        if path.is_file():
            self._owned.record_owner(sha256, access)
            return sha256
        return self._keep(data, access, self._decoded_apart(data))

    def _keep(self, data: bytes, access: Access, pixels: bytes | None = None) -> str:
        """Stores an image that was checked, and the PNG of its `pixels`."""
        sha256 = hashlib.sha256(data).hexdigest()
        with disk_full_mapped("the first frame"):
            create_folder(self._folder)
            if pixels is not None:
                self._save(self._pixels(sha256), pixels)
            self._save(self._folder / sha256, data)
        self._owned.record_owner(sha256, access)
        return sha256

    def put_upright(self, ctrl_img: str, access: Access) -> str:
        """As `put`, but turned by its EXIF orientation: such an image is kept as a PNG without one, and that returned.

        An image that is upright already keeps its own bytes and hash.
        """
        sha256 = self.put(ctrl_img, access)
        data = self.data(sha256, access)
        turn = _TURNS.get(self._read(data, partial(_orientation, data)))
        if turn is None:
            return sha256
        file = io.BytesIO()
        self.open(sha256, access).transpose(turn).save(file, "PNG")
        return self._keep(file.getvalue(), access)

    def notes(self, sha256: str, access: Access) -> tuple[str, ...]:
        """Sentences on what makes the image differ from what a viewer shows: EXIF orientation, 16 bits a channel."""
        data = self.data(sha256, access)
        notes = []
        if self._read(data, partial(_orientation, data)) in _TURNS:
            notes.append(
                "The first frame's file says by its EXIF orientation that it is to be turned. It is used as stored, as "
                "by the reference server and the trainer; set apply_exif to turn it."
            )
        if self._read(data, is_16_bit):
            notes.append("The first frame has 16 bits a pixel, which were scaled to 8 bits.")
        return tuple(notes)

    def has(self, sha256: str, access: Access) -> bool:
        """Whether the image of this SHA-256 is kept and the caller may use it."""
        if not _SHA256.fullmatch(sha256) or not (self._folder / sha256).is_file():
            return False
        return self._owned.may_use(sha256, access)

    def open(self, sha256: str, access: Access) -> Image.Image:
        """The image as RGB at its full size, decoded anew for each caller. Raises ControlImageInvalid if it is gone."""
        data = self.data(sha256, access)
        pixels = self._pixels(sha256)
        return self._rgb(pixels.read_bytes() if pixels.is_file() else data)

    def path(self, sha256: str, access: Access) -> Path:
        """The image's file. Raises ControlImageInvalid if it is gone."""
        return self._folder / self._kept(sha256, access)

    def data(self, sha256: str, access: Access) -> bytes:
        """The file's bytes. Raises ControlImageInvalid if it is gone."""
        path = self.path(sha256, access)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise _gone() from error

    def _kept(self, sha256: str, access: Access) -> str:
        if not self.has(sha256, access):
            raise _gone()
        return sha256

    def _fetched(self, url: str, access: Access) -> bytes:
        identity = access.identity
        try:
            with self._fetches.hold(identity.visitor, is_limited=not identity.owner):
                return self._fetch(url)
        except FetchFailed as error:
            raise ControlImageInvalid(
                f"The first frame could not be downloaded. {error.message}", **error.details
            ) from error

    def _decoded(self, text: str) -> bytes:
        header = ""
        if text[:5].lower() == "data:":
            found = _DATA_HEADER.match(text[:_HEADER_LENGTH])
            header = found.group() if found else ""
            if not header.lower().endswith(";base64,"):
                raise ControlImageInvalid(
                    "The first frame's data: address must hold base64: write data:image/png;base64, and then the data."
                )
        payload = "".join(text[len(header) :].split())
        if len(payload) > (self._max_bytes + 2) // 3 * 4:
            raise self._too_large()
        try:
            data = decode_base64(payload)
        except ValueError as error:
            raise ControlImageInvalid(
                "The first frame is neither base64 nor an address: send the image file as base64, with or without "
                "a data: header, or an http:// or https:// address."
            ) from error
        if not data:
            raise ControlImageInvalid("The first frame is empty: send an image file.")
        return data

    def _rgb(self, data: bytes) -> Image.Image:
        """The decoded image, as `image_decoder.as_rgb` says."""
        return self._read(data, as_rgb)

    def _pixels(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{PIXELS_SUFFIX}"

    def _decoded_apart(self, data: bytes) -> bytes | None:
        """Checks a new file by decoding it. Returns its pixels as a PNG if that was costly, and else None.

        What is costly is decoded in a process that can be ended, so that it delays nobody else. Raises
        ControlImageInvalid, and ServerBusy while too many others are decoded.
        """
        size = image_cost.stated_webp_size(data)
        if size is not None and size[0] * size[1] > self._max_pixels:
            raise self._too_many_pixels(f" ({size[0]} × {size[1]})")
        passes = self._read(data, lambda image: image_cost.passes(image, data))
        if passes > MOST_PASSES or (data[:2] == b"\xff\xd8" and image_cost.jpeg_scans(data) > image_cost.MOST_SCANS):
            raise ControlImageInvalid(
                "The first frame is stored in more passes over its pixels than any program needs: save it again, as "
                "PNG or as an ordinary JPEG."
            )
        if self._read(data, lambda image: image_cost.is_cheap(image, data)):
            self._rgb(data)
            return None
        command = [sys.executable, "-I", str(_DECODER), ",".join(FORMATS), str(self._max_pixels)]
        limits = process.Limits(DECODER_SECONDS, DECODER_OUTPUT, DECODER_MEMORY)
        try:
            with _turns.hold():
                done = process.run(command, limits, pieces=(data,))
        except (process.OutOfTime, process.TooMuchOutput) as error:
            raise ControlImageInvalid(
                "The first frame takes too long to decode: make it smaller, or save it as PNG or as an ordinary JPEG."
            ) from error
        if done.status == image_decoder.TOO_MANY_PIXELS:
            raise self._too_many_pixels("")
        if done.status:
            raise _damaged()
        return bytes(done.output)

    def _read(self, data: bytes, take: Callable[[Image.Image], Taken]) -> Taken:
        """What `take` makes of the opened image. Raises ControlImageInvalid for what cannot be read."""
        with _quiet:
            try:
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    width, height = image.size
                    if width * height > self._max_pixels:
                        raise self._too_many_pixels(f" ({width} × {height})")
                    return take(image)
            except UnidentifiedImageError as error:
                what = _other_kind(data)
                raise ControlImageInvalid(
                    f"Cannot read the first frame{f': it is {what}' if what else ''}. Use {', '.join(FORMATS)}."
                ) from error
            except Image.DecompressionBombError as error:
                raise self._too_many_pixels("") from error
            except UNREADABLE as error:
                raise _damaged() from error

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The first frame's file is larger than {self._max_bytes / 2**20:g} MiB: send a smaller one.",
            max_bytes=self._max_bytes,
        )

    def _too_many_pixels(self, size: str) -> ControlImageInvalid:
        return ControlImageInvalid(
            f"The first frame has more than {self._max_pixels} pixels{size}: make it smaller.",
            max_pixels=self._max_pixels,
        )


def _orientation(data: bytes, image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where the file states none."""
    # Pillow decodes a whole PNG to see whether one is stated behind the pixels.
    if image.format == "PNG" and not any(sign in data for sign in _EXIF_IN_PNG):
        return 1
    stated = image.getexif().get(ORIENTATION, 1)
    return stated if isinstance(stated, int) else 1


def _other_kind(data: bytes) -> str:
    """What a file that is no image of ours is, for the kinds that people take for one; empty where that is unknown."""
    if data[4:8] == b"ftyp":  # ISO base media: the brand tells photos from videos
        brand = data[8:12]
        if brand == b"avif":
            return "an AVIF image"
        return "a HEIC photo" if brand in _HEIC_BRANDS else "a video"
    return next((kind for start, kind in _OTHER_KINDS.items() if data.lstrip()[:64].lower().startswith(start)), "")


def _damaged() -> ControlImageInvalid:
    return ControlImageInvalid("The first frame is damaged or cut off: save the image again, as PNG or JPEG.")


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image at exactly `width` × `height` pixels, by LANCZOS, stretched where its shape differs, never cropped."""
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _gone() -> ControlImageInvalid:
    return ControlImageInvalid("This upload was not found: upload the first frame again.")
