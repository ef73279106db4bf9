"""The frozen settings, read once from flags and environment; it knows no framework."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MemoryMode = Literal["auto", "resident", "pair", "stream"]
CompileMode = Literal["auto", "exact", "fast", "off"]
COMPILE_MODES: tuple[CompileMode, ...] = ("auto", "exact", "fast", "off")
MEMORY_MODES: tuple[MemoryMode, ...] = ("auto", "resident", "pair", "stream")
LogFormat = Literal["auto", "json", "text"]
LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "json", "text")
ENVIRONMENT_PREFIX = "WAN_UI_"
DEFAULT_LORA_DIR = Path("./loras")
MOST_DAYS = 36_500.0


@dataclass(frozen=True)
class Settings:
    """What the operator chose.

    `models_dir` None: checkpoints come from the Hugging Face cache or hub. `device` None: CUDA if there is one,
    else the CPU. `memory` "auto" takes the first of resident, pair, stream that fits. `compile` "auto" is exact on CUDA
    and off elsewhere.
    `job_timeout`: seconds that one video may take, its checkpoint's download left out; None for no limit.
    `max_attempts`: processes that may end while running a job before it is failed.
    `chose_lora_dir`: `lora_dir` was named, and so takes the place of the demo's own where it holds a LoRA.
    `allow_url_hosts`: hosts that control images and LoRAs may be fetched from although they are not public addresses.
    `host`: where to listen; `allow_hosts`: further names that the server is reached under. `share`: a public link,
    by Gradio's relay or by `share_server` with `share_program`. `auth`: name and password; None where others may come
    in: a generated one. `shared_gallery`: visitors see each other's clips. `max_waiting` and `max_waiting_each`:
    requests in line, in all and of one visitor (None: 20 for visitors, no limit for the owner). `max_cost`: frames ×
    pixels of one request (None: 4e9 for visitors). `max_upload_gb`: of one file; `max_disk_gb`: of the data folder.
    `keep_days` and `keep_gb`: older clips, or the oldest where all have more, are deleted; None: never.
    """

    models_dir: Path | None = None
    lora_dir: Path = DEFAULT_LORA_DIR
    data_dir: Path = Path("./data")
    device: str | None = None
    memory: MemoryMode = "auto"
    compile: CompileMode = "auto"
    port: int = 7860
    demo: bool = False
    allow_url_hosts: tuple[str, ...] = ()
    job_timeout: float | None = None
    max_attempts: int = 3
    log_format: LogFormat = "auto"
    chose_lora_dir: bool = False
    host: str = "127.0.0.1"
    allow_hosts: tuple[str, ...] = ()
    share: bool = False
    share_server: str | None = None
    share_program: Path | None = None
    auth: tuple[str, str] | None = field(default=None, repr=False)
    shared_gallery: bool = False
    max_waiting: int = 1000
    max_waiting_each: int | None = None
    max_cost: int | None = None
    max_upload_gb: float = 8.0
    max_disk_gb: float | None = None
    keep_days: float | None = None
    keep_gb: float | None = None

    @property
    def is_open_to_others(self) -> bool:
        """Whether anybody but this machine's user may come in, so that a password is asked."""
        return self.share or self.auth is not None or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a server that listens here is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


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
    line.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        default=default("COMPILE", "auto"),
        help="exact: the transformer's passes are fused where every bit stays; fast: everywhere, with other rounding "
        "(never for the trainer previews); off: plain PyTorch (default: %(default)s, which is exact on CUDA, else off)",
    )
    line.add_argument("--no-compile", action="store_const", const="off", dest="compile", help="the same as off")
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
    reach = line.add_argument_group("who may come in (docs/security.md)")
    reach.add_argument(
        "--host",
        default=default("HOST", "127.0.0.1"),
        help="address to listen on; any but this machine's own asks for a password (default: %(default)s)",
    )
    reach.add_argument(
        "--allow-host",
        action="append",
        default=None,
        metavar="NAME",
        help="a host name that the server is reached under, behind a proxy for example; may be repeated",
    )
    reach.add_argument(
        "--share", action="store_true", default=_flag(environment, "SHARE"), help="open a public link, with a password"
    )
    reach.add_argument(
        "--auth",
        default=default("AUTH", None),
        metavar="USER:PASSWORD",
        help="what to sign in with; better in WAN_UI_AUTH, which other users of the machine cannot read "
        "(default: none on this machine alone, else made up and printed)",
    )
    reach.add_argument(
        "--shared-gallery",
        action="store_true",
        default=_flag(environment, "SHARED_GALLERY"),
        help="let visitors see each other's clips and settings",
    )
    reach.add_argument(
        "--share-server", default=default("SHARE_SERVER", None), metavar="HOST:PORT", help="an FRP server of your own"
    )
    reach.add_argument(
        "--share-program",
        type=Path,
        default=default("SHARE_PROGRAM", None),
        metavar="FILE",
        help="the tunnel's program, frpc (default: downloaded at the first use)",
    )
    caps = line.add_argument_group("limits")
    caps.add_argument(
        "--max-waiting",
        type=int,
        default=default("MAX_WAITING", "1000"),
        metavar="N",
        help="requests that may wait in line (default: %(default)s)",
    )
    caps.add_argument(
        "--max-waiting-each",
        type=int,
        default=default("MAX_WAITING_EACH", None),
        metavar="N",
        help="of these, by one visitor (default: 20, none for the owner)",
    )
    caps.add_argument(
        "--max-cost",
        type=float,
        default=default("MAX_COST", None),
        metavar="N",
        help="frames × pixels of one request, all its videos together (default: 4e9, none for the owner)",
    )
    caps.add_argument(
        "--max-upload-gb",
        type=float,
        default=default("MAX_UPLOAD_GB", "8"),
        metavar="GB",
        help="of one uploaded file (default: %(default)s)",
    )
    caps.add_argument(
        "--max-disk-gb",
        type=float,
        default=default("MAX_DISK_GB", None),
        metavar="GB",
        help="clips and uploads together; more is refused (default: no limit but the disk)",
    )
    stay = line.add_argument_group("how long clips stay (favourites always do)")
    stay.add_argument(
        "--keep-days",
        type=float,
        default=default("KEEP_DAYS", None),
        metavar="DAYS",
        help="delete clips that are older, with all their files (default: never)",
    )
    stay.add_argument(
        "--keep-gb",
        type=float,
        default=default("KEEP_GB", None),
        metavar="GB",
        help="delete the oldest clips when all of them have more (default: never)",
    )
    return line


def _numbers(line: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Ends the program where a limit is none."""
    for name, least in (("max_waiting", 1), ("max_waiting_each", 1), ("max_cost", 1), ("max_upload_gb", 0)):
        value = getattr(chosen, name)
        if value is not None and not least <= value < float("inf"):
            line.error(f"--{name.replace('_', '-')} must be a number of at least {least}")
    for name, most in (("max_disk_gb", float("inf")), ("keep_days", MOST_DAYS), ("keep_gb", float("inf"))):
        value = getattr(chosen, name)
        if value is not None and not 0 < value < most:
            bound = "" if most == float("inf") else f" and below {most:g}"
            line.error(f"--{name.replace('_', '-')} must be a number above 0{bound}")


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Flags over environment over defaults. A wrong value ends the program with a line that names it (exit 2)."""
    line = parser(environment)
    chosen = line.parse_args(arguments)
    if chosen.memory not in MEMORY_MODES:
        line.error(f"WAN_UI_MEMORY must be one of {', '.join(MEMORY_MODES)}")
    if chosen.compile not in COMPILE_MODES:
        line.error(f"WAN_UI_COMPILE must be one of {', '.join(COMPILE_MODES)}")
    if chosen.log_format not in LOG_FORMATS:
        line.error(f"WAN_UI_LOG_FORMAT must be one of {', '.join(LOG_FORMATS)}")
    if not 0 <= chosen.port <= 65535:
        line.error("--port must be between 0 and 65535")
    if not 0 <= chosen.job_timeout < float("inf"):
        line.error("--job-timeout must be a number of seconds, or 0 for no limit")
    if chosen.max_attempts < 1:
        line.error("--max-attempts must be at least 1")
    _numbers(line, chosen)
    user, colon, password = (chosen.auth or "").partition(":")
    if chosen.auth and not (user and colon and password):
        line.error("--auth needs a name and a password with a colon between: --auth USER:PASSWORD")
    if chosen.share_server and chosen.share_program is None:
        line.error("--share-server needs --share-program, the frpc that speaks to it")
    names = chosen.allow_host or environment.get(ENVIRONMENT_PREFIX + "ALLOW_HOST", "").split()
    hosts = chosen.allow_url_host or environment.get(ENVIRONMENT_PREFIX + "ALLOW_URL_HOST", "").split()
    return Settings(
        models_dir=chosen.models_dir,
        lora_dir=chosen.lora_dir or DEFAULT_LORA_DIR,
        chose_lora_dir=chosen.lora_dir is not None,
        data_dir=chosen.data_dir,
        device=chosen.device,
        memory=chosen.memory,
        compile=chosen.compile,
        port=chosen.port,
        demo=chosen.demo,
        allow_url_hosts=tuple(hosts),
        job_timeout=chosen.job_timeout or None,
        max_attempts=chosen.max_attempts,
        log_format=chosen.log_format,
        host=chosen.host,
        allow_hosts=tuple(names),
        share=chosen.share,
        share_server=chosen.share_server,
        share_program=chosen.share_program,
        auth=(user, password) if chosen.auth else None,
        shared_gallery=chosen.shared_gallery,
        max_waiting=chosen.max_waiting,
        max_waiting_each=chosen.max_waiting_each,
        max_cost=None if chosen.max_cost is None else int(chosen.max_cost),
        max_upload_gb=chosen.max_upload_gb,
        max_disk_gb=chosen.max_disk_gb,
        keep_days=chosen.keep_days,
        keep_gb=chosen.keep_gb,
    )
