"""Counts the modules that one request body walks through: `python -m tools.walk`.

The functions of `wan_ui` that `JobService.submit` calls are recorded with sys.setprofile, each at its first call, as
somebody reads them who follows the request. A stay is a run of consecutive functions of one module: two stays in a
module mean that the reader has to come back to it. Shared leaves (errors, the model table, text, config, files, logs)
are not counted, nor are comprehensions, which belong to the function they stand in. The request is the plainest with
a LoRA: one prompt, one file, of a model with one transformer.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fakes import FakeRender, fake_write_video
from tests.lora_files import write_lora
from wan_ui.access import LOCAL_ACCESS
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media.image import ImageStore
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT

PACKAGE = str(Path(sys.modules["wan_ui"].__file__ or "").parent)
LEAVES = ("errors", "models", "text", "config", "files", "logs", "access", "engine.speedups")
BODY = {
    "model": "wan21_1b",
    "prompts": [{"prompt": "a fox", "width": 64, "height": 64, "num_frames": 5, "sample_steps": 2}],
    "loras": [{"path": "fox.safetensors", "network_multiplier": 0.8}],
}
TINY = {
    "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "num_layers": 3, "in_channels": 16,
    "added_kv_proj_dim": None, "image_dim": None,
}  # fmt: skip


def record(function: Callable[[], Any]) -> list[tuple[str, str]]:
    """(module, function) of each of the package's own functions that `function` calls, in the order of first calls."""
    calls: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            module = str(frame.f_globals["__name__"]).removeprefix("wan_ui.")
            if module not in LEAVES and not code.co_name.startswith("<"):
                calls.setdefault((module, code.co_qualname))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(calls)


def submit_walk() -> list[tuple[str, list[str]]]:
    """The stays of one submitted request: (module, the functions called there, in order)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("loras", "clips"):
            (folder / part).mkdir()
        write_lora(folder / "loras" / "fox.safetensors")
        store = Store(folder / "jobs.sqlite3")
        worker = Worker(store, FakeRender(), folder / "clips", fake_write_video)
        library, images = Library(folder / "loras", folder / "uploads"), ImageStore(folder / "images", _no_fetch)
        environment = replace(UNKNOWN_ENVIRONMENT, transformer_config=lambda _model, _component: TINY)
        service = JobService(library, images, store, worker, folder, environment=environment)
        calls = record(lambda: service.submit(BODY, LOCAL_ACCESS))
        store.close()
    return [(module, [function for _, function in run]) for module, run in groupby(calls, key=lambda call: call[0])]


def _no_fetch(url: str) -> bytes:
    raise AssertionError(f"nothing is fetched in this walk: {url}")


def main() -> None:
    """Prints the stays in order, then how many there are and which modules are entered most often."""
    stays = submit_walk()
    for module, functions in stays:
        print(f"{module:28} {' '.join(dict.fromkeys(functions))[:150]}")
    print()
    _count("submit", stays)
    names = [module for module, _ in stays]
    last = len(names) - names[::-1].index("intake")
    _count("the body, from the job service through intake", stays[names.index("intake") - 1 : last])


def _count(what: str, stays: list[tuple[str, list[str]]]) -> None:
    entered = Counter(module for module, _ in stays)
    print(f"{what}: {len(stays)} stays in {len(entered)} modules; most often entered: {entered.most_common(4)}")


if __name__ == "__main__":
    main()
