"""Whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from wan_ui.errors import TooManyOpenFiles
from wan_ui.files import check_descriptors, remove_parts, write_file


def test_save_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "a", b"one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_sweep_takes_parts_of_this_project_and_nothing_else(tmp_path: Path) -> None:
    foreign = ["part-1", ".partial", "a.part", ".parts-1", "clip.mp4", "folder/.part-1"]
    for name in (*foreign, ".part-1", ".part-2/deep/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    outside = tmp_path / "folder"
    (tmp_path / ".part-3").symlink_to(outside, target_is_directory=True)
    remove_parts(tmp_path)
    remove_parts(tmp_path / "nothing")
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(foreign)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "x"), OSError(errno.ENFILE, "x"), RuntimeError("x (os error 24)")]
)
def test_no_descriptor_left_is_told_from_what_is_wrong_with_a_file(error: Exception) -> None:
    outer = ValueError("the file is damaged")
    outer.__cause__ = error
    for each in (error, outer):
        with pytest.raises(TooManyOpenFiles):
            check_descriptors(each)
    for other in (OSError(errno.ENOENT, "x"), ValueError("x")):
        check_descriptors(other)
