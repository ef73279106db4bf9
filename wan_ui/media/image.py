"""Stores control images (base64, URL or upload), checked once and named by their SHA-256."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from wan_ui.access import Access, FileOwners, UploadedFiles
from wan_ui.errors import ControlImageInvalid, FetchFailed, PayloadTooLarge
from wan_ui.files import disk_full_mapped, remove_parts, write_file

MAX_BYTES = 50 * 2**20  # of the image file
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
Taken = TypeVar("Taken")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATA_HEADER = re.compile(r"data:[^,;]*(?:;[^,;]*)*,", re.IGNORECASE)
_HEADER_LENGTH = 200
# What Pillow's readers raise on a malformed file. Warning: where the process turns warnings into errors.
UNREADABLE = (
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
# One decode at a time: it bounds the memory, and catch_warnings changes filters of the whole process.
_decoding = Lock()


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
        if start.startswith(("http://", "https://")):
            return self.put_bytes(self._fetched(text), access)
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
        self._rgb(data)
        return self._keep(data, access)

    def _keep(self, data: bytes, access: Access) -> str:
        """Stores an image that was checked."""
        sha256 = hashlib.sha256(data).hexdigest()
        with disk_full_mapped("the first frame"):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._save(self._folder / sha256, data)
        self._owned.record_owner(sha256, access)
        return sha256

    def put_upright(self, ctrl_img: str, access: Access) -> str:
        """As `put`, but turned by its EXIF orientation: such an image is kept as a PNG without one, and that returned.

        An image that is upright already keeps its own bytes and hash.
        """
        sha256 = self.put(ctrl_img, access)
        data = self.data(sha256, access)
        turn = _TURNS.get(self._read(data, _orientation))
        if turn is None:
            return sha256
        file = io.BytesIO()
        self._rgb(data).transpose(turn).save(file, "PNG")
        return self._keep(file.getvalue(), access)

    def notes(self, sha256: str, access: Access) -> tuple[str, ...]:
        """Sentences on what makes the image differ from what a viewer shows: EXIF orientation, 16 bits a channel."""
        data = self.data(sha256, access)
        notes = []
        if self._read(data, _orientation) in _TURNS:
            notes.append(
                "The first frame's file says by its EXIF orientation that it is to be turned. It is used as stored, as "
                "by the reference server and the trainer; set apply_exif to turn it."
            )
        if self._read(data, _is_16_bit):
            notes.append("The first frame has 16 bits a pixel, which were scaled to 8 bits.")
        return tuple(notes)

    def has(self, sha256: str, access: Access) -> bool:
        """Whether the image of this SHA-256 is kept and the caller may use it."""
        if not _SHA256.fullmatch(sha256) or not (self._folder / sha256).is_file():
            return False
        return self._owned.may_use(sha256, access)

    def open(self, sha256: str, access: Access) -> Image.Image:
        """The image as RGB at its full size, decoded anew for each caller. Raises ControlImageInvalid if it is gone."""
        return self._rgb(self.data(sha256, access))

    def data(self, sha256: str, access: Access) -> bytes:
        """The file's bytes. Raises ControlImageInvalid if it is gone."""
        path = self._folder / self._kept(sha256, access)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise _gone() from error

    def _kept(self, sha256: str, access: Access) -> str:
        if not self.has(sha256, access):
            raise _gone()
        return sha256

    def _fetched(self, url: str) -> bytes:
        try:
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
            data = base64.b64decode(payload, validate=True)
        except ValueError as error:
            raise ControlImageInvalid(
                "The first frame is neither base64 nor an address: send the image file as base64, with or without "
                "a data: header, or an http:// or https:// address."
            ) from error
        if not data:
            raise ControlImageInvalid("The first frame is empty: send an image file.")
        return data

    def _rgb(self, data: bytes) -> Image.Image:
        """The decoded image, by the very call of the reference server: no EXIF turn, alpha dropped, first frame.

        Only 16-bit grey images are read otherwise: that call cuts every value above 255 off, which leaves them white.
        """
        return self._read(data, _as_rgb)

    def _read(self, data: bytes, take: Callable[[Image.Image], Taken]) -> Taken:
        """What `take` makes of the opened image. Raises ControlImageInvalid for what cannot be read."""
        with _decoding, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    width, height = image.size
                    if width * height > self._max_pixels:
                        raise self._too_many_pixels(f" ({width} × {height})")
                    return take(image)
            except UnidentifiedImageError as error:
                raise ControlImageInvalid(f"Cannot read the first frame. Use {', '.join(FORMATS)}.") from error
            except Image.DecompressionBombError as error:
                raise self._too_many_pixels("") from error
            except UNREADABLE as error:
                raise ControlImageInvalid(
                    "The first frame is damaged or cut off: save the image again, as PNG or JPEG."
                ) from error

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


def _as_rgb(image: Image.Image) -> Image.Image:
    if not _is_16_bit(image):
        return image.convert("RGB")
    levels = np.asarray(image).astype(np.uint32)  # (height, width), 0 to 65535
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")  # rounds levels · 255 / 65535


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where the file states none."""
    stated = image.getexif().get(ORIENTATION, 1)
    return stated if isinstance(stated, int) else 1


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image at exactly `width` × `height` pixels, by LANCZOS, stretched where its shape differs, never cropped."""
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _gone() -> ControlImageInvalid:
    return ControlImageInvalid("This upload was not found: upload the first frame again.")
