"""The files through which the processes of a machine find each other, and whether two of them can."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wan_ui.engine.split import GroupPlace, Split
from wan_ui.pool.rendezvous import OLD_SECONDS, Rendezvous, leave_mark, sees_mark


def test_a_group_has_one_file_which_ends_with_its_processes(tmp_path: Path) -> None:
    leader, member = Rendezvous(tmp_path), Rendezvous(tmp_path)
    places = [process.local(GroupPlace(Split(2), rank, "group")) for rank, process in enumerate((leader, member))]
    assert places[0].rendezvous == places[1].rendezvous
    file = Path(places[0].rendezvous)
    file.touch()
    assert file.parent.stat().st_mode & 0o777 == 0o700
    member.remove()
    leader.remove()
    assert not file.exists()


def test_what_killed_processes_left_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    folder = Path(Rendezvous(tmp_path).local(GroupPlace(Split(2), 0, "old")).rendezvous).parent
    for name, age in (("old", OLD_SECONDS + 60), ("in use", OLD_SECONDS - 60)):
        (folder / name).touch()
        when = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (when, when))
    Rendezvous(tmp_path).local(GroupPlace(Split(2), 0, "next"))
    assert [path.name for path in folder.iterdir()] == ["in use"]


def test_a_mark_is_seen_once(tmp_path: Path) -> None:
    name = leave_mark(tmp_path)
    assert (sees_mark(tmp_path, name), sees_mark(tmp_path, name)) == (True, False)


def test_a_process_with_a_folder_of_its_own_does_not_see_the_mark(tmp_path: Path) -> None:
    assert not sees_mark(tmp_path / "another container", leave_mark(tmp_path))


@pytest.mark.parametrize("what", range(4), ids=["host name", "start of the machine", "loopback", "shared memory"])
def test_a_process_that_shares_the_folder_alone_cannot_join(tmp_path: Path, what: int) -> None:
    name = leave_mark(tmp_path)
    mark = tmp_path / "groups" / name
    shared = json.loads(mark.read_text())
    shared[what] += "0"
    mark.write_text(json.dumps(shared))
    assert not sees_mark(tmp_path, name)
