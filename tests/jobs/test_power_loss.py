"""Power loss at any moment: of a recorded run, a folder with only what was synced by then opens, with nothing missing.

The run's system calls are recorded with strace. What counts as on the disk is the least that POSIX promises: a file's
bytes as of its last fsync, and a folder's names as of the folder's last fsync.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wan_ui.jobs.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

CALLS = (
    "openat,open,creat,write,pwrite64,pwritev,writev,lseek,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,"
)
CALLS += "ftruncate,mkdir,mkdirat,close,rmdir,dup2"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+(?:<[^>]*>)?)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class Inode:
    """A file's bytes, or a folder's names, as programs see them and as they are on the disk."""

    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    names: dict[str, Inode] | None = None
    synced_names: dict[str, Inode] = field(default_factory=dict)


@dataclass
class Opened:
    """An open file: its inode, the position, and whether each write goes to the end."""

    inode: Inode
    at: int = 0
    appends: bool = False


class Disk:
    """Replays recorded calls below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.top = Inode(names={})
        self.files: dict[str, Opened] = {}

    def play(self, call: str, texts: list[str], arguments: str, result: str) -> bool:
        """Applies a call; whether it changed what is on the disk. An open file is told by its number and path."""
        fields = [field.strip() for field in arguments.split(",")]
        if call in ("openat", "open", "creat"):
            self._open(texts[0], arguments, result)
        elif call in ("mkdir", "mkdirat"):
            self._link(texts[0], Inode(names={}))
        elif call.startswith("rename"):
            inode = self._unlink(texts[0])
            if inode is not None:
                self._link(texts[1], inode)
        elif call in ("unlink", "unlinkat", "rmdir"):
            self._unlink(texts[0])
        elif call == "close":
            self.files.pop(fields[0], None)
        else:
            opened = self.files.get(fields[0])
            if opened is not None:
                return self._change(opened, call, texts, fields, int(result.partition("<")[0]))
        return False

    def _change(self, opened: Opened, call: str, texts: list[str], fields: list[str], result: int) -> bool:
        inode = opened.inode
        if call in ("fsync", "fdatasync"):
            if inode.names is None:
                inode.synced = bytes(inode.data)
            else:
                inode.synced_names = dict(inode.names)
            return True
        if call == "lseek":
            opened.at = result
        elif call == "ftruncate":
            size = int(fields[1])
            inode.data[size:] = bytes(max(0, size - len(inode.data)))
        elif call in ("write", "pwrite64", "writev"):
            data = b"".join(text.encode("latin-1") for text in texts)[:result]
            at = int(fields[-1]) if call == "pwrite64" else len(inode.data) if opened.appends else opened.at
            inode.data[len(inode.data) : at] = bytes(max(0, at - len(inode.data)))
            inode.data[at : at + len(data)] = data
            if call != "pwrite64":
                opened.at = at + len(data)
        return False

    def _open(self, path: str, arguments: str, result: str) -> None:
        parent, name = self._place(path)
        if path.rstrip("/") == self.root:
            self.files[result] = Opened(self.top)
            return
        if parent is None or parent.names is None:
            return
        if name not in parent.names:
            parent.names[name] = Inode()
        inode = parent.names[name]
        if "O_TRUNC" in arguments and inode.names is None:
            inode.data.clear()
        self.files[result] = Opened(inode, appends="O_APPEND" in arguments)

    def _place(self, path: str) -> tuple[Inode | None, str]:
        if not path.startswith(f"{self.root}/"):
            return None, ""
        *folders, name = path[len(self.root) + 1 :].rstrip("/").split("/")
        inode: Inode | None = self.top
        for folder in folders:
            inode = None if inode is None or inode.names is None else inode.names.get(folder)
        return inode, name

    def _link(self, path: str, inode: Inode) -> None:
        parent, name = self._place(path)
        if parent is not None and parent.names is not None:
            parent.names[name] = inode

    def _unlink(self, path: str) -> Inode | None:
        parent, name = self._place(path)
        return None if parent is None or parent.names is None else parent.names.pop(name, None)

    def write_synced(self, folder: Path) -> None:
        """Writes what is on the disk to a new folder."""
        _write(self.top, folder)


def _write(inode: Inode, at: Path) -> None:
    at.mkdir()
    for name, inner in inode.synced_names.items():
        if inner.names is None:
            (at / name).write_bytes(inner.synced)
        else:
            _write(inner, at / name)


def calls(trace: Path) -> Iterator[tuple[str, list[str], str, str]]:
    """The calls that succeeded, in their order; one that was interrupted by another thread is put together again."""
    begun: dict[str, str] = {}
    for line in trace.read_text("ascii", "replace").splitlines():
        pid, _, rest = line.partition(" ")
        if line.endswith("<unfinished ...>"):
            begun[pid] = rest.strip().removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$", line):
            line = f"{pid} {begun.pop(pid, '')}{resumed[2]}"
        if (match := _CALL.match(line)) and not match[3].startswith("-"):
            texts = [bytes.fromhex(text.replace("\\x", "")).decode("latin-1") for text in _TEXT.findall(match[2])]
            yield match[1], texts, _TEXT.sub('""', match[2]), match[3]


def test_after_a_power_loss_every_accepted_request_is_there_and_every_named_clip_is_whole(tmp_path: Path) -> None:
    data, trace = tmp_path / "data", tmp_path / "trace.txt"
    command = ["strace", "-f", "-y", "-qq", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-e", "signal=none"]
    done = subprocess.run(
        [*command, "-o", str(trace), sys.executable, "-m", "tests.jobs.recorded_run", str(data)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "PTRACE" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    whole = {path.name: path.read_bytes() for path in (data / "clips").iterdir()}
    disk, accepted, moments, clips = Disk(tmp_path), list[str](), 0, 0
    for call, texts, arguments, result in calls(trace):
        if call == "write" and texts and re.fullmatch(r"[0-9a-f]{32}\n", texts[0]):
            accepted.append(texts[0].strip())
        changed = disk.play(call, texts, arguments, result)
        if not changed or not accepted:
            continue
        moments += 1
        folder = tmp_path / f"after-{moments}"
        disk.write_synced(folder)
        store = Store(folder / "data" / "jobs.sqlite")
        try:
            store.recover()
            there = {job.id: job for job in store.recent(9)}
            assert [job_id for job_id in accepted if job_id not in there] == [], f"moment {moments}"
            for job in there.values():
                image = job.generations[0].image
                assert image is not None and (folder / "data" / "images" / image).read_bytes()
                for clip in job.clips:
                    name = Path(clip.file).name
                    assert (folder / "data" / clip.file).read_bytes() == whole[name], f"moment {moments}: {name}"
                    clips += 1
        finally:
            store.close()
        shutil.rmtree(folder)
    assert len(accepted) == 3 and moments > 20 and clips > 5
