"""The life of the server process: start, greeting, public link, engine, and an orderly stop."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import httpx

from wan_ui import logs
from wan_ui._version import __version__
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.compose import LOCALHOST, SignIn, close_page, compose, launch, make_folder, own_address, port_in_use
from wan_ui.config import Settings
from wan_ui.demo.checkpoints import LATENT_MAPS, ensure
from wan_ui.errors import HostError, RestartNeeded, ShareFailed, WanUIError
from wan_ui.files import remove_parts
from wan_ui.jobs.lock import FolderLock
from wan_ui.lora.library import Library
from wan_ui.models import MODELS
from wan_ui.pool.gpus import FindDevices, list_gpus, slot_devices, visible
from wan_ui.pool.slots import SlotDevice
from wan_ui.tunnel import Relay, Tunnel

if TYPE_CHECKING:
    from wan_ui.inference import Engine

LINK_SECONDS = 20.0  # for the answer of Gradio's share server
REQUEUE_SECONDS = 0.5  # for a denoising step to end at a stop, before its job is put back in the queue
# With STOP_SECONDS and at most 5 s for the web server, a stop takes less than the 10 s that supervisors wait.
TICK_SECONDS = 0.2
SWITCH_SECONDS = 0.001  # after which a thread that waits for the interpreter gets it; 5 ms with Python's default
SHOWN_VERSIONS = ("torch", "diffusers", "gradio")
_HIDDEN_PREFIX = "wan-ui-"  # begins the name of a folder in the system's temporary one


def build_engine(settings: Settings, library: Library) -> Engine:
    """The engine of these settings, with the job service's LoRA library. Raises DeviceUnavailable."""
    from wan_ui.engine.live_picture import PictureSettings
    from wan_ui.inference import Engine

    return Engine(
        settings.models_dir,
        settings.lora_dir,
        settings.device,
        settings.memory,
        settings.data_dir,
        settings.allow_url_hosts,
        library,
        settings.compile,
        settings.comfy_dir,
        settings.configs_dir,
        live_pictures=PictureSettings(LATENT_MAPS),
    )


BuildEngine = Callable[[Settings, Library], "Engine"]


def find_devices(settings: Settings) -> tuple[SlotDevice, ...]:
    """The GPUs that get a process each; none where the server's own process renders. Raises DeviceUnavailable."""
    if settings.device is not None or settings.gpus == "none" or settings.cluster is not None:
        return ()
    return slot_devices(settings.gpus, visible(list_gpus(), os.environ))


class StopSignal:
    """The handler of SIGTERM and SIGINT: raises KeyboardInterrupt, and remembers that it did.

    A library's callback may swallow the exception (Python itself does so in the callback of a weak reference, of which
    an import runs thousands); `check`, called while the server waits, raises it again.
    """

    def __init__(self) -> None:
        self._received = False

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        """What `signal.signal` calls. Raises KeyboardInterrupt."""
        self._received = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal was received at any time before."""
        if self._received:
            raise KeyboardInterrupt


def serve(settings: Settings, build: BuildEngine = build_engine, find_devices: FindDevices = find_devices) -> int:
    """Runs the server until SIGTERM or Ctrl-C and returns the exit code. A failed start prints one line.

    Exit code 70 asks the supervisor for a restart: this process can render no more, and the queue is intact.
    """
    logs.begin(settings.log_format)
    stop = StopSignal()
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT too: a shell starts background processes without it
        signal.signal(number, stop)
    with ExitStack() as closing:
        try:
            _run(_absolute(settings), closing, build, find_devices, stop)
        except RestartNeeded as error:
            print(f"wan-ui: {error.message} Ending with exit code {error.exit_code}.", file=sys.stderr)
            return error.exit_code
        except WanUIError as error:
            print(f"wan-ui: {error.message}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Stopping.", flush=True)
            return 0
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the closing


def _run(
    settings: Settings, closing: ExitStack, build: BuildEngine, find_devices: FindDevices, stop: StopSignal
) -> NoReturn:
    """Serves until a signal interrupts it with KeyboardInterrupt. Raises WanUIError for what keeps it from serving."""
    gc.disable()  # nothing that a start imports is garbage; to look at it again and again takes a second of CPU
    closing.callback(gc.enable)
    closing.callback(FolderLock(settings.data_dir).release)
    tunnel = Tunnel(settings.data_dir)
    if tunnel.sweep():
        print("Closed a public link that a killed server had left open.", flush=True)
    port = free_port(settings.port, settings.host)
    prepare_environment(os.environ, settings.data_dir)
    sys.setswitchinterval(SWITCH_SECONDS)
    os.environ["GRADIO_TEMP_DIR"] = hidden_folder(settings.data_dir / "gradio", closing)
    remove_parts(settings.data_dir)
    demo = ensure(settings.data_dir / "demo") if wants_demo(settings, _has_cuda) else None
    if demo is not None:
        print(demo.banner, flush=True)
        settings = replace(settings, models_dir=demo.models_dir, lora_dir=demo_loras(settings, demo.lora_dir))
    _enter_empty_folder(settings.data_dir / "empty")
    if settings.gpus == "none":
        settings = replace(settings, device="cpu")
    services = compose(settings, find_devices(settings))
    closing.callback(services.close)
    services.service.sweep()  # before the page is served: partial files of uploads must stay
    services.worker.recover()  # before the page is served: no job must be shown as running without an engine
    sign_in = SignIn.of(settings, tunnel)
    blocks = launch(services, demo, port, settings, sign_in)
    closing.callback(close_page, blocks)
    closing.callback(services.streams.close)  # before the page: it waits for open responses
    for line in (*greeting(settings, port, services.checkpoints), *sign_in.greeting(settings, port)):
        print(line, flush=True)
    if settings.share:
        closing.callback(tunnel.stop)
        print(f"Public link: {tunnel.start(_relay(settings), port)}/   It lasts up to a week.", flush=True)
    services.start()
    if services.cluster is not None:
        services.cluster.start()
    if not services.engine.done():
        # Only now: torch's import takes seconds, and the page is up.
        services.engine.set_result(build(settings, services.service.library))
    # The first callback at a stop: the job must be back in the queue even if the supervisor kills this process.
    closing.callback(services.worker.stop, REQUEUE_SECONDS)
    gc.freeze()  # so that each later collection, such as after a model was freed, passes over it: 0.3 s of CPU
    gc.enable()
    services.worker.start()
    print(f"Ready on {services.engine.result().device_name}.", flush=True)
    wait_until(lambda: services.worker.broken is not None or not blocks.server.thread.is_alive(), stop)
    if services.worker.broken is not None:
        raise services.worker.broken
    raise HostError("The web server ended by itself. The log above says why.")


def wait_until(done: Callable[[], bool], stop: StopSignal) -> None:
    """Waits until `done()`; raises KeyboardInterrupt at a signal, also at one that came before.

    It polls: signals are handled by the main thread alone, and one that reaches another thread does not wake it.
    """
    never = threading.Event()
    while not done():
        stop.check()
        never.wait(TICK_SECONDS)


def greeting(settings: Settings, port: int, checkpoints: CheckpointSources) -> list[str]:
    """What a start prints: versions, models found, addresses."""
    count = sum(checkpoints.present(model) for model in MODELS.values())
    named = [str(folder) for folder in (settings.models_dir, settings.comfy_dir) if folder is not None]
    where = " and ".join(named) or "the Hugging Face cache"
    missing = "" if count == len(MODELS) else "; the others are downloaded when first used"
    return [
        f"wan-ui {__version__} ({', '.join(f'{name} {version(name)}' for name in SHOWN_VERSIONS)})",
        f"Models: {count} of {len(MODELS)} found in {where}{missing}.",
        f"LoRAs: {settings.lora_dir}",
        f"Page: http://{own_address(settings.host)}:{port}/   HTTP: http://{own_address(settings.host)}:{port}/v1",
    ]


def wants_demo(settings: Settings, has_cuda: Callable[[], bool]) -> bool:
    """Whether to use the demo: it was asked for, or nothing was chosen and there is no GPU for the real models."""
    return settings.demo or (not _chose_model_files(settings) and not has_cuda())


def demo_loras(settings: Settings, own: Path) -> Path:
    """The demo's LoRA folder: the one that was named if it holds any file, else its own."""
    return settings.lora_dir if settings.chose_lora_dir and Library(settings.lora_dir).listing() else own


def _chose_model_files(settings: Settings) -> bool:
    """Whether a device, a cluster or a folder with checkpoints was named: then the real models are meant."""
    chosen = (settings.device, settings.models_dir, settings.comfy_dir, settings.cluster)
    return any(value is not None for value in chosen)


def _has_cuda() -> bool:
    from wan_ui.inference import choose_device

    return choose_device(None).type == "cuda"


def free_port(port: int, host: str = LOCALHOST) -> int:
    """The port itself if it is free, or any free one for 0. Raises HostError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise port_in_use(port, host) from error
        bound: int = probe.getsockname()[1]
    return bound


def _relay(settings: Settings) -> Relay:
    """The relay of the public link: the one in the settings, or Gradio's. Raises ShareFailed."""
    if settings.share_program is not None and settings.share_server is not None:
        return Relay(settings.share_program, settings.share_server, "http")
    from gradio.exceptions import ChecksumMismatchError
    from gradio.networking import GRADIO_API_SERVER
    from gradio.tunneling import BINARY_PATH
    from gradio.tunneling import Tunnel as GradioTunnel

    certificate = settings.data_dir / "tunnel.pem"
    try:
        relay = httpx.get(GRADIO_API_SERVER, timeout=LINK_SECONDS).json()[0]
        server = f"{relay['host']}:{int(relay['port'])}"
        certificate.write_text(relay["root_ca"], encoding="ascii")
        if settings.share_program is None:
            GradioTunnel.download_binary()  # type: ignore[no-untyped-call]
    except ChecksumMismatchError as error:
        raise ShareFailed("The public link could not be made: the downloaded frpc has a wrong checksum.") from error
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        raise ShareFailed(
            "The public link could not be made: Gradio's share server does not answer. Check this machine's internet "
            "connection, or start without --share."
        ) from error
    return Relay(settings.share_program or Path(BINARY_PATH), server, "https", certificate)


def hidden_folder(folder: Path, closing: ExitStack) -> str:
    """A path to the folder that says nothing about this machine: Gradio tells browsers the paths of its files.

    Links that killed processes left to the same folder are removed, so only the process that has the lock of the data
    folder may call this.
    """
    make_folder(folder)
    for link in Path(tempfile.gettempdir()).glob(f"{_HIDDEN_PREFIX}*/files"):
        try:
            if link.readlink() == folder:
                link.unlink()
                link.parent.rmdir()
        except OSError:
            continue  # not a link, or another user's
    parent = Path(tempfile.mkdtemp(prefix=_HIDDEN_PREFIX))
    closing.callback(shutil.rmtree, parent, ignore_errors=True)
    (parent / "files").symlink_to(folder, target_is_directory=True)
    return str(parent / "files")


def prepare_environment(environment: MutableMapping[str, str], data_dir: Path) -> None:
    """Sets what Gradio reads when it is imported: no telemetry, and temporary files inside the data folder."""
    environment["GRADIO_ANALYTICS_ENABLED"] = "False"
    environment["GRADIO_TEMP_DIR"] = str(data_dir / "gradio")
    # Else Gradio computes statistics of the last 10,000 events with pandas at every event, even a keystroke.
    environment["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)
    # Gradio sends a request to its own server at the start, which would fail through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in environment.get(name, "").split(",") if host]
        environment[name] = ",".join(dict.fromkeys([*hosts, LOCALHOST, "localhost"]))


def _absolute(settings: Settings) -> Settings:
    def absolute(folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser().absolute()

    return replace(
        settings,
        models_dir=absolute(settings.models_dir),
        comfy_dir=absolute(settings.comfy_dir),
        configs_dir=absolute(settings.configs_dir),
        jobs_dir=absolute(settings.jobs_dir),
        lora_dir=settings.lora_dir.expanduser().absolute(),
        data_dir=settings.data_dir.expanduser().absolute(),
    )


def _enter_empty_folder(folder: Path) -> None:
    """Makes an empty folder the working directory: Gradio may serve files of it."""
    make_folder(folder)
    os.chdir(folder)
