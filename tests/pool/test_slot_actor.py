"""A slot's part on another machine, called as Ray calls it, and the files that it is sent."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fake_frames import fake_frames
from tests.fakes import PATIENCE
from tests.golden_cases import CHECKPOINTS
from tests.jobs.helpers import body
from tests.pool.helpers import FAKE_PROGRAM, options
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.errors import Cancelled, CheckpointNotFound, HostError, LoraNotFound
from wan_ui.lora.received import ReceivedLoras, write_index
from wan_ui.media import clip_frames, video
from wan_ui.pool import slot_actor
from wan_ui.pool.checkpoint_prints import CheckpointPrints, checkpoint_print, sources_of
from wan_ui.pool.messages import Answer, Cancel, Ended, Failed, Ready, RenderClip, Rendered, Reported
from wan_ui.pool.node_files import NodeFiles, SentFile
from wan_ui.pool.slot_actor import SlotActor, node_facts, node_options
from wan_ui.request import Generation, parse, resolve


def clip_of(words: str, seed: int = 1, steps: int = 2) -> Generation:
    (generation,) = resolve(parse(body(seed, steps=steps)), store_image=str)
    return replace(generation, prompt=words)


def sent(data: bytes, kind: str = "image", config: bytes | None = None) -> SentFile:
    digest = hashlib.sha256(data).hexdigest()
    assert kind in ("image", "lora")
    return SentFile("lora" if kind == "lora" else "image", digest, len(data), "a.safetensors", "A", config)


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlotActor]:
    """An actor over a process with a fake engine, which is ready."""
    patch = pytest.MonkeyPatch()
    patch.setenv("WAN_UI_DATA_DIR", str(tmp_path_factory.mktemp("machine")))
    actor = SlotActor(FAKE_PROGRAM)
    actor.send(replace(options(Path("/nowhere")), models_dir=CHECKPOINTS))
    ready = answer(actor)
    assert isinstance(ready, Ready) and ready.device_name == "fake GPU"
    yield actor
    actor.send(RenderClip(1000, clip_of("die always")))
    answers(actor)
    patch.undo()


def answer(actor: SlotActor) -> Answer:
    received = actor.receive(PATIENCE)
    assert received is not None
    return received


def answers(actor: SlotActor) -> list[Answer]:
    """All answers up to the one that ends a render."""
    received = [answer(actor)]
    while isinstance(received[-1], Reported):
        received.append(answer(actor))
    return received


@pytest.mark.slow
def test_a_clip_comes_back_encoded(actor: SlotActor, tmp_path: Path) -> None:
    generation = clip_of("sea")
    actor.send(RenderClip(1, generation, lossless=True))
    *reports, rendered = answers(actor)
    assert isinstance(rendered, Rendered) and rendered.clip.files is not None
    phases = [each.progress.phase for each in reports if isinstance(each, Reported)]
    assert phases[-2:] == ["denoise", "encode"] or phases[-2:] == ["encode", "encode"]
    assert rendered.clip.frames.size == 0 and rendered.clip.num_frames == generation.num_frames
    frames = fake_frames(generation)
    path = tmp_path / "clip.mp4"
    video.write_encoded(path, rendered.clip.files.video, {"seed": 1})
    assert video.read_metadata(path) == {"seed": 1} and video.probe(path).num_frames == len(frames)
    path.with_suffix(".png").write_bytes(rendered.clip.files.last)
    path.with_suffix(".mkv").write_bytes(rendered.clip.files.lossless or b"")
    assert np.array_equal(clip_frames.read(path), frames)
    actor.send(RenderClip(2, generation))
    last = answers(actor)[-1]
    assert isinstance(last, Rendered) and last.clip.files is not None and last.clip.files.lossless is None


@pytest.mark.slow
def test_only_the_one_that_leads_a_group_encodes(actor: SlotActor) -> None:
    for number, rank in ((20, 1), (21, 0)):
        actor.send(RenderClip(number, clip_of("sea"), GroupPlace(Split(2), rank, "group", number)))
        rendered = answers(actor)[-1]
        assert isinstance(rendered, Rendered) and (rendered.clip.files is None) == (rank > 0)


@pytest.mark.slow
def test_a_cancel_is_passed_on(actor: SlotActor) -> None:
    actor.send(RenderClip(10, clip_of("slow", steps=150)))
    answer(actor)
    actor.send(Cancel(10))
    failed = answers(actor)[-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, Cancelled)


@pytest.mark.slow
def test_the_end_of_the_process_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAN_UI_DATA_DIR", str(tmp_path))
    actor = SlotActor(FAKE_PROGRAM)
    actor.send(options(tmp_path))
    assert isinstance(answer(actor), Ready)
    actor.send(RenderClip(1, clip_of("sea")))
    rendered = answers(actor)[-1]
    assert isinstance(rendered, Rendered)
    os.kill(rendered.clip.metadata["pid"], signal.SIGKILL)
    assert answer(actor) == Ended("exit code -9")


@pytest.mark.slow
def test_an_unexpected_error_of_the_encoding_ends_the_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("unexpected")

    monkeypatch.setenv("WAN_UI_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(slot_actor, "encoded", broken)
    is_logged = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: is_logged.set())
    actor = SlotActor(FAKE_PROGRAM)
    actor.send(options(tmp_path))
    assert isinstance(answer(actor), Ready)
    actor.send(RenderClip(1, clip_of("sea")))
    assert answers(actor)[-1] == Ended("exit code -9")
    assert is_logged.wait(PATIENCE)


def test_a_machine_has_folders_of_its_own(tmp_path: Path) -> None:
    server = replace(options(tmp_path), models_dir=CHECKPOINTS, comfy_dir=tmp_path / "only on the server")
    plain = node_options(server, {})
    assert (plain.models_dir, plain.comfy_dir) == (CHECKPOINTS, None)
    own = node_options(server, {"WAN_UI_MODELS_DIR": "/models", "WAN_UI_DATA_DIR": str(tmp_path)})
    assert (own.models_dir, own.data_dir) == (Path("/models"), tmp_path / "node")
    assert "wan21_1b" in node_facts(server).models


def test_checkpoints_are_told_apart_by_their_files(tmp_path: Path) -> None:
    here = sources_of(replace(options(tmp_path), models_dir=CHECKPOINTS))
    found = checkpoint_print(here, "wan21_1b", "auto")
    assert found == checkpoint_print(here, "wan21_1b", "folder") != checkpoint_print(here, "wan22_5b", "auto")
    none = sources_of(replace(options(tmp_path), models_dir=tmp_path))
    assert isinstance(checkpoint_print(none, "wan21_1b", "auto"), CheckpointNotFound)
    assert isinstance(found, str)
    with_own, without = CheckpointPrints(here), CheckpointPrints(none)
    assert with_own.agrees("wan21_1b", "auto", found) and not with_own.agrees("wan21_1b", "auto", "other")
    assert without.agrees("wan21_1b", "auto", "first") and not without.agrees("wan21_1b", "auto", "other")
    assert Checkpoints(CHECKPOINTS)


def test_a_file_arrives_in_pieces_and_is_checked(tmp_path: Path) -> None:
    files, data = NodeFiles(tmp_path, 1000), b"0123456789"
    file = sent(data)
    assert files.lock([file]) == [file]
    files.write(file, "part", 0, data[:4])
    assert files.lock([file]) == [file]
    files.write(file, "part", 4, data[4:])
    assert files.lock([file]) == [] and files.path(file).read_bytes() == data
    other = replace(sent(b"other"), sha256="0" * 64)
    with pytest.raises(HostError, match="changed while it was sent"):
        files.write(other, "other", 0, b"other")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["image", "lora"])
def test_two_slots_of_a_machine_are_sent_the_same_file_at_once(tmp_path: Path, kind: str) -> None:
    first, second, data = NodeFiles(tmp_path, 5), NodeFiles(tmp_path, 5), b"0123456789"
    file = sent(data, kind)
    assert first.lock([file]) == second.lock([file]) == [file]
    for start in (0, 5):
        first.write(file, "first", start, data[start : start + 5])
        if not start:
            second.write(file, "second", start, data[:5])
    assert first.lock([file]) == []
    second.write(file, "second", 5, data[5:])
    second.trim()  # it has not locked it yet; the first one has
    assert second.lock([file]) == [] and second.path(file).read_bytes() == data
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_lora_is_found_with_its_config_under_its_path(tmp_path: Path) -> None:
    files, data = NodeFiles(tmp_path, 1000), b"no LoRA"
    plain, with_config = sent(data, "lora"), sent(data, "lora", b'{"lora_alpha": 4}')
    for file in (plain, with_config):
        assert files.lock([file]) == [file]
        files.write(file, "part", 0, data)
    assert files.path(plain) != files.path(with_config)
    assert files.path(with_config).with_name("adapter_config.json").read_bytes() == with_config.config
    assert not files.path(plain).with_name("adapter_config.json").exists()
    index = tmp_path / "index.json"
    write_index(index, {})
    with pytest.raises(LoraNotFound):
        ReceivedLoras(index).locate("a.safetensors", LOCAL_ACCESS)


def test_the_longest_unused_files_make_room_and_no_locked_one(tmp_path: Path) -> None:
    files, another_slot = NodeFiles(tmp_path, 20), NodeFiles(tmp_path, 20)
    kept = [sent(bytes([number]) * 10, kind) for number, kind in enumerate(("image", "lora", "image"))]
    for age, file in zip((30, 20, 10), kept, strict=True):
        files.write(file, "part", 0, bytes([kept.index(file)]) * 10)
        when = files.path(file).stat().st_mtime - age
        os.utime(files.path(file), (when, when))
    assert another_slot.lock(kept[:1]) == []  # now the one that was used last
    before = files.path(kept[0]).stat().st_mtime
    os.utime(files.path(kept[0]), (before - 100, before - 100))
    files.trim()
    assert [files.path(file).exists() for file in kept] == [True, False, True]
    assert not files.path(kept[1]).parent.exists()
    another_slot.lock([])
    NodeFiles(tmp_path, 10).trim()
    assert [files.path(file).exists() for file in kept] == [False, False, True]
