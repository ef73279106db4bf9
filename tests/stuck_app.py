"""The server as app.py runs it, and with an engine that never returns from a prompt that says so; run in a fork."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from wan_ui.config import Settings, read
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.inference import Engine
from wan_ui.lora.library import Library
from wan_ui.request import Generation
from wan_ui.server import BuildEngine, build_engine, serve

PROMPT = "never"


class StuckEngine(Engine):
    def render(self, generation: Generation, on_progress: OnProgress) -> Clip:
        if generation.prompt == PROMPT:
            on_progress(Progress("denoise", 0, generation.sample_steps))
            threading.Event().wait()
        return super().render(generation, on_progress)


def build(settings: Settings, library: Library) -> Engine:
    return StuckEngine(
        settings.models_dir, settings.lora_dir, settings.device, settings.memory, settings.data_dir, library=library
    )


def run_app(arguments: Sequence[str], build: BuildEngine = build_engine) -> NoReturn:
    """What `python -m wan_ui` does with these arguments."""
    code = serve(read(arguments, os.environ), build)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_stuck_app(arguments: Sequence[str]) -> NoReturn:
    run_app(arguments, build)
