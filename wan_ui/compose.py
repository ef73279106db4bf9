"""Settings to a served page: stores, worker and job service, the HTTP API, and the Gradio page with its middleware."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from starlette.routing import Mount
from starlette.types import ASGIApp

from wan_ui import logs
from wan_ui._version import __version__
from wan_ui.access import Access
from wan_ui.api.app import create_api
from wan_ui.api.dependencies import SizeLimits
from wan_ui.api.event_streams import EventStreams
from wan_ui.api.mcp_server import mcp_route
from wan_ui.api.root import health_route
from wan_ui.checkpoints.catalog import ANSWERS, Answers
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import Settings, is_loopback
from wan_ui.demo.checkpoints import LATENT_MAPS, Demo
from wan_ui.engine.split import MOST_GPUS
from wan_ui.errors import HostError
from wan_ui.files import create_folder
from wan_ui.identity import EndedSessions, Sessions, current_identity, load_key
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.jobs.gallery import Retention
from wan_ui.jobs.limits import Limits
from wan_ui.jobs.notifier import Notifier
from wan_ui.jobs.runner import JobRunner, RenderLimits, WorkerHooks
from wan_ui.jobs.service import JobService
from wan_ui.jobs.slot_use import SlotRules
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import COMFY_FOLDER, JOBS_FOLDER, Library
from wan_ui.lora.remote import RemoteFiles
from wan_ui.media import image, video
from wan_ui.media.fetch import fetch
from wan_ui.models import Speedup
from wan_ui.pool.cluster import Cluster, ClusterPool
from wan_ui.pool.gpus import SlotPool, gpu_memory
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import ProcessSlot
from wan_ui.pool.ray_cluster import files_of, join_cluster
from wan_ui.pool.slots import Memory, SlotDevice
from wan_ui.provenance.restoring import Environment, installed
from wan_ui.tunnel import Tunnel
from wan_ui.web import guest_pages
from wan_ui.web.auth import Auth, AuthRules, Credentials, OwnerAddress, around
from wan_ui.web.compression import Compression
from wan_ui.web.connections import ConnectionLimits, guard_connections
from wan_ui.web.gradio_events import EventLimits, Forget, GradioEvents, event_rules
from wan_ui.web.gradio_files import GradioFiles, files_named_in
from wan_ui.web.gradio_routes import GradioRoutes
from wan_ui.web.login import Login
from wan_ui.web.metrics import Metrics
from wan_ui.web.origin import OriginCheck
from wan_ui.web.page_files import PageFiles
from wan_ui.web.page_language import Additions, PageLanguage, messages_route
from wan_ui.web.security_headers import SecurityHeaders
from wan_ui.web.upload_progress import UploadProgress
from wan_ui.web.upload_quota import UploadQuota

if TYPE_CHECKING:
    import gradio as gr

    from wan_ui.engine.result import Clip, OnProgress
    from wan_ui.inference import Engine
    from wan_ui.request import Generation

    AnyEngine = Engine | SlotPool | ClusterPool

LOCALHOST = "127.0.0.1"
DEFAULT_USER = "wan-ui"
PASSWORD_BYTES = 24  # of randomness, 32 characters
FETCH_SECONDS = 20.0  # for a control image's URL
DRAIN_SECONDS = 2  # for responses that are being sent when the server stops
STOP_SECONDS = 2.0  # for the running denoising step when the server stops
WATCHER_STOP_SECONDS = 0.5  # for a look at a folder
EVENTS_AT_ONCE = 16  # of one kind, so that a slow one for one visitor does not keep the others waiting
EVENT_LIMITS = EventLimits()
NOTIFIER_STOP_SECONDS = 0.5  # for the answer to a notification that is being sent
FETCHER_STOP_SECONDS = 0.5  # it ends several times a second, except inside the hub's own download
GRADIO_OPTIONS: Mapping[str, Any] = {
    "prevent_thread_lock": True,
    "quiet": True,
    "share": False,
    "inbrowser": False,
    "ssr_mode": False,
    "mcp_server": False,
    "pwa": False,
    "enable_monitoring": False,
    "show_error": False,
    "_frontend": False,  # else Gradio requests its own page and gives up after 3 seconds
}


@dataclass(frozen=True)
class SignIn:
    """How browsers sign in, None where only this machine reaches the server, and the public link."""

    credentials: Credentials | None
    tunnel: Tunnel

    @classmethod
    def of(cls, settings: Settings, tunnel: Tunnel) -> SignIn:
        """With a random password if one is needed and none was chosen."""
        if not settings.is_open_to_others:
            return cls(None, tunnel)
        user, password = settings.auth or (DEFAULT_USER, secrets.token_urlsafe(PASSWORD_BYTES))
        return cls(Credentials(Login(user, password), OwnerAddress()), tunnel)

    @property
    def login(self) -> Login | None:
        """Name and password."""
        return None if self.credentials is None else self.credentials.login

    @property
    def owner(self) -> OwnerAddress | None:
        """The address that makes a browser the owner's."""
        return None if self.credentials is None else self.credentials.owner

    def greeting(self, settings: Settings, port: int) -> list[str]:
        """The lines about signing in that a start prints."""
        login, owner = self.login, self.owner
        if login is None or owner is None:
            return []
        password = "the password you chose" if settings.auth else f"password {login.password}"
        return [
            f"Sign in: name {login.user}, {password}",
            f"Owner: http://{own_address(settings.host)}:{port}{owner.path}   Opens once, for your own browser.",
        ]

    def hosts(self, settings: Settings) -> tuple[str, ...]:
        """Host names, without port, that this server is reached under; localhost is always one."""
        link = self.tunnel.host
        own = (settings.host,) if is_loopback(settings.host) else (settings.host, socket.gethostname())
        return (*settings.allow_hosts, *own, *(() if link is None else (link.partition(":")[0],)))


@dataclass(frozen=True)
class Services:
    """Everything of a running server but its HTTP side. `engine` is set once, before the worker starts."""

    service: JobService
    store: Store
    worker: JobRunner
    checkpoints: CheckpointSources
    engine: Future[AnyEngine]
    uploads: Path
    metrics: Metrics
    sessions: Sessions
    streams: EventStreams
    notifier: Notifier | None = None
    cluster: Cluster | None = None

    def health(self) -> dict[str, Any]:
        """The body of GET /v1/health: starting until the engine is built, failed when it can render no more."""
        is_ready = self.engine.done()
        problem = self.worker.broken or self.store.problem()
        return {
            "status": "failed" if problem is not None else "ready" if is_ready else "starting",
            **({} if problem is None else {"problem": problem.message}),
            "version": __version__,
            "device": self.engine.result().device_name if is_ready else None,
            "queue": self.service.waiting(),
            "slots": [slot.body() for slot in self.worker.slots()],
            "machines": [] if self.cluster is None else [node.body() for node in self.cluster.states()],
        }

    def start(self) -> None:
        """Starts what works beside the engine: downloads, notifications, and watching of training jobs."""
        self.service.fetcher.start()
        self.service.watcher.start()
        if self.notifier is not None:
            self.notifier.start()

    def close(self) -> None:
        """Stops the render between two steps and puts its job back in the queue; stops all that works beside it."""
        if self.cluster is not None:
            self.cluster.stop()
        fetcher_ended = self.service.fetcher.stop(FETCHER_STOP_SECONDS)
        worker_ended = self.worker.stop(STOP_SECONDS)
        notifier_ended = self.notifier is None or self.notifier.stop(NOTIFIER_STOP_SECONDS)
        watcher_ended = self.service.watcher.stop(WATCHER_STOP_SECONDS)
        if worker_ended and fetcher_ended and notifier_ended and watcher_ended:
            self.store.close()


def compose(settings: Settings, devices: Sequence[SlotDevice] = ()) -> Services:
    """The services of these settings, still without an engine. Raises HostError for folders that cannot be used.

    With `devices` each of them renders in a process of its own; the engine is then a SlotPool, which is there at once.
    """
    _check_folders(settings)
    if settings.share:
        settings = replace(settings, allow_url_hosts=())  # visitors must not reach the operator's own network
    data = settings.data_dir
    uploads = data / "uploads"
    engine: Future[AnyEngine] = Future()
    checkpoints = _checkpoint_sources(settings)
    store = Store(data / "jobs.sqlite")
    metrics = Metrics()
    retention = Retention(settings.keep_days, _bytes(settings.keep_gb))

    def tidy() -> None:
        service.tidy(retention)

    def measured(generation: Generation, clip: Clip, seconds: Mapping[str, float], encode: float) -> None:
        service.outlooks.timings.record(generation, clip, seconds, encode)

    hooks = WorkerHooks(tidy=tidy, measured=measured, observe=metrics.observe)
    worker: JobRunner
    cluster_worker: Dispatcher | None = None
    if settings.cluster is not None:
        worker = cluster_worker = _dispatcher(settings, (), store, hooks)
        engine.set_result(ClusterPool(worker.slots))
    elif devices:
        worker = _dispatcher(settings, devices, store, hooks)
        engine.set_result(SlotPool(devices))
    else:
        worker = _worker(settings, store, engine, hooks)
    if settings.cluster is not None or devices:
        metrics.watch_slots(worker.slots)
    metrics.watch(store.counts, lambda: engine.done() and worker.broken is None)
    download = partial(fetch, max_bytes=image.MAX_BYTES, seconds=FETCH_SECONDS, allow_hosts=settings.allow_url_hosts)
    library = _library(settings, uploads, store, checkpoints)
    images = image.ImageStore(data / "images", download, owners=store)
    service: JobService = JobService(
        library, images, store, worker, data, _limits(settings), _environment(engine, checkpoints)
    )
    return Services(
        service,
        store,
        worker,
        checkpoints,
        engine,
        uploads,
        metrics,
        Sessions(load_key(data), EndedSessions(data)),
        EventStreams(service.pulse),
        _notifier(settings, store),
        None if cluster_worker is None else _cluster(settings, cluster_worker, checkpoints, library, images),
    )


def _cluster(
    settings: Settings,
    dispatcher: Dispatcher,
    checkpoints: CheckpointSources,
    library: Library,
    images: image.ImageStore,
) -> Cluster | None:
    """The cluster of the settings, joined; its GPUs become slots of the dispatcher. Raises ClusterUnavailable."""
    if settings.cluster is None:
        return None
    files = partial(files_of, library, images)
    return join_cluster(settings.cluster, _options(settings), dispatcher, checkpoints, files, settings.max_gpus)


def _check_folders(settings: Settings) -> None:
    for folder, flag, what in (
        (settings.models_dir, "--models-dir", "the one with your checkpoints"),
        (settings.comfy_dir, "--comfy-dir", "ComfyUI's models folder"),
        (settings.configs_dir, "--configs-dir", "the one with your configs"),
        (settings.jobs_dir, "--jobs-dir", "the one with your training jobs"),
    ):
        if folder is not None and not folder.is_dir():
            raise HostError(f"There is no folder {folder}. Give {flag} {what}.")
    make_folder(settings.lora_dir)


def _checkpoint_sources(settings: Settings) -> CheckpointSources:
    return CheckpointSources(
        Checkpoints(settings.models_dir),
        comfy_dir=settings.comfy_dir,
        models_dir=settings.models_dir,
        configs_dir=settings.configs_dir,
        answers=Answers(settings.data_dir / ANSWERS),
    )


def _library(settings: Settings, uploads: Path, store: Store, checkpoints: CheckpointSources) -> Library:
    jobs = () if settings.jobs_dir is None else (settings.jobs_dir,)
    further = {COMFY_FOLDER: checkpoints.catalog.lora_folders, JOBS_FOLDER: lambda: jobs}
    remote = RemoteFiles(uploads, allow_hosts=settings.allow_url_hosts)
    return Library(settings.lora_dir, uploads, remote, store, further, settings.guest_downloads)


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_waiting,
        settings.max_waiting_each,
        settings.max_cost,
        _bytes(settings.max_disk_gb),
        settings.max_waiting_guests,
        settings.guests_use_hf_token,
    )


def _notifier(settings: Settings, store: Store) -> Notifier | None:
    if settings.notify_url is None or settings.notify_secret is None:
        return None
    return Notifier(store, settings.notify_url, settings.notify_secret)


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


def _dispatcher(settings: Settings, devices: Sequence[SlotDevice], store: Store, hooks: WorkerHooks) -> Dispatcher:
    options = _options(settings)
    split = settings.split or (MOST_GPUS if settings.cluster is not None else len(devices))
    rules = SlotRules(split=split, starts=None) if settings.cluster is not None else SlotRules(split=split)
    return Dispatcher(
        store,
        [ProcessSlot(device, options) for device in devices],
        settings.data_dir / "clips",
        video.write,
        RenderLimits(timeout=settings.job_timeout, max_attempts=settings.max_attempts),
        replace(hooks, memory=lambda: gpu_memory(devices)),
        rules,
    )


def _options(settings: Settings) -> EngineOptions:
    return replace(EngineOptions.of(settings), latent_maps=LATENT_MAPS)


def _worker(settings: Settings, store: Store, future: Future[AnyEngine], hooks: WorkerHooks) -> Worker:
    engine = cast("Future[Engine]", future)  # without slots it is one that renders

    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        return engine.result().render(generation, on_progress)

    def unload() -> None:
        if engine.done():
            engine.result().unload()

    return Worker(
        store,
        render,
        settings.data_dir / "clips",
        video.write,
        RenderLimits(timeout=settings.job_timeout, max_attempts=settings.max_attempts),
        replace(
            hooks,
            check_device=lambda: engine.result().check(),
            next_up=lambda generation: engine.result().prefetch(generation),
            unload=unload,
            loaded=lambda: engine.result().loaded_model if engine.done() else None,
            memory=lambda: Memory(*engine.result().memory()) if engine.done() else None,
        ),
    )


def _environment(engine: Future[AnyEngine], checkpoints: CheckpointSources) -> Environment:
    def check_speedup(speedup: Speedup) -> None:
        if engine.done():  # before that, the render itself checks
            engine.result().check_speedup(speedup)

    return Environment(
        installed(),
        checkpoints.identity,
        lambda: engine.result().render_device if engine.done() else None,
        check_speedup,
        checkpoints.transformer_config,
        checkpoints,
    )


def launch(services: Services, demo: Demo | None, port: int, settings: Settings, sign_in: SignIn) -> gr.Blocks:
    """Serves the page and /v1 on one port. Raises HostError if the port was taken meanwhile."""
    from wan_ui.ui import page, status_panel
    from wan_ui.ui.page_document import page_document

    def access() -> Access:
        return Access(current_identity.get(), settings.shared_gallery)

    max_upload = int(settings.max_upload_gb * 1e9)
    api = create_api(
        services.service,
        services.health,
        access,
        limits=SizeLimits(file=max_upload),
        scratch=services.uploads,
        streams=services.streams,
        reference_errors=settings.compat == "reference",
    )
    api.state.api = replace(api.state.api, public_url=lambda: sign_in.tunnel.url)
    guests = guest_pages.mount(services.service, api.state.api.posters.hold)
    login = sign_in.login
    blocks = page.build(
        services.service,
        banner=None if demo is None else demo.banner,
        demo=demo,
        shared=settings.shared_gallery,
        sharing=None if login is None else status_panel.Sharing(sign_in.tunnel, login.user, login.password),
    )
    document = page_document(blocks.shown_types())
    health = health_route(api.state.api.latest_health)
    routes = (messages_route(), PageFiles(document.files), services.metrics.route(), health)
    own = (_mounted(api), guests, mcp_route(api), *routes)
    loop: Future[asyncio.AbstractEventLoop] = Future()
    within = _around_gradio(blocks, services.service, access, Path(os.environ["GRADIO_TEMP_DIR"]))

    def wrap(app: ASGIApp) -> ASGIApp:
        loop.set_result(asyncio.get_running_loop())
        return _middleware(GradioRoutes(within(app), own), services, settings, sign_in, document.additions)

    try:
        blocks.launch(
            server_name=settings.host,
            server_port=port,
            max_file_size=max_upload,
            state_session_capacity=EVENT_LIMITS.sessions_of_all,
            app_kwargs={"routes": list(own), "lifespan": around(wrap), "openapi_url": None},
            **GRADIO_OPTIONS,
            **page.LAUNCH,
        )
    except OSError as error:
        raise port_in_use(port, settings.host) from error
    limits = ConnectionLimits(settings.max_connections, settings.slow_client_seconds)
    guard_connections(blocks.server, loop.result(), limits)
    logs.adopt_server()
    return blocks


def _mounted(api: ASGIApp) -> Mount:
    mount = Mount("/v1", app=api)
    mount.path_regex = re.compile(r"/v1/(?P<path>.*)", re.DOTALL)  # Mount's own lets a path with a newline past /v1
    return mount


def _around_gradio(
    blocks: gr.Blocks, service: JobService, access: Callable[[], Access], files: Path
) -> Callable[[ASGIApp], ASGIApp]:
    """Puts the access control of the page's files and events around Gradio's app. `files`: where Gradio keeps files."""
    config = blocks.get_config_file()
    service.publish_files(files_named_in(config, files))
    blocks.queue(default_concurrency_limit=EVENTS_AT_ONCE)
    rules, forget = event_rules(config), _forgets(blocks)

    def wrap(app: ASGIApp) -> ASGIApp:
        watched = UploadProgress(UploadQuota(app, service.quota_problem, files), access, _forget_upload)
        uploads = GradioFiles(watched, service, access, files)
        return GradioEvents(uploads, access, rules, forget, EVENT_LIMITS)

    return wrap


def _forget_upload(name: str) -> None:
    """Drops what Gradio keeps for the name of an upload whose progress was asked for. It drops none itself."""
    from gradio.routes import file_upload_statuses

    file_upload_statuses.stop_tracking(name)
    file_upload_statuses._signals.pop(name, None)


def _forgets(blocks: gr.Blocks) -> Forget:
    """Drops what Gradio's queue and its store of session states keep for a session of this page.

    Gradio itself drops neither before its 2,000 newest sessions are exceeded, or an hour after the page was closed.
    """

    async def forget(session: str, with_state: bool) -> None:
        queue = blocks._queue
        await queue.clean_events(session_hash=session)  # so that no running event answers any more
        queue.pending_messages_per_session.pop(session, None)
        for event_id in queue.pending_event_ids_session.pop(session, ()):
            queue.event_ids_to_events.pop(event_id, None)
        if with_state:
            blocks.state_holder.session_data.pop(session, None)
            blocks.state_holder.time_last_used.pop(session, None)

    return forget


def _middleware(app: ASGIApp, services: Services, settings: Settings, sign_in: SignIn, additions: Additions) -> ASGIApp:
    """An app inside authentication, origin check, language, compression and security headers, from the inside out."""

    def secure_host() -> str | None:
        return sign_in.tunnel.host if (sign_in.tunnel.url or "").startswith("https:") else None

    auth = Auth(
        app,
        services.sessions,
        sign_in.credentials,
        secure_host=secure_host,
        upload_problem=services.service.quota_problem,
        move_records=services.store.move_records,
        rules=AuthRules(settings.session_days, settings.max_sign_ins),
    )
    hosts, addresses = partial(sign_in.hosts, settings), not is_loopback(settings.host)
    checked = OriginCheck(auth, hosts, addresses, secure_host=secure_host)
    return SecurityHeaders(Compression(PageLanguage(checked, additions)))


def close_page(blocks: gr.Blocks) -> None:
    """Stops serving; a client that keeps its connection open does not delay it."""
    blocks.server.config.timeout_graceful_shutdown = DRAIN_SECONDS
    blocks.close(verbose=False)


def port_in_use(port: int, host: str) -> HostError:
    """The error for a port that another program has."""
    return HostError(f"Port {port} of {host} is in use. Stop what uses it, or choose another with --port.")


def own_address(host: str) -> str:
    """The host part of the address under which this machine's own browser reaches a server that listens on `host`."""
    if not is_loopback(host):
        return LOCALHOST
    return f"[{host.strip('[]')}]" if ":" in host else host


def make_folder(folder: Path) -> None:
    """Creates a folder unless it is there. Raises HostError."""
    try:
        create_folder(folder)
    except OSError as error:
        raise HostError(f"The folder {folder.name} cannot be created ({error.strerror}).") from error
