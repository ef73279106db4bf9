"""A file is read once for its hash, also over a restart, and again whenever it changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wan_ui.lora.hash_cache import HashCache


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_hash_is_known_once_it_was_read_and_after_a_restart(tmp_path: Path) -> None:
    file, kept = tmp_path / "a.safetensors", tmp_path / "hashes.json"
    file.write_bytes(b"one")
    hashes = HashCache(kept)
    assert hashes.known(file) is None
    assert hashes.of(file) == sha256(b"one") == hashes.known(file)
    assert HashCache(kept).known(file) == sha256(b"one")
    assert HashCache().known(file) is None


def test_another_content_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    file, kept = tmp_path / "a.safetensors", tmp_path / "hashes.json"
    file.write_bytes(b"one")
    state = file.stat()
    assert HashCache(kept).of(file) == sha256(b"one")
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    assert HashCache(kept).known(file) is None
    assert HashCache(kept).of(file) == sha256(b"two")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b'{"a": [[1], "x"]}', b"\xff"])
def test_a_damaged_memory_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    file, kept = tmp_path / "a.safetensors", tmp_path / "hashes.json"
    file.write_bytes(b"one")
    kept.write_bytes(content)
    assert HashCache(kept).of(file) == sha256(b"one")
    assert HashCache(kept).known(file) == sha256(b"one")


def test_a_file_that_is_gone_has_none(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        HashCache().of(tmp_path / "none")


def test_without_room_for_its_memory_it_still_answers(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    assert HashCache(tmp_path / "none" / "hashes.json").of(file) == sha256(b"one")
