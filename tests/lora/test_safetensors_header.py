"""What is no sound safetensors file is refused by its header alone, cheaply, whatever was done to it."""

from __future__ import annotations

import json
import os
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from tests.lora.writers import header_bytes, sparse
from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.header import read_header
from wan_ui.lora.safetensors_header import LARGEST_HEADER, MOST_TENSORS, read_safetensors_header

MUTATIONS = int(os.environ.get("WAN_UI_MUTATIONS", "500"))
MOST_MEMORY = 20 * 2**20  # bytes, over what was in use before
Q = "diffusion_model.blocks.0.self_attn.q"


def _file(header: bytes, data: bytes = b"", claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


def _one(**entry: object) -> bytes:
    return _file(json.dumps({f"{Q}.lora_A.weight": entry}).encode(), b"\0" * 16)


GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
DEEP = b"[" * 200_000

REFUSED = {
    "empty": b"",
    "nine bytes": b"\2\0\0\0\0\0\0\0{",
    "html": b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "pickle": b"\x80\x02}q\x00." + b"\0" * 100,
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "gguf": b"GGUF" + b"\0" * 100,
    "text": b"hello, I am not a LoRA at all",
    "header longer than the file": _file(b"{}", claimed=1000),
    "header longer than any": _file(b"{" + b" " * 100, claimed=2**62),
    "header of a gigabyte": _file(b"{" + b" " * 100, claimed=2**30),
    "header of length 1": _file(b"{}", claimed=1),
    "no tensors": _file(b"{}"),
    "metadata alone": _file(b'{"__metadata__":{"a":"b"}}'),
    "array": _file(b"[]" + b" " * 20),
    "unclosed": _file(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}', b"\0" * 4),
    "two values": _file(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}{}', b"\0" * 4),
    "comma at the end": _file(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},}', b"\0" * 4),
    "no colon": _file(b'{"a" {"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"\0" * 4),
    "unclosed name": _file(b'{"a\\"' + b" " * 50),
    "not utf-8": _file(b'{"\xff":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"\0" * 4),
    "control character": _file(b'{"a\x01":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"\0" * 4),
    "name twice": _file(
        b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}',
        b"\0" * 8,
    ),
    "field twice": _file(b'{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"\0" * 4),
    "metadata twice": _file(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata of numbers": _file(b'{"__metadata__":{"a":1}}'),
    "deep tensor": _file(b'{"a":' + DEEP),
    "deep shape": _file(b'{"a":{"dtype":"F32","data_offsets":[0,4],"shape":' + DEEP + b"}}"),
    "deep metadata": _file(b'{"__metadata__":{"a":' + b'{"a":' * 200_000),
    "long name": _file(b'{"' + b"a" * 100_000 + b'":{}}'),
    "long entry": _file(b'{"a":{"dtype":"' + b"F" * 100_000 + b'","shape":[],"data_offsets":[0,4]}}'),
    "huge number": _file(b'{"a":{"dtype":"F32","shape":[' + b"9" * 900 + b'],"data_offsets":[0,4]}}'),
    "negative": _one(**{**GOOD, "shape": [-2, -2]}),
    "fraction": _one(**{**GOOD, "shape": [2.0, 2]}),
    "true": _one(**{**GOOD, "shape": [True, 4]}),
    "not a number": _file(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"\0" * 4),
    "unknown dtype": _one(**{**GOOD, "dtype": "F128"}),
    "dtype of another size": _one(**{**GOOD, "dtype": "F64"}),
    "shape too large": _one(**{**GOOD, "shape": [2**61, 2**61]}),
    "nine dimensions": _one(**{**GOOD, "shape": [1] * 8 + [4]}),
    "offsets backwards": _one(**{**GOOD, "data_offsets": [16, 0]}),
    "three offsets": _one(**{**GOOD, "data_offsets": [0, 8, 16]}),
    "hole before": _one(**{**GOOD, "data_offsets": [4, 20]}),
    "bytes behind": _one(**{**GOOD, "shape": [2, 1], "data_offsets": [0, 8]}),
    "data cut off": _one(**{**GOOD, "shape": [4, 4], "data_offsets": [0, 64]}),
    "missing field": _one(dtype="F32", shape=[2, 2]),
    "further field": _one(**GOOD, comment="x"),
    "quotes by the million": _file(b'{"' + b'\\"' * (LARGEST_HEADER // 2 - 8) + b'":{}}'),
    "entries by the hundred thousand": _file(
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(130_000)) + b"}"
    ),
    "metadata by the hundred thousand": _file(
        b'{"__metadata__":{' + b",".join(b'"%d":"%s"' % (n, b"x" * 40) for n in range(140_000)) + b"}}"
    ),
}


def refuse(content: bytes, path: Path) -> LoraInvalid:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(LoraInvalid) as caught:
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    refuse(REFUSED[name], tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("html", "HTML page"),
        ("zip", "pickle"),
        ("pickle", "pickle"),
        ("git lfs pointer", "Git LFS"),
        ("header longer than the file", "incomplete"),
        ("data cut off", "incomplete"),
        ("empty", "empty"),
    ],
)
def test_the_message_names_what_the_file_is(name: str, said: str, tmp_path: Path) -> None:
    assert said in refuse(REFUSED[name], tmp_path / "a.safetensors").message


def test_whole_weights_are_no_lora(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.safetensors", {"blocks.0.attn1.to_q.weight": ("BF16", (48, 48))}, None)
    with pytest.raises(LoraInvalid, match="holds no LoRA"):
        read_header(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LoraNotFound):
        read_header(tmp_path / "none.safetensors")


def test_a_sound_file_is_listed_with_offsets_from_its_start(tmp_path: Path) -> None:
    tensors = {f"{Q}.lora_A.weight": ("F32", (2, 3)), f"{Q}.alpha": ("BF16", ())}
    path = sparse(tmp_path / "a.safetensors", tensors, {"a": 'quo"te\\', "ö": "\u2028"})
    listing = read_safetensors_header(path)
    base = path.stat().st_size - 26
    assert [(e.dtype, e.shape, e.start, e.end) for e in listing.tensors.values()] == [
        ("F32", (2, 3), base, base + 24),
        ("BF16", (), base + 24, base + 26),
    ]
    assert listing.metadata == {"a": 'quo"te\\', "ö": "\u2028"}


@pytest.mark.slow
def test_the_largest_header_that_is_taken_stays_in_bounds(tmp_path: Path) -> None:
    names = [f"diffusion_model.blocks.{n // 30}.self_attn.q.lora_A.w{n % 30}.weight" for n in range(MOST_TENSORS)]
    tensors = dict.fromkeys(names, ("BF16", (1, 1)))
    path = sparse(tmp_path / "a.safetensors", tensors, {"ss_tag_frequency": "x" * (LARGEST_HEADER - 2**21)})
    tracemalloc.start()
    with pytest.raises(LoraInvalid, match="twice"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()


# ---- Mutations of a sound file


def _base() -> tuple[bytes, bytes]:
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for n in range(3):
        for leaf in ("self_attn.q", "cross_attn.o", "ffn.0"):
            stem = f"diffusion_model.blocks.{n}.{leaf}"
            tensors |= {
                f"{stem}.lora_A.weight": ("F32", (2, 8)),
                f"{stem}.lora_B.weight": ("F32", (8, 2)),
                f"{stem}.alpha": ("F32", ()),
            }
    head, size = header_bytes(tensors, {"software": '{"name": "ai-toolkit"}', "ss_tag_frequency": '{"1_x": {"x": 1}}'})
    return head[8:], b"\0" * size


def _flip(random_: random.Random, header: bytes, data: bytes) -> bytes:
    changed = bytearray(_file(header, data))
    for _ in range(random_.choice((1, 1, 2, 8))):
        changed[random_.randrange(8 + len(header))] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _lie_about_length(random_: random.Random, header: bytes, data: bytes) -> bytes:
    lie = random_.choice((0, 1, 2, len(header) - 1, len(header) - 9, len(header) + 1, 2**31, 2**63, 2**64 - 1))
    return _file(header, data, claimed=lie if lie != len(header) else 7)


def _cut(random_: random.Random, header: bytes, data: bytes) -> bytes:
    whole = _file(header, data)
    return whole[: random_.randrange(len(whole))]


def _append(random_: random.Random, header: bytes, data: bytes) -> bytes:
    return _file(header, data + bytes(random_.randrange(1, 100)))


def _number(random_: random.Random, header: bytes, data: bytes) -> bytes:
    """A count of the listing becomes another."""
    listed = json.loads(header)
    entry = listed[random_.choice([name for name in listed if name != "__metadata__"])]
    field = random_.choice(("shape", "data_offsets"))
    numbers = entry[field] or [1]
    at = random_.randrange(len(numbers))
    numbers[at] = random_.choice((-1, numbers[at] + 1, 2**31, 2**62, 2**64, 10**300, 1.5, None, True, "1", [1], {}))
    entry[field] = numbers
    return _file(json.dumps(listed).encode(), data)


def _deep(random_: random.Random, header: bytes, data: bytes) -> bytes:
    opening = random_.choice((b"[", b'{"a":', b'{"__metadata__":', b'[{"a":'))
    at = random_.choice([n for n, byte in enumerate(header) if byte == ord(":")])
    return _file(header[: at + 1] + opening * random_.randrange(100, 100_000) + header[at + 1 :], data)


def _slice(random_: random.Random, header: bytes, data: bytes) -> bytes:
    """A piece of the header is cut out, doubled or replaced by noise."""
    first = random_.randrange(len(header))
    last = min(len(header), first + random_.randrange(1, 60))
    piece = random_.choice((b"", header[first:last] * 2, random_.randbytes(last - first)))
    return _file(header[:first] + piece + header[last:], data)


MUTATORS = (_flip, _flip, _lie_about_length, _cut, _append, _number, _deep, _slice)


@pytest.mark.slow
def test_mutated_headers_are_refused_and_cost_little(tmp_path: Path) -> None:
    """A mutant that is not refused (a flipped letter) must be sound to safetensors' own reader too."""
    header, data = _base()
    path = tmp_path / "a.safetensors"
    refused = 0
    unchanged = _file(header, data)
    path.write_bytes(unchanged)
    assert len(read_header(path).modules) == 9
    tracemalloc.start()
    for number in range(MUTATIONS):
        random_ = random.Random(number)
        mutator = MUTATORS[number % len(MUTATORS)]
        content = mutator(random_, header, data)
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            read_header(path)
        except LoraInvalid:
            refused += 1
        else:
            # Inside a metadata string a flipped bit, noise or a thousand brackets are just text.
            assert mutator in (_flip, _slice, _deep) or content == unchanged, (number, mutator.__name__)
            try:
                with safe_open(path, framework="pt") as file:
                    assert file.keys()
            except SafetensorError as error:
                raise AssertionError(f"mutant {number} of {mutator.__name__} is not sound: {error}") from error
        assert tracemalloc.get_traced_memory()[1] - before < MOST_MEMORY
    tracemalloc.stop()
    assert refused > 0.8 * MUTATIONS


def test_a_large_file_costs_only_its_header(tmp_path: Path) -> None:
    tensors = {
        f"diffusion_model.blocks.{n}.{leaf}.lora_{ab}.weight": ("BF16", shape)
        for n in range(40)
        for leaf in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")
        for ab, shape in (("A", (460, 5120)), ("B", (5120, 460)))
    }
    path = sparse(tmp_path / "a.safetensors", tensors, None)
    assert path.stat().st_size > 1.5e9
    started = time.process_time()
    header = read_header(path)
    assert time.process_time() - started < 1
    assert header.rank is not None and header.rank.median == 460
