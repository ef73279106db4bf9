"""How much host memory this process's control group still lets it use: a container has less than its host."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def free_bytes(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes that can still be allocated under the tightest limit of the process's groups; None without a limit.

    The page cache that the kernel would give up first (`inactive_file`) counts as free, as in the host's own figure.
    Both versions of control groups are read: `memory.max`, and version 1's `memory.limit_in_bytes`.
    """
    groups: list[tuple[Path, str, str]] = []
    for line in _lines(own):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            groups += [(folder, "memory.max", "memory.current") for folder in _folders(root, path)]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            groups += [(folder, *names) for folder in _folders(root / "memory", path)]
    free = [left for group in groups if (left := _left(*group)) is not None]
    return min(free, default=None)


def _folders(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it; in a container the path may be the host's, and only the root is there."""
    folder = root / path.lstrip("/")
    return [root, *(each for each in (folder, *folder.parents) if root in each.parents)]


def _left(folder: Path, limit_name: str, used_name: str) -> int | None:
    limit, used = _lines(folder / limit_name), _lines(folder / used_name)
    if not limit or not used or not limit[0].isdigit():  # "max": no limit
        return None
    statistics = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    given_up = int(statistics.get("total_inactive_file") or statistics.get("inactive_file") or 0)
    return max(0, int(limit[0]) - max(0, int(used[0]) - given_up))


def _lines(file: Path) -> list[str]:
    """The lines of a file of the kernel; none where it is not there, as on other systems."""
    try:
        return file.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
