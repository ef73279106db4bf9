"""The settings of a server: one table of flags and environment variables, read once into a frozen record."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

MemoryMode = Literal["auto", "resident", "pair", "stream"]
CompileMode = Literal["auto", "exact", "fast", "off"]
COMPILE_MODES: tuple[CompileMode, ...] = ("auto", "exact", "fast", "off")
MEMORY_MODES: tuple[MemoryMode, ...] = ("auto", "resident", "pair", "stream")
LogFormat = Literal["auto", "json", "text"]
LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "json", "text")
Gpus = Literal["auto", "none"] | tuple[int, ...]
"""Which GPUs render: "auto", "none", or their numbers."""
Compat = Literal["none", "reference"]
COMPATS: tuple[Compat, ...] = ("none", "reference")

_BOUNDS: Mapping[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}
NOTIFY_SECRET = "WAN_UI_NOTIFY_SECRET"
SHORTEST_SECRET = 16  # characters
GROUPS = {
    "host": "who may come in (docs/security.md)",
    "max_waiting": "limits",
    "keep_days": "how long clips stay (favourites always do)",
    "notify_url": "notifications (docs/running.md)",
}
"""Titles of the help text, by the option that is the first of its group."""


@dataclass(frozen=True)
class Option:
    """One setting on the command line and in the environment, declared with its field of Settings.

    `convert` turns the text into the value and raises ValueError with what the text must be. `{default}` in `help` is
    the default. A `switch` takes no value. A `repeated` one may be given several times; its environment variable holds
    several values with spaces between. A `secret` is left out of the repr. `shorthand` is a further flag and the text
    that it stands for.
    """

    help: str
    convert: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    switch: bool = False
    repeated: bool = False
    secret: bool = False
    shorthand: tuple[str, str] | None = None
    name: str = ""

    @property
    def flag(self) -> str:
        """The field's name as a flag; of a repeated one in the singular."""
        return "--" + (self.name.removesuffix("s") if self.repeated else self.name).replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: WAN_UI_ and the flag's name in capitals."""
        return "WAN_UI_" + self.flag[2:].replace("-", "_").upper()


def number(kind: type[int] | type[float], **bounds: float) -> Callable[[str], Any]:
    """A converter of finite numbers within bounds, whose names are those of `_BOUNDS`."""
    words = " and ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in bounds.items())

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not all(_BOUNDS[name](value, bound) for name, bound in bounds.items()):
            raise ValueError(f"must be a {'whole number' if kind is int else 'number'} {words}, not {text!r}")
        return value

    return convert


_COUNT = number(int, at_least=1)
_POSITIVE = number(float, above=0)


def _seconds_or_none(text: str) -> float | None:
    return number(float, at_least=0)(text) or None


def _whole(text: str) -> int:
    return int(number(float, at_least=1)(text))


def _name_and_password(text: str) -> tuple[str, str] | None:
    user, colon, password = text.partition(":")
    if text and not (user and colon and password):
        raise ValueError("must be a name and a password with a colon between them, USER:PASSWORD")
    return (user, password) if text else None


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return convert


def _web_address(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("must be an address that begins with http:// or https://")
    return text


def _gpus(text: str) -> Gpus:
    if text in ("auto", "none"):
        return "auto" if text == "auto" else "none"
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    if len(set(numbers)) < len(parts):
        raise ValueError(f"must be auto, none or different numbers with commas between, such as 0,1, not {text!r}")
    return numbers


def _cluster(text: str) -> str:
    if text != "auto" and not (re.fullmatch(r"[^\s/@]+:\d{1,5}", text) and urlsplit(f"//{text}").port):
        raise ValueError(f"must be auto or HOST:PORT, not {text!r}")
    return text


def _split(text: str) -> int:
    """0 for all GPUs."""
    named = {"auto": 0, "off": 1}
    return named[text] if text in named else int(_COUNT(text))


def _is_on(text: str) -> bool:
    return text.strip().lower() in {"1", "true", "yes", "on"}


def _setting(
    default: Any, help: str, convert: Callable[[str], Any] = str, metavar: str | None = None, **more: Any
) -> Any:
    """A field of Settings with its Option."""
    choices = more.get("choices", ())
    option = Option(help, _one_of(choices) if choices else convert, metavar, **more)
    return dataclasses.field(default=default, repr=not option.secret, metadata={"option": option})


@dataclass(frozen=True)
class Settings:
    """What the operator chose: a field for each option, whose help text says what it is for."""

    models_dir: Path | None = _setting(
        None,
        "checkpoints as DIR/<org>/<name>/, in diffusers layout (default: the Hugging Face cache, then its hub)",
        Path,
        "DIR",
    )
    comfy_dir: Path | None = _setting(
        None,
        "a ComfyUI models folder, whose checkpoint files are used as they are; folders that its "
        "extra_model_paths.yaml names are used too",
        Path,
        "DIR",
    )
    configs_dir: Path | None = _setting(
        None,
        "configs in diffusers layout, DIR/<org>/<name>/, in place of the shipped ones, for single files of models of "
        "another size",
        Path,
        "DIR",
    )
    lora_dir: Path = _setting(
        Path("./loras"),
        "root of the LoRA paths in requests (default: ./loras; the demo brings its own LoRAs, unless the folder named "
        "here holds some)",
        Path,
        "DIR",
    )
    jobs_dir: Path | None = _setting(
        None,
        "AI Toolkit's output folder: its training jobs and their LoRA files are listed and read in place (default: "
        "none; jobs under the LoRA folder are listed too)",
        Path,
        "DIR",
    )
    data_dir: Path = _setting(Path("./data"), "jobs, clips and uploads (default: ./data)", Path, "DIR")
    device: str | None = _setting(None, "cuda, cuda:1, cpu or mps (default: cuda if there is one, else cpu)")
    gpus: Gpus = _setting(
        "auto",
        "auto: each GPU renders clips of its own, where there are several; 0,1: only these, by their numbers; none: "
        "the CPU; not beside --device (default: {default})",
        _gpus,
        "GPUS",
    )
    split: int = _setting(
        0,
        "auto: idle GPUs help to render a video while no other waits, with the same bits; off: one GPU for each video; "
        "a number: at most so many for one (default: auto)",
        _split,
        "{auto,off,N}",
    )
    cluster: str | None = _setting(
        None,
        "the GPUs of a Ray cluster render, of which this machine is one: auto, or its head as HOST:PORT; not beside "
        "--device or --gpus; needs wan-ui[cluster], see docs/cluster.md (default: none)",
        _cluster,
        "ADDRESS",
    )
    max_gpus: int | None = _setting(
        None,
        "of the cluster, at most so many at a time; its autoscaler is asked for as many as videos wait (default: those "
        "that are there)",
        _COUNT,
        "N",
    )
    memory: MemoryMode = _setting(
        "auto",
        "resident: the whole model on the GPU; pair: only the transformer at work; stream: block by block (default: "
        "{default}, the first that fits)",
        choices=MEMORY_MODES,
    )
    compile: CompileMode = _setting(
        "auto",
        "exact: the transformer's passes are fused where every bit stays; fast: everywhere, with other rounding (never "
        "for the trainer previews); off: plain PyTorch (default: {default}, which is exact on CUDA, else off)",
        choices=COMPILE_MODES,
        shorthand=("--no-compile", "off"),
    )
    port: int = _setting(7860, "TCP port (default: {default})", number(int, at_least=0, at_most=65535))
    demo: bool = _setting(False, "use tiny demo checkpoints, written on the spot", switch=True)
    job_timeout: float | None = _setting(
        None,
        "a video that takes longer is failed and the server ends with exit code 70, to be started again by its "
        "supervisor; downloads of checkpoints do not count (default: 0, no limit)",
        _seconds_or_none,
        "SECONDS",
    )
    max_attempts: int = _setting(
        3, "a job is failed when the server has died this many times while running it (default: {default})", _COUNT, "N"
    )
    log_format: LogFormat = _setting(
        "auto",
        "one event a line, as JSON or as text (default: {default}, text in a terminal and JSON elsewhere)",
        choices=LOG_FORMATS,
    )
    compat: Compat = _setting(
        "none",
        "reference: errors in the exact form of the reference server, for its clients: those of a request as text, "
        "those of wrong fields as FastAPI's list (default: {default})",
        choices=COMPATS,
    )
    allow_url_hosts: tuple[str, ...] = _setting(
        (),
        "let control images and LoRAs be fetched from this host of your own network; may be repeated",
        metavar="HOST",
        repeated=True,
    )
    host: str = _setting(
        "127.0.0.1", "address to listen on; any but this machine's own asks for a password (default: {default})"
    )
    allow_hosts: tuple[str, ...] = _setting(
        (),
        "a host name that the server is reached under, behind a proxy for example; may be repeated",
        metavar="NAME",
        repeated=True,
    )
    share: bool = _setting(False, "open a public link, with a password", switch=True)
    auth: tuple[str, str] | None = _setting(
        None,
        "what to sign in with; better in WAN_UI_AUTH, which other users of the machine cannot read (default: none on "
        "this machine alone, else random and printed)",
        _name_and_password,
        "USER:PASSWORD",
        secret=True,
    )
    session_days: float = _setting(
        30.0,
        "a browser has to sign in again after so many days (default: {default})",
        number(float, above=0, below=36_500),
        "DAYS",
    )
    slow_client_seconds: float = _setting(
        30.0,
        "a client that sends, or takes, no byte of a request or response for so long is disconnected (default: "
        "{default})",
        _POSITIVE,
        "SECONDS",
    )
    max_connections: int = _setting(
        1000,
        "connections at a time, at most half as many as the process may have open files (default: {default})",
        _COUNT,
        "N",
    )
    max_sign_ins: int = _setting(60, "sign-ins a minute, of all browsers together (default: {default})", _COUNT, "N")
    shared_gallery: bool = _setting(False, "let visitors see each other's clips and settings", switch=True)
    share_server: str | None = _setting(None, "an FRP server of your own", metavar="HOST:PORT")
    share_program: Path | None = _setting(
        None, "the tunnel's program, frpc (default: downloaded at the first use)", Path, "FILE"
    )
    guest_downloads: bool = _setting(
        False, "let visitors' requests download speed LoRAs that are not here yet", switch=True
    )
    max_waiting: int = _setting(1000, "requests that may wait in the queue (default: {default})", _COUNT, "N")
    max_waiting_each: int | None = _setting(
        None, "of these, by one visitor (default: 20, none for the owner)", _COUNT, "N"
    )
    max_waiting_guests: int = _setting(
        500, "of these, by all guests and programs together (default: {default})", _COUNT, "N"
    )
    guests_use_hf_token: bool = _setting(
        False, "download guests' hf:// LoRAs with this machine's HF_TOKEN, so its private ones too", switch=True
    )
    max_cost: int | None = _setting(
        None, "frames × pixels of one request, all its videos together (default: 4e9, none for the owner)", _whole, "N"
    )
    max_upload_gb: float = _setting(8.0, "of one uploaded file (default: {default})", number(float, at_least=0), "GB")
    max_disk_gb: float | None = _setting(
        None, "clips and uploads together; more is refused (default: no limit but the disk)", _POSITIVE, "GB"
    )
    keep_days: float | None = _setting(
        None,
        "delete clips that are older, with all their files (default: never)",
        number(float, above=0, below=36_500),
        "DAYS",
    )
    keep_gb: float | None = _setting(
        None, "delete the oldest clips when all of them have more (default: never)", _POSITIVE, "GB"
    )
    notify_url: str | None = _setting(
        None,
        "post a small signed JSON to this address at each job's end; the secret is read from WAN_UI_NOTIFY_SECRET "
        "(default: none)",
        _web_address,
        "URL",
        secret=True,
    )
    notify_secret: str | None = dataclasses.field(default=None, repr=False)
    """What notifications are signed with, from the environment variable NOTIFY_SECRET alone."""
    chose_lora_dir: bool = False
    """Whether `lora_dir` was named: then it replaces the demo's own folder if it holds a LoRA."""

    @property
    def is_open_to_others(self) -> bool:
        """Whether anybody but this machine's user can reach the server, so that it asks for a password."""
        return self.share or self.auth is not None or not is_loopback(self.host)


OPTIONS: Mapping[str, Option] = {
    field.name: dataclasses.replace(field.metadata["option"], name=field.name)
    for field in dataclasses.fields(Settings)
    if "option" in field.metadata
}
"""The options by the names of their fields, in the order of the help text."""


def is_loopback(host: str) -> bool:
    """Whether a server that listens on this host is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _argument_type(option: Option) -> Callable[[str], Any]:
    """The option's converter for argparse, which prints the message of this one error type."""

    def convert(text: str) -> Any:
        try:
            return option.convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error} (environment variable: {option.variable})") from None

    return convert


def _add(group: argparse._ActionsContainer, name: str, option: Option, given: str) -> None:
    """Adds an option to a parser; `given` is the text of its environment variable, which is its default."""
    if option.switch:
        group.add_argument(option.flag, dest=name, action="store_true", default=_is_on(given), help=option.help)
        return
    default = given or getattr(Settings, name)
    group.add_argument(
        option.flag,
        dest=name,
        action="append" if option.repeated else "store",
        type=_argument_type(option),
        default=None if option.repeated else given or None,
        metavar=f"{{{','.join(option.choices)}}}" if option.choices else option.metavar,
        help=option.help.format(default=f"{default:g}" if isinstance(default, float) else default),
    )
    if option.shorthand is not None:
        flag, text = option.shorthand
        group.add_argument(flag, dest=name, action="store_const", const=text, help=f"the same as {text}")


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line; an option that is not given has its environment variable's value."""
    line = argparse.ArgumentParser(
        prog="wan-ui",
        description="Run LoRAs for Wan video models in the browser and over HTTP.",
        epilog="Each flag is also an environment variable: --models-dir is WAN_UI_MODELS_DIR. "
        "A token for the Hugging Face hub is read from HF_TOKEN only.",
    )
    group: argparse._ActionsContainer = line
    for name, option in OPTIONS.items():
        group = line.add_argument_group(GROUPS[name]) if name in GROUPS else group
        _add(group, name, option, environment.get(option.variable, ""))
    return line


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Flags over environment over defaults. A wrong value ends the program with a line that names it (exit 2)."""
    line = parser(environment)
    chosen = {name: value for name, value in vars(line.parse_args(arguments)).items() if value is not None}
    for name, option in OPTIONS.items():
        if option.repeated:
            chosen[name] = tuple(chosen.get(name) or environment.get(option.variable, "").split())
    if chosen.get("share_server") and "share_program" not in chosen:
        line.error("--share-server needs --share-program, the frpc that speaks to it")
    if "device" in chosen and "gpus" in chosen:
        line.error("--gpus cannot be given beside --device, which names one device for the server's own process")
    if "cluster" in chosen and ("device" in chosen or "gpus" in chosen):
        line.error("--cluster cannot be given beside --device or --gpus: the cluster's GPUs render")
    if "max_gpus" in chosen and "cluster" not in chosen:
        line.error("--max-gpus is for the GPUs of a --cluster")
    secret = environment.get(NOTIFY_SECRET, "")
    if chosen.get("notify_url") and len(secret) < SHORTEST_SECRET:
        line.error(f"--notify-url needs a secret of at least {SHORTEST_SECRET} characters in {NOTIFY_SECRET}")
    return Settings(**chosen, notify_secret=secret or None, chose_lora_dir="lora_dir" in chosen)
