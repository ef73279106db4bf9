"""Decodes one image from standard input to a PNG on standard output. Run by path in a process with limits.

`python -I image_decoder.py FORMATS MAX_PIXELS`, formats with commas between. Its exit status is one of the constants.
It imports nothing of wan_ui: the process starts in a tenth of a second.
"""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib

from PIL import Image, UnidentifiedImageError

UNKNOWN, DAMAGED, TOO_MANY_PIXELS = 3, 4, 5
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


def as_rgb(image: Image.Image) -> Image.Image:
    """The pixels by the very call of the reference server: no EXIF turn, alpha dropped, first frame.

    Only 16-bit grey images are read otherwise: that call cuts every value above 255 off, which leaves them white.
    """
    if not is_16_bit(image):
        return image.convert("RGB")
    import numpy as np

    levels = np.asarray(image).astype(np.uint32)  # (height, width), 0 to 65535
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")  # rounds levels · 255 / 65535


def is_16_bit(image: Image.Image) -> bool:
    """Whether the image has 16 bits of grey a pixel."""
    return image.mode.startswith("I;16")


def main() -> int:
    """Decodes the image and returns the exit status."""
    formats, most = sys.argv[1].split(","), int(sys.argv[2])
    warnings.simplefilter("ignore")
    try:
        with Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=formats) as image:
            if image.width * image.height > most:
                return TOO_MANY_PIXELS
            as_rgb(image).save(sys.stdout.buffer, "PNG", compress_level=1)
    except UnidentifiedImageError:
        return UNKNOWN
    except UNREADABLE:
        return DAMAGED
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
