"""What the server and the worker of a slot send each other, pickled: over a pipe, or through an actor's methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wan_ui.config import CompileMode, LogFormat, MemoryMode, Settings
from wan_ui.engine.result import Clip, Progress
from wan_ui.engine.split import GroupPlace
from wan_ui.errors import WanUIError
from wan_ui.pool.node_files import SentFile
from wan_ui.request import Generation


@dataclass(frozen=True)
class EngineOptions:
    """What a slot's engine is built from. `device` None is the only GPU that its process sees, else the CPU.

    `latent_maps` is a folder with maps for live pictures that were fitted before. `received` is the index of the LoRA
    files that a server on another machine has sent; None: they are found in the folders, as the server finds them.
    """

    models_dir: Path | None
    lora_dir: Path
    jobs_dir: Path | None
    data_dir: Path
    comfy_dir: Path | None
    configs_dir: Path | None
    allow_url_hosts: tuple[str, ...]
    memory: MemoryMode
    compile: CompileMode
    log_format: LogFormat
    device: str | None = None
    latent_maps: Path | None = None
    received: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> EngineOptions:
        """Those of a server's settings; nothing secret is among them."""
        return cls(
            models_dir=settings.models_dir,
            lora_dir=settings.lora_dir,
            jobs_dir=settings.jobs_dir,
            data_dir=settings.data_dir,
            comfy_dir=settings.comfy_dir,
            configs_dir=settings.configs_dir,
            allow_url_hosts=settings.allow_url_hosts,
            memory=settings.memory,
            compile=settings.compile,
            log_format=settings.log_format,
        )


@dataclass(frozen=True)
class RenderClip:
    """To the process: render this; `number` is repeated in every answer.

    `place` is the process's place in a group that renders it together; None: it renders alone. A group is
    joined before the clip and left after it. `lossless`: the clip's frames are kept without loss too. `files` are those
    that an actor was sent for it.
    """

    number: int
    generation: Generation
    place: GroupPlace | None = None
    lossless: bool = False
    files: tuple[SentFile, ...] = ()


@dataclass(frozen=True)
class Cancel:
    """To the process: end this render before its next step."""

    number: int


Command = RenderClip | Cancel


@dataclass(frozen=True)
class Ready:
    """From the process: the engine is built."""

    device_name: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Reported:
    """From the process: a moment of a render."""

    number: int
    progress: Progress


@dataclass(frozen=True)
class Rendered:
    """From the process: the finished clip, with its frames; from an actor with the encoded files in their place."""

    number: int
    clip: Clip


@dataclass(frozen=True)
class Failed:
    """From the process: why a render ended without a clip. After a RestartNeeded the process ends."""

    number: int
    error: WanUIError


@dataclass(frozen=True)
class Ended:
    """From an actor: its process has ended, and how."""

    ending: str


Answer = Ready | Reported | Rendered | Failed | Ended
