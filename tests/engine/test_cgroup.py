"""The memory that a container may still use, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wan_ui.engine.cgroup import free_bytes

GIB = 1 << 30


def written(folder: Path, **files: str) -> None:
    """Files by name, with dots in the place of underscores at their first one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def own(folder: Path, text: str) -> Path:
    file = folder / "own"
    file.write_text(text)
    return file


def test_the_limit_less_what_is_used_and_cannot_be_given_up(tmp_path: Path) -> None:
    statistics = f"anon {GIB}\ninactive_file {2 * GIB}\n"
    written(tmp_path / "root", memory_max=f"{8 * GIB}\n", memory_current=f"{5 * GIB}\n", memory_stat=statistics)
    assert free_bytes(tmp_path / "root", own(tmp_path, "0::/\n")) == 5 * GIB


def test_the_tightest_group_decides(tmp_path: Path) -> None:
    written(tmp_path / "root" / "outer", memory_max=f"{4 * GIB}\n", memory_current=f"{GIB}\n")
    written(tmp_path / "root" / "outer" / "inner", memory_max=f"{8 * GIB}\n", memory_current=f"{GIB}\n")
    assert free_bytes(tmp_path / "root", own(tmp_path, "0::/outer/inner\n")) == 3 * GIB


def test_a_path_of_the_host_leaves_the_root(tmp_path: Path) -> None:
    written(tmp_path / "root", memory_max=f"{2 * GIB}\n", memory_current="0\n")
    assert free_bytes(tmp_path / "root", own(tmp_path, "0::/system.slice/docker-1.scope\n")) == 2 * GIB


def test_version_1(tmp_path: Path) -> None:
    written(
        tmp_path / "root" / "memory" / "job",
        memory_limit_in_bytes=f"{8 * GIB}\n",
        memory_usage_in_bytes=f"{6 * GIB}\n",
        memory_stat=f"inactive_file 5\ntotal_inactive_file {GIB}\n",
    )
    assert free_bytes(tmp_path / "root", own(tmp_path, "3:cpu,memory:/job\n1:name=systemd:/job\n")) == 3 * GIB


def test_more_than_the_limit_is_used(tmp_path: Path) -> None:
    written(tmp_path / "root", memory_max="100\n", memory_current="200\n")
    assert free_bytes(tmp_path / "root", own(tmp_path, "0::/\n")) == 0


@pytest.mark.parametrize("limit", ["max\n", None])
def test_without_a_limit(tmp_path: Path, limit: str | None) -> None:
    if limit is not None:
        written(tmp_path / "root", memory_max=limit, memory_current="200\n")
    assert free_bytes(tmp_path / "root", own(tmp_path, "0::/\n")) is None


def test_on_another_system(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "none", tmp_path / "none") is None
