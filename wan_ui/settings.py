"""The frozen settings, read once from flags and environment; it knows no framework."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MemoryMode = Literal["auto", "resident", "pair", "stream"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("auto", "resident", "pair", "stream")
LogFormat = Literal["auto", "json", "text"]
LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "json", "text")
ENVIRONMENT_PREFIX = "WAN_UI_"
DEFAULT_LORA_DIR = Path("./loras")


@dataclass(frozen=True)
class Settings:
    """What the operator chose.

    `models_dir` None: checkpoints come from the Hugging Face cache or hub. `device` None: CUDA if there is one,
    else the CPU. `memory` "auto" takes the first of resident, pair, stream that fits.
    `job_timeout`: seconds that one video may take, its checkpoint's download left out; None for no limit.
    `max_attempts`: processes that may end while running a job before it is failed.
    `chose_lora_dir`: `lora_dir` was named, and so takes the place of the demo's own where it holds a LoRA.
    `allow_url_hosts`: hosts that control images and LoRAs may be fetched from although they are not public addresses.
    """

    models_dir: Path | None = None
    lora_dir: Path = DEFAULT_LORA_DIR
    data_dir: Path = Path("./data")
    device: str | None = None
    memory: MemoryMode = "auto"
    port: int = 7860
    demo: bool = False
    allow_url_hosts: tuple[str, ...] = ()
    job_timeout: float | None = None
    max_attempts: int = 3
    log_format: LogFormat = "auto"
    chose_lora_dir: bool = False


def _flag(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(ENVIRONMENT_PREFIX + name, "").strip().lower() in {"1", "true", "yes", "on"}


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line; each flag's default is its environment variable, WAN_UI_ and the flag's name in capitals."""

    def default(name: str, otherwise: str | None) -> str | None:
        return environment.get(ENVIRONMENT_PREFIX + name) or otherwise

    line = argparse.ArgumentParser(
        prog="app.py",
        description="Run LoRAs for Wan video models in the browser and over HTTP.",
        epilog="Each flag is also an environment variable: --models-dir is WAN_UI_MODELS_DIR. "
        "A token for the Hugging Face hub is read from HF_TOKEN only.",
    )
    line.add_argument(
        "--models-dir",
        type=Path,
        default=default("MODELS_DIR", None),
        metavar="DIR",
        help="checkpoints in diffusers layout, DIR/<org>/<name>/ (default: the Hugging Face cache, then its hub)",
    )
    line.add_argument(
        "--lora-dir",
        type=Path,
        default=default("LORA_DIR", None),
        metavar="DIR",
        help="root of the LoRA paths in requests (default: ./loras; the demo brings its own LoRAs, unless "
        "the folder named here holds some)",
    )
    line.add_argument(
        "--data-dir",
        type=Path,
        default=default("DATA_DIR", "./data"),
        metavar="DIR",
        help="jobs, clips and uploads (default: %(default)s)",
    )
    line.add_argument(
        "--device",
        default=default("DEVICE", None),
        help="cuda, cuda:1, cpu or mps (default: cuda if there is one, else cpu)",
    )
    line.add_argument(
        "--memory",
        choices=MEMORY_MODES,
        default=default("MEMORY", "auto"),
        help="resident: the whole model on the GPU; pair: only the transformer at work; stream: block by block "
        "(default: %(default)s, the first that fits)",
    )
    line.add_argument("--port", type=int, default=default("PORT", "7860"), help="TCP port (default: %(default)s)")
    line.add_argument(
        "--demo",
        action="store_true",
        default=_flag(environment, "DEMO"),
        help="use tiny demo checkpoints, written on the spot",
    )
    line.add_argument(
        "--job-timeout",
        type=float,
        default=default("JOB_TIMEOUT", "0"),
        metavar="SECONDS",
        help="a video that takes longer is failed and the server ends with exit code 70, to be started again by its "
        "supervisor; downloads of checkpoints do not count (default: %(default)s, no limit)",
    )
    line.add_argument(
        "--max-attempts",
        type=int,
        default=default("MAX_ATTEMPTS", "3"),
        metavar="N",
        help="a job is failed when the server has died this many times while running it (default: %(default)s)",
    )
    line.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        default=default("LOG_FORMAT", "auto"),
        help="one event a line, as JSON or as text (default: %(default)s, text in a terminal and JSON elsewhere)",
    )
    line.add_argument(
        "--allow-url-host",
        action="append",
        default=None,
        metavar="HOST",
        help="let control images and LoRAs be fetched from this host of your own network; may be repeated",
    )
    return line


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Flags over environment over defaults. A wrong value ends the program with a line that names it (exit 2)."""
    line = parser(environment)
    chosen = line.parse_args(arguments)
    if chosen.memory not in MEMORY_MODES:
        line.error(f"WAN_UI_MEMORY must be one of {', '.join(MEMORY_MODES)}")
    if chosen.log_format not in LOG_FORMATS:
        line.error(f"WAN_UI_LOG_FORMAT must be one of {', '.join(LOG_FORMATS)}")
    if not 0 <= chosen.port <= 65535:
        line.error("--port must be between 0 and 65535")
    if not 0 <= chosen.job_timeout < float("inf"):
        line.error("--job-timeout must be a number of seconds, or 0 for no limit")
    if chosen.max_attempts < 1:
        line.error("--max-attempts must be at least 1")
    hosts = chosen.allow_url_host or environment.get(ENVIRONMENT_PREFIX + "ALLOW_URL_HOST", "").split()
    return Settings(
        models_dir=chosen.models_dir,
        lora_dir=chosen.lora_dir or DEFAULT_LORA_DIR,
        chose_lora_dir=chosen.lora_dir is not None,
        data_dir=chosen.data_dir,
        device=chosen.device,
        memory=chosen.memory,
        port=chosen.port,
        demo=chosen.demo,
        allow_url_hosts=tuple(hosts),
        job_timeout=chosen.job_timeout or None,
        max_attempts=chosen.max_attempts,
        log_format=chosen.log_format,
    )
