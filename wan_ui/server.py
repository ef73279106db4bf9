"""The composition: settings to engine, line of jobs, doors and page, served until told to stop; it decides no video."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
from starlette.routing import Mount
from starlette.types import ASGIApp

import wan_ui
from wan_ui import logs
from wan_ui.access import Access
from wan_ui.api.app import create_api
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.config import Settings, is_loopback
from wan_ui.demo.checkpoints import Demo, ensure
from wan_ui.errors import HostError, RestartNeeded, ShareFailed, WanUIError
from wan_ui.files import remove_parts
from wan_ui.identity import Sessions, current_identity, load_key
from wan_ui.jobs.gallery import Retention
from wan_ui.jobs.limits import Limits
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import RenderLimits, Worker, WorkerHooks
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles
from wan_ui.media import image, video
from wan_ui.media.fetch import fetch
from wan_ui.models import MODELS, Speedup
from wan_ui.provenance.restoring import Environment, installed
from wan_ui.tunnel import Relay, Tunnel
from wan_ui.web.auth import Auth, OwnerAddress, around
from wan_ui.web.compression import Compression
from wan_ui.web.gradio_files import GradioFiles, files_named_in
from wan_ui.web.login import Login
from wan_ui.web.metrics import Metrics
from wan_ui.web.origin import OriginCheck
from wan_ui.web.security_headers import SecurityHeaders
from wan_ui.web.upload_quota import UploadQuota

if TYPE_CHECKING:
    import gradio as gr

    from wan_ui.engine.result import Clip, OnProgress
    from wan_ui.inference import Engine
    from wan_ui.request import Generation

ADDRESS = "127.0.0.1"
DEFAULT_USER = "wan-ui"
PASSWORD_BYTES = 24  # of randomness, 32 characters
FETCH_SECONDS = 20.0  # for a control image's URL
DRAIN_SECONDS = 2  # for replies under way
PUT_BACK_SECONDS = 0.5  # for a step to end; then its job is put back in line and the step may take its time
STOP_SECONDS = 2.0  # then for the step itself; with at most 5 for the web server below the 10 that a stop may take
FETCHER_STOP_SECONDS = 0.5  # it ends several times a second, except inside the hub's own download
TICK_SECONDS = 0.2
_NAMELESS = "wan-ui-"  # begins the name of a folder in the system's temporary one
SHOWN_VERSIONS = ("torch", "diffusers", "gradio")


def build_engine(settings: Settings, library: Library) -> Engine:
    """The engine of these settings, with the desk's LoRA library. Raises DeviceUnavailable."""
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
    tunnel = Tunnel(settings.data_dir)
    if tunnel.sweep():
        print("A public link that a killed server had left open is closed.", flush=True)
    port = free_port(settings.port, settings.host)
    prepare_environment(os.environ, settings.data_dir)
    os.environ["GRADIO_TEMP_DIR"] = _nameless(settings.data_dir / "gradio", closing)
    remove_parts(settings.data_dir)
    demo = ensure(settings.data_dir / "demo") if wants_demo(settings, _has_cuda) else None
    if demo is not None:
        print(demo.banner, flush=True)
        chose_loras = settings.chose_lora_dir and bool(Library(settings.lora_dir).listing())
        loras = settings.lora_dir if chose_loras else demo.lora_dir
        settings = replace(settings, models_dir=demo.models_dir, lora_dir=loras)
    _enter_empty_folder(settings.data_dir / "empty")
    services = compose(settings)
    closing.callback(services.close)
    services.service.sweep()  # before the doors open: what they have half written must stay
    services.worker.recover()  # now, so that nobody is told that a job runs while the engine is still being built
    entry = SignIn.of(settings, tunnel)
    blocks = launch(services, demo, port, settings, entry)
    closing.callback(_close_server, blocks)
    for line in (*greeting(settings, port, services.checkpoints), *entry.said(settings, port)):
        print(line, flush=True)
    if settings.share:
        closing.callback(tunnel.stop)
        print(f"Public link: {tunnel.start(_relay(settings), port)}/   It lasts up to a week.", flush=True)
    services.service.fetcher.start()
    engine = build(settings, services.service.library)  # only now: torch's import takes seconds; the page is up
    services.engine.set_result(engine)
    # First of all at a stop, while the doors close: a supervisor that loses patience must find the job back in line.
    closing.callback(services.worker.stop, PUT_BACK_SECONDS)
    services.worker.start()
    print(f"Ready on {engine.device_name}.", flush=True)
    _wait_until(lambda: services.worker.broken is not None or not blocks.server.thread.is_alive())
    if services.worker.broken is not None:
        raise services.worker.broken
    raise HostError("The web server ended by itself; the log above says why.")


def _wait_until(done: Callable[[], bool]) -> None:
    """Waits awake: the main thread alone acts on a signal, and one that reached another thread does not wake it."""
    never = threading.Event()
    while not done():
        never.wait(TICK_SECONDS)


@dataclass(frozen=True)
class SignIn:
    """How people come in: what to sign in with (None: nobody else can come in), the owner's address, the link."""

    login: Login | None
    owner: OwnerAddress | None
    tunnel: Tunnel

    @classmethod
    def of(cls, settings: Settings, tunnel: Tunnel) -> SignIn:
        """A password is made up where one is needed and none was chosen."""
        if not settings.is_open_to_others:
            return cls(None, None, tunnel)
        user, password = settings.auth or (DEFAULT_USER, secrets.token_urlsafe(PASSWORD_BYTES))
        return cls(Login(user, password), OwnerAddress(), tunnel)

    def said(self, settings: Settings, port: int) -> list[str]:
        """What a start prints of it."""
        if self.login is None or self.owner is None:
            return []
        password = "the password you chose" if settings.auth else f"password {self.login.password}"
        return [
            f"Sign in: name {self.login.user}, {password}",
            f"Owner: http://{_own_address(settings.host)}:{port}{self.owner.path}   Opens once, for your own browser.",
        ]

    def hosts(self, settings: Settings) -> tuple[str, ...]:
        """Names without port that this server is reached under, this machine's own left out."""
        link = self.tunnel.host
        own = (settings.host,) if is_loopback(settings.host) else (settings.host, socket.gethostname())
        return (*settings.allow_hosts, *own, *(() if link is None else (link.partition(":")[0],)))


@dataclass(frozen=True)
class Services:
    """All that a running server is made of, without the doors. `engine` is filled once, before the worker starts."""

    service: JobService
    store: Store
    worker: Worker
    checkpoints: Checkpoints
    engine: Future[Engine]
    uploads: Path
    metrics: Metrics
    sessions: Sessions

    def health(self) -> dict[str, Any]:
        """What GET /v1/health says: starting until the engine is there, failed when it can render no more."""
        ready = self.engine.done()
        return {
            "status": "failed" if self.worker.broken is not None else "ready" if ready else "starting",
            "version": wan_ui.__version__,
            "device": self.engine.result().device_name if ready else None,
            "queue": self.service.waiting(),
        }

    def close(self) -> None:
        """Stops between two steps and puts the running job back in line; fetches begin anew at the next start."""
        fetcher_ended = self.service.fetcher.stop(FETCHER_STOP_SECONDS)
        if self.worker.stop(STOP_SECONDS) and fetcher_ended:
            self.store.close()


def compose(settings: Settings) -> Services:
    """The house of these settings, still without an engine. Raises HostError for folders that cannot be used."""
    if settings.models_dir is not None and not settings.models_dir.is_dir():
        raise HostError(f"There is no folder {settings.models_dir}. Give --models-dir the one with your checkpoints.")
    _make(settings.lora_dir)
    if settings.share:
        settings = replace(settings, allow_url_hosts=())  # one's own network is not for strangers
    data = settings.data_dir
    uploads = data / "uploads"
    engine: Future[Engine] = Future()

    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        return engine.result().render(generation, on_progress)

    def check_speedup(speedup: Speedup) -> None:
        if engine.done():  # before that the render itself refuses
            engine.result().check_speedup(speedup)

    download = partial(fetch, max_bytes=image.MAX_BYTES, seconds=FETCH_SECONDS, allow_hosts=settings.allow_url_hosts)
    checkpoints = Checkpoints(settings.models_dir)
    store = Store(data / "jobs.sqlite")
    metrics = Metrics()
    metrics.watch(store.counts, lambda: engine.done() and worker.broken is None)
    size = None if settings.keep_gb is None else int(settings.keep_gb * 1e9)
    retention = Retention(settings.keep_days, size)
    worker = Worker(
        store,
        render,
        data / "clips",
        video.write,
        RenderLimits(timeout=settings.job_timeout, max_attempts=settings.max_attempts),
        WorkerHooks(
            check_device=lambda: engine.result().check(),
            observe=metrics.observe,
            next_up=lambda generation: engine.result().prefetch(generation),
            tidy=lambda: service.gallery.tidy(retention),
        ),
    )
    service = JobService(
        Library(settings.lora_dir, uploads, RemoteFiles(uploads, allow_hosts=settings.allow_url_hosts), store),
        image.ImageStore(data / "images", download, owners=store),
        store,
        worker,
        data,
        Limits(
            settings.max_waiting,
            settings.max_waiting_each,
            settings.max_cost,
            None if settings.max_disk_gb is None else int(settings.max_disk_gb * 1e9),
        ),
        Environment(
            installed(),
            checkpoints.identity,
            lambda: engine.result().device_name if engine.done() else None,
            check_speedup,
            checkpoints.transformer_config,
        ),
    )
    return Services(service, store, worker, checkpoints, engine, uploads, metrics, Sessions(load_key(data)))


def launch(services: Services, demo: Demo | None, port: int, settings: Settings, entry: SignIn) -> gr.Blocks:
    """The page and /v1 on one port, behind guard and gate. Raises HostError if the port was taken meanwhile."""
    from wan_ui.ui import page, status_panel

    kept = Path(os.environ["GRADIO_TEMP_DIR"])

    def access() -> Access:
        return Access(current_identity.get(), settings.shared_gallery)

    def front(app: ASGIApp) -> ASGIApp:
        gate = Auth(
            GradioFiles(UploadQuota(app, services.service.quota_problem, kept), services.service, access, kept),
            services.sessions,
            entry.login,
            entry.owner,
            secure_host=lambda: entry.tunnel.host if (entry.tunnel.url or "").startswith("https:") else None,
            upload_problem=services.service.quota_problem,
        )
        return SecurityHeaders(
            Compression(OriginCheck(gate, partial(entry.hosts, settings), addresses=not is_loopback(settings.host)))
        )

    largest = int(settings.max_upload_gb * 1e9)
    api = create_api(services.service, services.health, access, file_limit=largest, scratch=services.uploads)
    door = Mount("/v1", app=api)
    door.path_regex = re.compile(r"/v1/(?P<path>.*)", re.DOTALL)  # Mount's own lets a path with a newline past /v1
    login = entry.login
    blocks = page.build(
        services.service,
        banner=None if demo is None else demo.banner,
        demo=demo,
        shared=settings.shared_gallery,
        sharing=None if login is None else status_panel.Sharing(entry.tunnel, login.user, login.password),
    )
    services.service.publish_files(files_named_in(blocks.get_config_file(), kept))
    try:
        blocks.launch(
            server_name=settings.host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            show_error=False,
            _frontend=False,  # else Gradio asks its own page for an answer within 3 seconds, and gives up
            max_file_size=largest,
            app_kwargs={
                "routes": [door, services.metrics.route()],
                "lifespan": around(front),
                "openapi_url": None,
            },
            **page.LAUNCH,
        )
    except OSError as error:
        raise _port_in_use(port, settings.host) from error
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
        f"Page: http://{_own_address(settings.host)}:{port}/   HTTP: http://{_own_address(settings.host)}:{port}/v1",
    ]


def wants_demo(settings: Settings, has_cuda: Callable[[], bool]) -> bool:
    """Demo checkpoints only when asked for, or when nothing was chosen and there is no GPU for the real ones."""
    return settings.demo or (settings.device is None and settings.models_dir is None and not has_cuda())


def _has_cuda() -> bool:
    from wan_ui.inference import choose_device

    return choose_device(None).type == "cuda"


def free_port(port: int, host: str = ADDRESS) -> int:
    """The port itself if it is free, or any free one for 0. Raises HostError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _port_in_use(port, host) from error
        bound: int = probe.getsockname()[1]
    return bound


def _port_in_use(port: int, host: str) -> HostError:
    return HostError(f"Port {port} of {host} is not free. Stop what uses it, or choose another with --port.")


def _own_address(host: str) -> str:
    """What this machine's own browser opens for a server that listens here."""
    if not is_loopback(host):
        return ADDRESS
    return f"[{host.strip('[]')}]" if ":" in host else host


def _relay(settings: Settings) -> Relay:
    """What makes the link: the settings' own, or Gradio's. Raises ShareFailed."""
    if settings.share_program is not None and settings.share_server is not None:
        return Relay(settings.share_program, settings.share_server, "http")
    from gradio.exceptions import ChecksumMismatchError
    from gradio.networking import GRADIO_API_SERVER
    from gradio.tunneling import BINARY_PATH
    from gradio.tunneling import Tunnel as GradioTunnel

    certificate = settings.data_dir / "tunnel.pem"
    try:
        found = httpx.get(GRADIO_API_SERVER, timeout=FETCH_SECONDS).json()[0]
        server = f"{found['host']}:{int(found['port'])}"
        certificate.write_text(found["root_ca"], encoding="ascii")
        if settings.share_program is None:
            GradioTunnel.download_binary()  # type: ignore[no-untyped-call]
    except ChecksumMismatchError as error:
        raise ShareFailed("The public link could not be made: its program does not have the known checksum.") from error
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        raise ShareFailed(
            "The public link could not be made: Gradio's share server does not answer. Check this machine's way to "
            "the internet, or start without --share."
        ) from error
    return Relay(settings.share_program or Path(BINARY_PATH), server, "https", certificate)


def _nameless(folder: Path, closing: ExitStack) -> str:
    """The folder under a name that tells nothing of this machine: Gradio tells browsers the paths of its files.

    Only for a process that alone holds the data folder: the names that killed ones left for it are removed.
    """
    _make(folder)
    for left in Path(tempfile.gettempdir()).glob(f"{_NAMELESS}*/files"):
        try:
            if left.readlink() == folder:
                left.unlink()
                left.parent.rmdir()
        except OSError:
            continue  # no link, or another user's
    made = Path(tempfile.mkdtemp(prefix=_NAMELESS))
    closing.callback(shutil.rmtree, made, ignore_errors=True)
    (made / "files").symlink_to(folder, target_is_directory=True)
    return str(made / "files")


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
