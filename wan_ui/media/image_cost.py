"""What decoding an image costs, from its headers: pixels, each counted once for every pass of its decoder over them."""

from __future__ import annotations

import re

from PIL import Image

MOST_SCANS = 64  # of a JPEG; programs write about ten
CHEAP_PASSES = 2**25  # decoded in less than a second by the decoders below
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed zero nor a restart, which are inside a scan
_SOI, _SOS, _EOI = 0xD8, 0xDA, 0xD9
_SIMPLE_TIFF = frozenset({"raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "group3", "group4"})
_RLE = (1, 2)  # of BMP: decoded by Pillow in Python, a pair of bytes at a time


def jpeg_scans(data: bytes) -> int:
    """The scans of a JPEG's first image: the decoder of a progressive one passes over the whole image for each."""
    scans, at = 0, 2
    while (marker := _MARKER.search(data, at)) is not None:
        kind = marker[1][0]
        at = marker.end()
        if kind == _EOI:
            break
        if kind == _SOI or kind == 0x01:
            continue  # these have no length
        scans += kind == _SOS
        if scans > MOST_SCANS:
            break
        at += int.from_bytes(data[at : at + 2])
    return scans


def passes(image: Image.Image, data: bytes) -> int:
    """Pixels × passes of an opened image and its file's bytes."""
    pixels = image.width * image.height
    return pixels * max(1, jpeg_scans(data)) if image.format == "JPEG" else pixels


def is_cheap(image: Image.Image, data: bytes) -> bool:
    """Whether decoding takes less than a second whatever else the file states, and needs no process of its own."""
    if image.format == "TIFF" and image.info.get("compression") not in _SIMPLE_TIFF:
        return False  # JPEG strips with scans of their own
    if image.format == "BMP" and image.info.get("compression") in _RLE:
        return False
    return passes(image, data) <= CHEAP_PASSES


def stated_webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas that an extended WebP states; None for any other file. Pillow allocates it when it opens the file."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return None
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
