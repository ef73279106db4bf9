"""The demo folder is whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors import SafetensorError

from wan_ui.demo.checkpoints import (
    BANNER,
    DEMO_DEFAULTS,
    STAMP,
    TRAINED,
    Kind,
    ensure,
)
from wan_ui.demo.trained import write_trained
from wan_ui.errors import CheckpointNotFound, DiskFull
from wan_ui.models import MODELS
from wan_ui.request import PromptItem, round_frames, snap_size


def kind(write: Callable[[Path], None], version: str) -> Kind:
    return Kind(write, version, f"banner of {version}")


class Writer:
    """Writes two small files, and counts how often it was asked."""

    def __init__(self, text: str = "weights") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "models").mkdir()
        (folder / "models" / "weights").write_text(self.text)
        (folder / "loras").mkdir()
        (folder / "loras" / "ours").write_text("ours")


def test_it_is_written_once_and_says_where(tmp_path: Path) -> None:
    write = Writer()
    folder = tmp_path / "data" / "demo"
    demo = ensure(folder, kind(write, "1"))
    assert ensure(folder, kind(write, "1")) == demo
    assert write.calls == 1
    assert demo.models_dir == folder / "models" and demo.lora_dir == folder / "loras"
    assert demo.first_frame == folder / "first_frame.png"
    assert demo.banner == "banner of 1"
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_the_banner_says_that_this_is_not_wan() -> None:
    assert TRAINED.banner == BANNER and "tiny model of coloured shapes" in BANNER and "not Wan" in BANNER


def test_an_installation_without_the_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="lacks the demo's weights"):
        ensure(tmp_path / "demo", kind(partial(write_trained, weights=tmp_path / "missing"), "1"))
    assert list(tmp_path.iterdir()) == []


def test_a_newer_demo_replaces_an_older_one_and_keeps_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    ensure(folder, kind(Writer("old"), "1"))
    (folder / "loras" / "job").mkdir()
    (folder / "loras" / "job" / "mine").write_text("mine")
    (folder / "models" / "gone-in-2").write_text("not in the manifest: somebody's own")
    ensure(folder, kind(Writer("new"), "2"))
    assert (folder / "models" / "weights").read_text() == "new"
    assert (folder / "loras" / "job" / "mine").read_text() == "mine"
    assert (folder / "models" / "gone-in-2").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_what_the_old_demo_wrote_and_the_new_one_does_not_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "demo"

    def only_first(new: Path) -> None:
        (new / "left").write_text("old")

    ensure(folder, kind(only_first, "1"))
    ensure(folder, kind(Writer(), "2"))
    assert not (folder / "left").exists()


def _delete(folder: Path) -> None:
    (folder / "models" / "weights").unlink()


def _truncate(folder: Path) -> None:
    (folder / "models" / "weights").write_text("")


def _unstamp(folder: Path) -> None:
    (folder / STAMP).unlink()


def _break_stamp(folder: Path) -> None:
    (folder / STAMP).write_text("{")


def _strange_stamp(folder: Path) -> None:
    (folder / STAMP).write_text(json.dumps({"version": "1", "files": ["models/weights"]}))


@pytest.mark.parametrize("damage", [_delete, _truncate, _unstamp, _break_stamp, _strange_stamp])
def test_a_damaged_demo_is_written_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write = Writer()
    ensure(tmp_path / "demo", kind(write, "1"))
    damage(tmp_path / "demo")
    ensure(tmp_path / "demo", kind(write, "1"))
    assert write.calls == 2
    assert (tmp_path / "demo" / "models" / "weights").read_text() == "weights"


def test_a_write_that_dies_leaves_nothing_that_would_be_used(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        Writer()(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path / "demo", kind(dies, "1"))
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_that_dies_leaves_the_old_demo(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        raise KeyboardInterrupt

    ensure(tmp_path / "demo", kind(Writer("old"), "1"))
    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path / "demo", kind(dies, "2"))
    assert (tmp_path / "demo" / "models" / "weights").read_text() == "old"


def test_another_process_that_was_faster_with_the_same_demo_is_no_error(tmp_path: Path) -> None:
    theirs = Writer("theirs")

    def overtaken(folder: Path) -> None:
        Writer("ours")(folder)
        ensure(tmp_path / "demo", kind(theirs, "1"))

    # The first rename moves their folder aside, as one of an older version would be; the demo in place is sound.
    demo = ensure(tmp_path / "demo", kind(overtaken, "1"))
    assert theirs.calls == 1
    assert (demo.models_dir / "weights").read_text() in ("ours", "theirs")
    assert ensure(tmp_path / "demo", kind(overtaken, "1")) == demo


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskFull),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), DiskFull),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), CheckpointNotFound),
    ],
)
def test_a_disk_that_refuses_is_named_without_a_path(
    tmp_path: Path, failure: Exception, error: type[DiskFull | CheckpointNotFound]
) -> None:
    def refused(folder: Path) -> None:
        raise failure

    with pytest.raises(error) as caught:
        ensure(tmp_path / "demo", kind(refused, "1"))
    assert str(tmp_path) not in caught.value.message and "--data-dir" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_the_form_defaults_are_used_as_they_are_on_every_row() -> None:
    item = PromptItem.model_validate({"prompt": "", **DEMO_DEFAULTS})
    for model in MODELS.values():
        for recipe in model.divisor:
            assert snap_size(model, recipe, item.width, item.height) == (item.width, item.height)
        assert round_frames(model.frame_rule, item.num_frames) == item.num_frames
