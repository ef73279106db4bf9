"""The composition: settings to engine, line of jobs, doors and page, served until told to stop; it decides no video."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.routing import Mount
from starlette.types import ASGIApp

import wan_ui
from wan_ui import logs
from wan_ui.demo.checkpoints import Demo, ensure
from wan_ui.engine.checkpoints import Checkpoints
from wan_ui.errors import HostError, RestartNeeded, WanUIError
from wan_ui.http.api import api
from wan_ui.http.gate import Gate, around
from wan_ui.http.guard import Guard
from wan_ui.http.metrics import Metrics
from wan_ui.jobs.desk import Desk
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.store import Store
from wan_ui.jobs.visitor_desk import VisitorDesk
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.lora.sources import Sources
from wan_ui.media import image, video
from wan_ui.media.fetch import fetch
from wan_ui.models import MODELS
from wan_ui.settings import Settings
from wan_ui.visitors import Badges, asking, load_key

if TYPE_CHECKING:
    import gradio as gr

    from wan_ui.engine.clip import Clip, OnProgress
    from wan_ui.local import Engine
    from wan_ui.request import Generation

ADDRESS = "127.0.0.1"
FETCH_SECONDS = 20.0  # for a control image's URL
DRAIN_SECONDS = 2  # for replies under way
PUT_BACK_SECONDS = 0.5  # for a step to end; then its job is put back in line and the step may take its time
STOP_SECONDS = 2.0  # then for the step itself; with at most 5 for the web server below the 10 that a stop may take
FETCHER_STOP_SECONDS = 0.5  # it ends several times a second, except inside the hub's own download
TICK_SECONDS = 0.2
SHOWN_VERSIONS = ("torch", "diffusers", "gradio")


def build_engine(settings: Settings, library: Library) -> Engine:
    """The engine of these settings, with the desk's LoRA library. Raises DeviceUnavailable."""
    from wan_ui.local import Engine

    return Engine(
        settings.models_dir,
        settings.lora_dir,
        settings.device,
        settings.memory,
        settings.data_dir,
        settings.allow_url_hosts,
        library,
    )


BuildEngine = Callable[[Settings, Library], "Engine"]


def serve(settings: Settings, build: BuildEngine = build_engine) -> int:
    """Runs the server until SIGTERM or Ctrl-C; the process's exit code. What keeps it from starting is one line.

    Exit code 70 asks to be started again: this process can render no more, and the line of jobs is intact.
    """
    logs.begin(settings.log_format)
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT too: a shell starts background processes without it
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as closing:
        try:
            _run(_absolute(settings), closing, build)
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
                signal.signal(number, signal.SIG_IGN)  # what closes now must not be torn by a second Ctrl-C


def _run(settings: Settings, closing: ExitStack, build: BuildEngine) -> NoReturn:
    """Serves until a signal interrupts it with KeyboardInterrupt. Raises WanUIError for what keeps it from serving."""
    closing.callback(FolderLock(settings.data_dir).release)
    port = free_port(settings.port)
    prepare_environment(os.environ, settings.data_dir)
    demo = ensure(settings.data_dir / "demo") if wants_demo(settings, _has_cuda) else None
    if demo is not None:
        print(demo.banner, flush=True)
        chose_loras = settings.chose_lora_dir and bool(Library(settings.lora_dir).listing())
        loras = settings.lora_dir if chose_loras else demo.lora_dir
        settings = replace(settings, models_dir=demo.models_dir, lora_dir=loras)
    _enter_empty_folder(settings.data_dir / "empty")
    house = compose(settings)
    closing.callback(house.close)
    house.worker.recover()  # now, so that nobody is told that a job runs while the engine is still being built
    blocks = launch(house, demo, port)
    closing.callback(_close_server, blocks)
    for line in greeting(settings, port, house.checkpoints):
        print(line, flush=True)
    house.desk.fetcher.start()
    engine = build(settings, house.desk.library)  # only now: torch's import takes seconds; the page is up
    house.engine.set_result(engine)
    # First of all at a stop, while the doors close: a supervisor that loses patience must find the job back in line.
    closing.callback(house.worker.stop, PUT_BACK_SECONDS)
    house.worker.start()
    print(f"Ready on {engine.device_name}.", flush=True)
    _wait_until(lambda: house.worker.broken is not None or not blocks.server.thread.is_alive())
    if house.worker.broken is not None:
        raise house.worker.broken
    raise HostError("The web server ended by itself; the log above says why.")


def _wait_until(done: Callable[[], bool]) -> None:
    """Waits awake: the main thread alone acts on a signal, and one that reached another thread does not wake it."""
    never = threading.Event()
    while not done():
        never.wait(TICK_SECONDS)


@dataclass(frozen=True)
class House:
    """All that a running server is made of, without the doors. `engine` is filled once, before the worker starts."""

    desk: Desk
    store: Store
    worker: Worker
    checkpoints: Checkpoints
    engine: Future[Engine]
    uploads: Path
    metrics: Metrics
    badges: Badges

    def health(self) -> dict[str, Any]:
        """What GET /v1/health says: starting until the engine is there, failed when it can render no more."""
        ready = self.engine.done()
        return {
            "status": "failed" if self.worker.broken is not None else "ready" if ready else "starting",
            "version": wan_ui.__version__,
            "device": self.engine.result().device_name if ready else None,
            "queue": self.desk.waiting(),
        }

    def close(self) -> None:
        """Stops between two steps and puts the running job back in line; fetches begin anew at the next start."""
        fetcher_ended = self.desk.fetcher.stop(FETCHER_STOP_SECONDS)
        if self.worker.stop(STOP_SECONDS) and fetcher_ended:
            self.store.close()


def compose(settings: Settings) -> House:
    """The house of these settings, still without an engine. Raises HostError for folders that cannot be used."""
    if settings.models_dir is not None and not settings.models_dir.is_dir():
        raise HostError(f"There is no folder {settings.models_dir}. Give --models-dir the one with your checkpoints.")
    _make(settings.lora_dir)
    data = settings.data_dir
    uploads = data / "uploads"
    engine: Future[Engine] = Future()

    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        return engine.result().render(generation, on_progress)

    download = partial(fetch, max_bytes=image.MAX_BYTES, seconds=FETCH_SECONDS, allow_hosts=settings.allow_url_hosts)
    checkpoints = Checkpoints(settings.models_dir)
    store = Store(data / "jobs.sqlite")
    metrics = Metrics()
    metrics.watch(store.counts, lambda: engine.done() and worker.broken is None)
    worker = Worker(
        store,
        render,
        data / "clips",
        video.write,
        max_attempts=settings.max_attempts,
        timeout=settings.job_timeout,
        check_device=lambda: engine.result().check(),
        observe=metrics.observe,
    )
    desk = Desk(
        Library(settings.lora_dir, uploads, Sources(uploads, allow_hosts=settings.allow_url_hosts)),
        image.ImageStore(data / "images", download),
        store,
        worker,
        checkpoints.transformer_config,
        data,
    )
    return House(desk, store, worker, checkpoints, engine, uploads, metrics, Badges(load_key(data)))


def launch(house: House, demo: Demo | None, port: int) -> gr.Blocks:
    """The page and /v1 on one port, both behind the guard. Raises HostError if the port was taken meanwhile."""
    from wan_ui.ui import page

    def front(app: ASGIApp) -> ASGIApp:
        return Guard(Gate(app, house.badges))

    door = Mount("/v1", app=api(VisitorDesk(house.desk, asking.get), house.health, scratch=house.uploads))
    door.path_regex = re.compile(r"/v1/(?P<path>.*)", re.DOTALL)  # Mount's own lets a path with a newline past /v1
    blocks = page.build(house.desk, banner=None if demo is None else demo.banner, demo=demo)
    try:
        blocks.launch(
            server_name=ADDRESS,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            app_kwargs={
                "routes": [door, house.metrics.route()],
                "lifespan": around(front),
                "openapi_url": None,
            },
            **page.LAUNCH,
        )
    except OSError as error:
        raise _port_in_use(port) from error
    logs.adopt_server()
    return blocks


def _close_server(blocks: gr.Blocks) -> None:
    blocks.server.config.timeout_graceful_shutdown = DRAIN_SECONDS  # or a client that holds its connection holds us
    blocks.close(verbose=False)


def greeting(settings: Settings, port: int, checkpoints: Checkpoints) -> list[str]:
    """What a start prints: versions, models found, addresses."""
    found = sum(checkpoints.present(row) for row in MODELS.values())
    where = "the Hugging Face cache" if settings.models_dir is None else str(settings.models_dir)
    missing = "" if found == len(MODELS) else "; the others are downloaded when first used"
    return [
        f"wan-ui {wan_ui.__version__} ({', '.join(f'{name} {version(name)}' for name in SHOWN_VERSIONS)})",
        f"Models: {found} of {len(MODELS)} found in {where}{missing}.",
        f"LoRAs: {settings.lora_dir}",
        f"Page: http://{ADDRESS}:{port}/   HTTP: http://{ADDRESS}:{port}/v1",
    ]


def wants_demo(settings: Settings, has_cuda: Callable[[], bool]) -> bool:
    """Demo checkpoints only when asked for, or when nothing was chosen and there is no GPU for the real ones."""
    return settings.demo or (settings.device is None and settings.models_dir is None and not has_cuda())


def _has_cuda() -> bool:
    from wan_ui.local import choose_device

    return choose_device(None).type == "cuda"


def free_port(port: int) -> int:
    """The port itself if it is free, or any free one for 0. Raises HostError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise _port_in_use(port) from error
        bound: int = probe.getsockname()[1]
    return bound


def _port_in_use(port: int) -> HostError:
    return HostError(f"Port {port} of {ADDRESS} is not free. Stop what uses it, or choose another with --port.")


def prepare_environment(environment: MutableMapping[str, str], data_dir: Path) -> None:
    """What Gradio reads when it is imported: no reports home, and temporary files inside the data folder."""
    environment["GRADIO_ANALYTICS_ENABLED"] = "False"
    environment["GRADIO_TEMP_DIR"] = str(data_dir / "gradio")
    # Else each event that the page queues, every keystroke, sums up the last 10,000 with pandas, for nobody to read.
    environment["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)
    # Gradio calls its own server once at the start; through a proxy that would fail.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in environment.get(name, "").split(",") if host]
        environment[name] = ",".join(dict.fromkeys([*hosts, ADDRESS, "localhost"]))


def _absolute(settings: Settings) -> Settings:
    return replace(
        settings,
        models_dir=None if settings.models_dir is None else settings.models_dir.expanduser().absolute(),
        lora_dir=settings.lora_dir.expanduser().absolute(),
        data_dir=settings.data_dir.expanduser().absolute(),
    )


def _enter_empty_folder(folder: Path) -> None:
    """Gradio may serve files of its working directory: an empty one has none."""
    _make(folder)
    os.chdir(folder)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"The folder {folder.name} cannot be made ({error.strerror}).") from error
