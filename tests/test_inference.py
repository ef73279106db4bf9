"""Engine from Python: the device it runs on, and what it leaves behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.forked import run_forked
from tests.forked_imports import print_imported
from tests.golden_cases import CHECKPOINTS, LORAS
from tests.lora_files import write_lora
from tests.web_files import serving
from wan_ui import Engine
from wan_ui.engine.result import Progress
from wan_ui.errors import DeviceUnavailable, InvalidRequest
from wan_ui.inference import choose_device

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["warp", "cuda:99", ""])
def test_a_device_that_is_not_here_is_said(name: str) -> None:
    with pytest.raises(DeviceUnavailable, match="cannot be used here"):
        choose_device(name)


def test_the_device_is_chosen_by_what_there_is() -> None:
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_closing_removes_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = Engine(models_dir=CHECKPOINTS, lora_dir=LORAS, device="cpu")
    with pytest.raises(InvalidRequest):
        engine.generate({"model": "wan21_1b"})
    assert list(tmp_path.iterdir())
    engine.close()
    assert not list(tmp_path.iterdir())


def test_no_server_and_no_page_is_imported(tmp_path: Path) -> None:
    names = ("gradio", "fastapi", "uvicorn", "torch")
    code, printed = run_forked(print_imported, *names, output=tmp_path / "output.txt")
    assert (code, printed.strip()) == (0, "['torch']")


def test_a_lora_by_address_is_fetched_and_renders_as_the_file_does(tmp_path: Path) -> None:
    content = write_lora(tmp_path / "loras" / "style.safetensors").read_bytes()
    prompt = {"prompt": "a fox", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2}
    engine = Engine(CHECKPOINTS, tmp_path / "loras", "cpu", data_dir=tmp_path / "data", allow_url_hosts=["127.0.0.1"])
    reports: list[Progress] = []
    with serving() as file_server:
        clips = [
            engine.generate({"model": "wan21_1b", "prompts": [prompt], "loras": [{"path": path}]}, reports.append)[0]
            for path in (file_server.put("style.safetensors", content), "style.safetensors")
        ]
    assert engine.loaded_model == "wan21_1b"
    engine.unload()
    assert engine.loaded_model is None and 0 < engine.memory()[0] < engine.memory()[1]
    clips += engine.generate({"model": "wan21_1b", "prompts": [prompt], "loras": [{"path": "style.safetensors"}]})
    engine.close()
    assert all(np.array_equal(clip.frames, clips[0].frames) for clip in clips)
    assert any(report.phase == "downloading" and report.bytes_done == len(content) for report in reports)
