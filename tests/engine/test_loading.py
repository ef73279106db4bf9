"""Loading a model: progress in bytes, sharded files, and the prefetch of the next model."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from tests.engine.test_pipeline import frames, request
from tests.fakes import PATIENCE
from tests.golden_cases import CHECKPOINTS
from wan_ui import Engine
from wan_ui.engine.components import load_with_progress
from wan_ui.engine.result import Progress
from wan_ui.errors import Cancelled
from wan_ui.models import MODELS, WanModel
from wan_ui.request import parse, resolve

I2V, OTHER_I2V = MODELS["wan21_i2v_14b"], MODELS["wan21_i2v_14b480p"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=tmp_path, device="cpu")
    yield engine
    engine.close()


def transformer_bytes(engine: Engine, model: WanModel) -> int:
    return engine.checkpoints.folders.component(model, "transformer").size


def loading(engine: Engine, model: str) -> list[Progress]:
    reports: list[Progress] = []
    engine.generate(request(model), reports.append)
    return [progress for progress in reports if progress.phase == "loading"]


def test_a_report_comes_while_a_load_takes_time() -> None:
    reported = threading.Event()

    def load() -> bool:
        return reported.wait(PATIENCE)

    assert load_with_progress(load, reported.set)


def test_a_cancel_waits_for_the_load_and_a_failed_load_is_raised() -> None:
    asked, ended = threading.Event(), threading.Event()

    def load() -> None:
        assert asked.wait(PATIENCE)
        ended.set()

    def cancel() -> None:
        asked.set()
        raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        load_with_progress(load, cancel)
    assert ended.is_set()

    def fails() -> None:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        load_with_progress(fails, lambda: None)


@pytest.mark.slow
@pytest.mark.parametrize("has_memory", [True, False])
def test_the_bytes_read_are_reported_up_to_their_total(engine: Engine, has_memory: bool) -> None:
    available = psutil.virtual_memory().total if has_memory else 0
    engine.loader.memory = replace(engine.loader.memory, host_bytes=lambda: available)
    reports = loading(engine, "wan21_1b")
    model, folders = MODELS["wan21_1b"], engine.checkpoints.folders
    total = sum(folders.component(model, name).size for name in model.components)
    done = [progress.bytes_done for progress in reports]
    assert {progress.bytes_total for progress in reports} == {total}
    assert done == sorted(done) and done[-1] == total
    assert {"transformer", "text encoder", "vae"} <= {progress.note for progress in reports}
    assert (reports[-1].bytes_per_second is not None) == has_memory
    assert engine.loader.statistics.bytes_read <= total  # tokenizer and settings are not weights


@pytest.mark.slow
def test_shards_are_read_as_one_file_is(tmp_path: Path) -> None:
    model = MODELS["wan21_1b"]
    repo = CHECKPOINTS / model.base_model
    sharded = tmp_path / "models" / model.base_model
    shutil.copytree(repo, sharded)
    whole = WanTransformer3DModel.from_pretrained(repo / "transformer")
    shutil.rmtree(sharded / "transformer")
    whole.save_pretrained(sharded / "transformer", max_shard_size="60KB")
    assert len(list((sharded / "transformer").glob("*-of-*.safetensors"))) > 2
    engine = Engine(models_dir=tmp_path / "models", lora_dir=tmp_path, device="cpu")
    shown = loading(engine, model.id)[-1]
    assert shown.bytes_done == shown.bytes_total
    (loaded,) = engine.core.pipeline.components.transformers.values()  # type: ignore[union-attr]
    state = whole.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    engine.close()


@pytest.mark.slow
def test_only_the_next_models_own_files_are_prefetched(engine: Engine) -> None:
    for model in (I2V, OTHER_I2V, I2V):  # from here on it is known which of their files are the same
        frames(engine, request(model.id))
    before = engine.loader.statistics.bytes_read
    (generation,) = resolve(parse(request(OTHER_I2V.id)), store_image=lambda image: "0" * 64)
    engine.prefetch(generation)
    prefetcher = engine.loader.prefetcher
    assert prefetcher is not None
    assert prefetcher.wait(PATIENCE)
    assert prefetcher.done == prefetcher.total == transformer_bytes(engine, OTHER_I2V)
    engine.prefetch(generation)
    assert engine.loader.prefetcher is prefetcher  # once
    assert engine.loader.statistics.bytes_read == before
    frames(engine, request(OTHER_I2V.id))
    assert engine.loader.statistics.bytes_read - before == transformer_bytes(engine, OTHER_I2V)
    assert engine.loader.prefetcher is None


@pytest.mark.slow
def test_nothing_is_prefetched_without_need_or_memory(engine: Engine, tmp_path: Path) -> None:
    frames(engine, request("wan21_1b"))
    engine.loader.prefetch(MODELS["wan21_1b"])
    assert engine.loader.prefetcher is None  # it is loaded
    engine.loader.memory = replace(engine.loader.memory, host_bytes=lambda: 0)
    engine.loader.prefetch(MODELS["wan21_14b"])
    assert engine.loader.prefetcher is None
    elsewhere = Engine(models_dir=tmp_path, lora_dir=tmp_path, device="cpu")
    (tmp_path / MODELS["wan21_1b"].base_model).mkdir(parents=True)
    elsewhere.loader.prefetch(MODELS["wan21_1b"])  # no file is there
    assert elsewhere.loader.prefetcher is None
    elsewhere.close()


@pytest.mark.slow
@pytest.mark.parametrize("speedup", ["none", "fp8_storage"])
def test_the_model_before_is_gone_while_the_next_one_is_read(tmp_path: Path, speedup: str) -> None:
    engine = Engine(CHECKPOINTS, tmp_path, "cpu")
    others = {id(part) for part in parts()}
    engine.generate({**request("wan21_1b"), "speedup": speedup})
    before = [weakref.ref(part) for part in parts() if id(part) not in others]
    assert len(before) == 2
    alive: list[int] = []

    def on_progress(progress: Progress) -> None:
        if progress.phase == "loading" and progress.bytes_total:
            gc.collect()
            alive.append(sum(part() is not None for part in before))

    engine.generate(request("wan22_5b"), on_progress)
    assert alive and not any(alive)
    engine.close()


def parts() -> list[Any]:
    """Transformers and VAEs that are in memory."""
    gc.collect()
    return [part for part in gc.get_objects() if isinstance(part, (WanTransformer3DModel, AutoencoderKLWan))]
