"""Files that somebody who means harm would send, made byte by byte."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Mapping

from PIL import Image

CONFIG = """
job: extension
config:
  name: fox
  process:
  - type: diffusion_trainer
    trigger_word: sks
    network: {{type: lora, linear: 4}}
    model: {{arch: "{arch}", name_or_path: "{name}"}}
    sample:
      {{width: 96, height: 64, num_frames: 9, fps: 16, seed: 42, guidance_scale: 4, sample_steps: 3, neg: "",
       samples: [{{prompt: "a fox runs", seed: 7{more}}}]}}
"""


def config(more: str = "", image_to_video: bool = False) -> bytes:
    """A training job's config; `more` is added to its one sample."""
    arch, name = "wan21", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    if image_to_video:
        arch, name = "wan22_14b_i2v", "ai-toolkit/Wan2.2-I2V-A14B-Diffusers-bf16"
    return CONFIG.format(arch=arch, name=name, more=more).encode()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A ZIP of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of an MP4."""
    content = b"".join(contents)
    return (len(content) + 8).to_bytes(4) + kind + content


def numbers(*values: int) -> bytes:
    """32-bit numbers, as they stand in boxes."""
    return b"".join(value.to_bytes(4) for value in values)


def film(samples: int, per_chunk: int, size: int = 1, width: int = 64, height: int = 64) -> bytes:
    """An MP4 whose tables state `samples` samples of `size` bytes, in chunks that are all the same bytes."""
    start = box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
    chunks = -(-samples // per_chunk)
    entry = bytes(6) + b"\0\1" + bytes(16) + width.to_bytes(2) + height.to_bytes(2)
    entry += numbers(0x480000, 0x480000, 0) + b"\0\1" + bytes(32) + b"\0\x18\xff\xff"
    stbl = box(
        b"stbl",
        box(b"stsd", numbers(0, 1), box(b"jpeg", entry)),
        box(b"stts", numbers(0, 1, samples, 1)),
        box(b"stsc", numbers(0, 1, 1, per_chunk, 1)),
        box(b"stsz", numbers(0, size, samples)),
        box(b"stco", numbers(0, chunks), numbers(len(start) + 8) * chunks),
    )
    minf = box(
        b"minf", box(b"vmhd", bytes(12)), box(b"dinf", box(b"dref", numbers(0, 1), box(b"url ", numbers(1)))), stbl
    )
    mdhd, hdlr = box(b"mdhd", numbers(0, 0, 0, 1000, samples, 0)), box(b"hdlr", numbers(0, 0), b"vide", bytes(13))
    tkhd = box(b"tkhd", numbers(7, 0, 0, 1, 0, samples), bytes(52), numbers(width << 16, height << 16))
    mvhd = box(b"mvhd", numbers(0, 0, 0, 1000, samples, 0x10000), bytes(76))
    moov = box(b"moov", mvhd, box(b"trak", tkhd, box(b"mdia", mdhd, hdlr, minf)))
    return start + box(b"mdat", bytes(per_chunk * size)) + moov


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again: a hundred bytes for a pass over the whole image."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def squeezable(size: int, seed: int) -> bytes:
    """Bytes that a ZIP holds in about an eightieth of their size."""
    rng = random.Random(seed)
    return b"".join(bytes(4000) + rng.randbytes(48) for _ in range(size // 4048))


def png(side: int = 64, level: int = 90) -> bytes:
    """An ordinary picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (level, 120, 200)).save(buffer, "PNG")
    return buffer.getvalue()
