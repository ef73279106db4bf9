"""Files that are no checkpoints, and headers that lie."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import pytest

from tests.checkpoints.published_files import header_bytes, write_sparse
from tests.golden_cases import GOLDEN
from wan_ui.checkpoints import gguf_files
from wan_ui.checkpoints.configs import ModelConfigs
from wan_ui.checkpoints.detection import detect
from wan_ui.checkpoints.headers import read_header
from wan_ui.checkpoints.quantization import read_quantization
from wan_ui.errors import (
    CheckpointIncomplete,
    CheckpointInvalid,
    CheckpointNotFound,
    CheckpointUnsupported,
    HostError,
)

SINGLE = GOLDEN / "single_files"
SMALL = SINGLE / "models/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
GGUF = SINGLE / "models/unet/wan2.1-t2v-14b-Q4_K_M.gguf"
TEXT_GGUF = SINGLE / "models/text_encoders/umt5-xxl-encoder-Q8_0.gguf"


def write(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "error", "word"),
    [
        (b"", CheckpointIncomplete, "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", CheckpointInvalid, "Git LFS pointer"),
        (b"<!DOCTYPE html><html>sign in</html>", CheckpointInvalid, "web page"),
        (b"\n  <html></html> and more than ten bytes", CheckpointInvalid, "web page"),
        (b"PK\x03\x04" + b"\0" * 60, CheckpointInvalid, "pickle"),
        (b"\x80\x02}q\0.", CheckpointInvalid, "pickle"),
        (b"\x02\0\0\0\0", CheckpointIncomplete, "5 bytes"),
        (b"\0" * 64, CheckpointInvalid, "neither"),
        (b"\xff" * 8 + b"{" + b" " * 60, CheckpointInvalid, "claims"),
        (struct.pack("<Q", 4096) + b"{" + b" " * 60, CheckpointIncomplete, "incomplete"),
        (struct.pack("<Q", 2) + b"{}" + b" " * 20, CheckpointInvalid, "no tensors"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, error: type[HostError], word: str) -> None:
    with pytest.raises(error) as caught:
        read_header(write(tmp_path, content), "the file")
    assert word in caught.value.message and "the file" in caught.value.message
    assert caught.value.details["file"] == "the file"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound):
        read_header(tmp_path / "none.safetensors", "none.safetensors")


def test_truncated_and_too_long_files_are_refused(tmp_path: Path) -> None:
    content = SMALL.read_bytes()
    with pytest.raises(CheckpointIncomplete):
        read_header(write(tmp_path, content[:-1]), "cut")
    with pytest.raises(CheckpointInvalid):
        read_header(write(tmp_path, content + b"\0"), "long")
    packed = GGUF.read_bytes()
    with pytest.raises(CheckpointIncomplete):
        read_header(write(tmp_path, packed[:-64], "cut.gguf"), "cut.gguf")
    with pytest.raises(CheckpointIncomplete):
        read_header(write(tmp_path, packed[:1000], "cut.gguf"), "cut.gguf")


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0"])
def test_formats_of_four_bits_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    raw = header_bytes({"a.weight": ("U8", (4,))}).replace(b'"U8"', f'"{dtype}"'.encode())
    length = len(raw) - 8
    content = length.to_bytes(8, "little") + raw[8:] + b"\0" * 4
    with pytest.raises(CheckpointUnsupported) as caught:
        read_header(write(tmp_path, content), "nvfp4.safetensors")
    assert dtype in caught.value.message


def test_long_metadata_is_kept(tmp_path: Path) -> None:
    """`_quantization_metadata` names every layer, and is longer than what a LoRA's metadata may be."""
    path = write_sparse(
        tmp_path / "a.safetensors", {"a.weight": ("F16", (2, 2))}, {"_quantization_metadata": "x" * 100_000}
    )
    assert len(str(read_header(path, "a").metadata["_quantization_metadata"])) == 100_000


def test_a_gguf_header_is_read_as_the_package_reads_it() -> None:
    for path in (GGUF, SINGLE / "models/unet/wan2.1-t2v-14b-Q8_0.gguf", TEXT_GGUF):
        header = read_header(path, path.name)
        reader = gguf.GGUFReader(path)
        assert {tensor.name for tensor in reader.tensors} == set(header.tensors)
        for tensor in reader.tensors:
            entry = header.tensors[tensor.name]
            assert entry.dtype == tensor.tensor_type.name
            assert entry.shape == tuple(reversed([int(length) for length in tensor.shape]))
            assert (entry.start, entry.end - entry.start) == (tensor.data_offset, tensor.n_bytes)


def test_block_sizes_are_the_packages() -> None:
    for number, (name, values, size) in gguf_files.BLOCKS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (values, size))


def mutate(content: bytes, header: int, random_source: random.Random) -> bytes:
    """The content with a few bytes of its first `header` bytes changed, removed, repeated, or its end cut off."""
    changed = bytearray(content)
    for _ in range(random_source.randint(1, 6)):
        at = random_source.randrange(min(header, len(changed)))
        match random_source.randrange(5):
            case 0:
                changed[at] = random_source.randrange(256)
            case 1:
                del changed[at : at + random_source.randint(1, 40)]
            case 2:
                changed[at:at] = changed[at : at + random_source.randint(1, 40)]
            case 3:
                changed[at : at + 8] = random_source.choice([b"\xff" * 8, b"\0" * 8, b"\0" * 7 + b"\x7f", b'"' * 8])
            case _:
                del changed[random_source.randrange(len(changed)) :]
        if not changed:
            break
    return bytes(changed)


def read_everything(path: Path) -> None:
    """What a scan does with a file; only typed errors may come of it."""
    configs = ModelConfigs(SINGLE / "configs")
    try:
        header = read_header(path, path.name)
        detect(header, read_quantization(header), path.name, configs)
    except HostError as error:
        assert error.details["file"] == path.name


@pytest.mark.parametrize(
    ("source", "header"), [(SMALL, 12_000), (GGUF, 3_000), (TEXT_GGUF, 6_000)], ids=lambda v: str(v)[-20:]
)
def test_mutated_headers_are_refused_with_a_type(tmp_path: Path, source: Path, header: int) -> None:
    content = source.read_bytes()
    random_source = random.Random(14)
    for _ in range(150):
        read_everything(write(tmp_path, mutate(content, header, random_source), f"mutated{source.suffix}"))


@pytest.mark.soak
@pytest.mark.parametrize("source", [SMALL, GGUF, TEXT_GGUF], ids=lambda path: path.name)
def test_ten_thousand_mutated_headers(tmp_path: Path, source: Path) -> None:
    content = source.read_bytes()
    random_source = random.Random(2026)
    for _ in range(10_000):
        read_everything(write(tmp_path, mutate(content, 6_000, random_source), f"mutated{source.suffix}"))
