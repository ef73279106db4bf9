"""Every parser of others' files against mutated files and made-up attacks: an error of ours, soon, in little memory.

The attacks are bombs of each format's own kind; the mutations are of good files. `WAN_UI_EXAMPLES` sets how many.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.attacks.files import box, config, film, numbers, png, zipped
from tests.golden_cases import GOLDEN
from tests.mp4_boxes import carrying
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.headers import read_header as read_checkpoint
from wan_ui.errors import WanUIError
from wan_ui.lora.header import read_header as read_lora
from wan_ui.media import boxes, video
from wan_ui.media.image import ImageStore
from wan_ui.provenance import restoring
from wan_ui.trainer import safe_yaml, sample_files
from wan_ui.trainer.folder import unpack

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("WAN_UI_EXAMPLES", "12"))
MOST_SECONDS = float(os.environ.get("WAN_UI_PARSER_SECONDS", "20"))  # generous: another process may have the processor
MOST_MEMORY = 200 << 20
MINUTES = float(os.environ.get("WAN_UI_PARSER_MINUTES", "2"))  # of the soak, for each parser
LONG = 5  # times as long for the formats that are parsed in most places

Parse = Callable[[Path], object]


def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


def picture(kind: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize((48, 40)).convert("P" if kind == "GIF" else "RGB")
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def animation(kind: str, frames: int = 4, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    shown = [Image.new("RGB", (side, side), (index % 256, 90, 30)) for index in range(frames)]
    shown[0].save(buffer, kind, save_all=True, append_images=shown[1:], duration=60)
    return buffer.getvalue()


def _put(path: Path) -> object:
    return ImageStore(path.parent / "images", no_fetch).put_bytes(path.read_bytes(), LOCAL_ACCESS)


def _unpack(path: Path) -> object:
    into = path.with_name(f"job-{time.monotonic_ns()}")
    return unpack(path, into, free=lambda folder: 100 << 20)


def _read_boxes(path: Path) -> object:
    return boxes.comment(path), boxes.check_sizes(path, 1000, 2**24)


UNETS = "single_files/models/unet"


def _start(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()[:60_000]


SEEDS: dict[str, tuple[Parse, list[bytes]]] = {
    "mp4": (_read_boxes, [film(20, 4), carrying({"a": 1})]),
    "settings": (restoring.read, [carrying({"wan_ui": "0.2.0", "request": {"model": "wan21_1b", "prompts": []}})]),
    "image": (_put, [picture(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]),
    "sample": (sample_files.decode, [animation("WEBP"), animation("GIF"), animation("PNG"), picture("JPEG")]),
    "zip": (_unpack, [zipped({"config.yaml": config(), "samples/1__000000250_0.png": png(8)})]),
    "yaml": (lambda path: safe_yaml.load(path.read_bytes()), [config(), b'{"config": {"name": "a", "process": []}}']),
    "safetensors": (lambda path: read_lora(path, "a.safetensors"), [_start("loras/t2v.safetensors")]),
    "gguf": (lambda path: read_checkpoint(path, "a.gguf"), [_start(f"{UNETS}/wan2.1-t2v-14b-Q4_K_M.gguf")]),
}  # fmt: skip


def attempt(kind: str, content: bytes, folder: Path) -> None:
    """Parses a file; only an error of ours may come of it, within the bounds."""
    path = folder / f"file-{kind}"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.monotonic()
    try:
        SEEDS[kind][0](path)
    except WanUIError as error:
        assert str(folder) not in error.message
    finally:
        seconds, memory = time.monotonic() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < MOST_SECONDS, f"{seconds:.1f} s"
    assert memory < MOST_MEMORY, f"{memory / 1e6:.0f} MB"


@pytest.mark.soak
@pytest.mark.parametrize("kind", SEEDS)
def test_files_mutated_for_some_minutes(kind: str, tmp_path: Path) -> None:
    """As many files as there is time for: each within 2 s of processor time and 200 MB."""
    path, number, longest, most = tmp_path / f"file-{kind}", 0, 0.0, 0
    end = time.monotonic() + 60 * MINUTES * (LONG if kind in ("mp4", "safetensors", "gguf") else 1)
    while time.monotonic() < end:
        number += 1
        rng = random.Random(f"{kind} {number}")
        path.write_bytes(mutated(rng.choice(SEEDS[kind][1]), rng))
        tracemalloc.start()
        begun = time.process_time()
        try:
            SEEDS[kind][0](path)
        except WanUIError as error:
            assert str(tmp_path) not in error.message
        longest = max(longest, time.process_time() - begun)
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert longest < 2 and most < MOST_MEMORY, f"file {number}: {longest:.1f} s, {most / 1e6:.0f} MB"
    print(f"\n{kind}: {number:,} files, at most {longest:.2f} s and {most / 1e6:.0f} MB")


def mutated(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(max(1, len(data)))
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case 2:
                data[at : at + 8] = rng.choice((b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack(">Q", 2**40)))
            case 3:
                del data[at : at + rng.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 200)] * rng.randint(1, 30)
            case _:
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.integers(0, 2**32), st.sampled_from(range(len(SEEDS[kind][1]))))
    def run(number: int, which: int) -> None:
        attempt(kind, mutated(SEEDS[kind][1][which], random.Random(number)), tmp_path)

    run()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_with(*chunks: bytes, side: int = 8) -> bytes:
    whole = png(side)
    return whole[:33] + b"".join(chunks) + whole[33:]


def head_of_png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0))


def rle_bmp() -> bytes:
    """8,000 × 8,000 pixels in pairs of a count and a value."""
    start = 14 + 40 + 1024
    size = struct.pack("<LLHHL", start + 800_000, 0, 0, 0, 0)[:8] + struct.pack("<L", start)
    head = struct.pack("<LLLHHLLLLLL", 40, 8_000, 8_000, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + size + head + bytes(1024) + b"\1\2" * 400_000


def tiff_of_strips() -> bytes:
    """A directory that states a million strips of JPEG."""
    entries = ((256, 4, 1, 8_000), (257, 4, 1, 8_000), (259, 3, 1, 7), (273, 4, 1_000_000, 8))
    return b"II*\0\x08\0\0\0\x04\0" + b"".join(struct.pack("<HHLL", *entry) for entry in entries) + bytes(4)


def multiplying() -> bytes:
    """Nine lists, each of nine times the one before."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]" for before, after in pairwise("abcdefghij")]
    return "\n".join(lines).encode()


LARGE = json.dumps({"a.lora_A.weight": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 4]}}).encode()
BOMB = zlib.compress(bytes(80_000_000), 9)
DEEP = b"[" * 50_000
GGUF = b"GGUF" + struct.pack("<LQQ", 3, 0, 1)
ATTACKS: dict[str, tuple[str, bytes]] = {
    "an iCCP chunk that unpacks to 80 MB": ("image", png_with(chunk(b"iCCP", b"a\0\0" + BOMB))),
    "hundreds of zTXt chunks that unpack to 80 MB each": ("image", png_with(*[chunk(b"zTXt", b"a\0\0" + BOMB)] * 200)),
    "a compressed iTXt of 80 MB": ("image", png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB))),
    "a PNG of 60,000 by 60,000": ("image", head_of_png(60_000, 60_000) + chunk(b"IDAT", BOMB)),
    "a PNG of no width": ("image", head_of_png(0, 2**31 - 1) + chunk(b"IDAT", BOMB)),
    "an APNG of a million frames": ("sample", png_with(chunk(b"acTL", struct.pack(">LL", 1_000_000, 0)))),
    "an EXIF directory that points at itself": (
        "image", picture("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x69\x87\x04\0\x01\0\0\0\x08\0\0\0" * 2)
    ),
    "an EXIF value of four billion numbers": (
        "image", picture("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0")
    ),
    "a GIF of 65,535 by 65,535": (
        "sample", b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x00;"
    ),
    "a GIF of 2,000 frames": ("sample", animation("GIF", 2_000, 2)),
    "a WebP of 2,000 frames": ("sample", animation("WEBP", 2_000, 2)),
    "a BMP of RLE pairs": ("image", rle_bmp()),
    "a TIFF of a million strips": ("image", tiff_of_strips()),
    "boxes within boxes": ("mp4", box(b"ftyp", b"isom") + box(b"moov", *[b"\0\0\0\x08free"] * 50_000)),
    "a box that states no size, again and again": ("mp4", box(b"ftyp", b"isom") + b"\0\0\0\0free" * 10_000),
    "a box of 2⁶³ bytes": ("mp4", box(b"ftyp", b"isom") + b"\0\0\0\1moov" + b"\x7f" + b"\xff" * 7),
    "a film of two billion samples": ("mp4", film(20, 4).replace(numbers(0, 1, 20), numbers(0, 1, 2**31 - 1))),
    "a comment of deep JSON": ("settings", carrying(DEEP)),
    "a comment of numbers with a million digits": ("settings", carrying(b'{"request": ' + b"9" * 1_000_000 + b"}")),
    "aliases that multiply": ("yaml", multiplying()),
    "deep YAML": ("yaml", DEEP),
    "a YAML tag that makes an object": ("yaml", b"a: !!python/object/apply:os.system ['true']"),
    "a YAML number in base 60 of a million parts": ("yaml", b"a: " + b"59:" * 300_000 + b"1"),
    "a YAML of a million keys": ("yaml", b"\n".join(b"k%d: 1" % n for n in range(100_000))),
    "a ZIP that lies about its size": (
        "zip", zipped({"config.yaml": config()}).replace(struct.pack("<L", len(config())), b"\xff\xff\xff\x7f")
    ),
    "a ZIP of six thousand names": ("zip", zipped({f"samples/{n}.png": b"" for n in range(6_000)})),
    "a ZIP with folders 500 deep": ("zip", zipped({"config.yaml": config(), "a/" * 500 + "b.png": b"x"})),
    "a ZIP whose config is a bomb of aliases": (
        "zip", zipped({"config.yaml": b"a: &a [1,1]\nb: [*a" + b",*a" * 200_000 + b"]"})
    ),
    "a header of a terabyte": ("safetensors", struct.pack("<Q", 2**40) + b"{}"),
    "a safetensors header of deep JSON": ("safetensors", struct.pack("<Q", len(DEEP)) + DEEP),
    "a tensor of 2⁶⁴ elements": ("safetensors", struct.pack("<Q", len(LARGE)) + LARGE + bytes(4)),
    "a GGUF string of an exabyte": ("gguf", GGUF + struct.pack("<Q", 2**60) + b"a"),
    "a GGUF array of arrays of arrays": (
        "gguf", GGUF + struct.pack("<Q", 1) + b"a" + struct.pack("<L", 9) + struct.pack("<LQ", 9, 2**40) * 5_000
    ),
    "a GGUF of 2⁶⁰ tensors": ("gguf", b"GGUF" + struct.pack("<LQQ", 3, 2**60, 0) + bytes(64)),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_parser_ends_in_an_error_of_ours(name: str, tmp_path: Path) -> None:
    kind, content = ATTACKS[name]
    attempt(kind, content, tmp_path)


def test_a_first_frame_of_mutated_films_is_a_picture_or_an_error(tmp_path: Path) -> None:
    """The only parser here that is ffmpeg's."""
    video.write(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8, {})
    good = (tmp_path / "a.mp4").read_bytes()
    for number in range(max(3, EXAMPLES // 10)):
        (tmp_path / "b.mp4").write_bytes(mutated(good, random.Random(number)))
        try:
            assert video.first_frame(tmp_path / "b.mp4")[:4] == b"\x89PNG"
        except WanUIError as error:
            assert str(tmp_path) not in error.message
