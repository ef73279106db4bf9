"""The page on a real port over the real job service, store, worker, LoRA library and HTTP API; fake renders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.routing import Mount

from tests.ports import reserve_port
from tests.servers import stop_server
from wan_ui.access import Access
from wan_ui.api.app import create_api
from wan_ui.engine.result import Clip, OnProgress
from wan_ui.identity import Sessions, current_identity, load_key
from wan_ui.jobs.runner import WorkerHooks
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.fit import Configs, no_configs
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore
from wan_ui.models import WanModel
from wan_ui.pool.slots import Memory
from wan_ui.provenance.restoring import Environment
from wan_ui.request import Generation
from wan_ui.server import prepare_environment
from wan_ui.ui.page import LAUNCH, build
from wan_ui.ui.page_document import page_document
from wan_ui.web import guest_pages
from wan_ui.web.auth import Auth, Credentials, OwnerAddress, around
from wan_ui.web.login import Login
from wan_ui.web.page_files import PageFiles
from wan_ui.web.page_language import PageLanguage, messages_route


@dataclass(frozen=True)
class App:
    url: str
    service: JobService
    bases: FolderBases
    folder: Path


class FolderBases:
    """Every model has its folder in diffusers layout, and beside it the files of `unknown`, by model: as questions.

    `notes` are said of a model.
    """

    def __init__(self) -> None:
        self.unknown: dict[str, list[dict[str, Any]]] = {}
        self.notes: dict[str, list[str]] = {}
        self.answers: list[tuple[str, str, str]] = []

    def check_base(self, model: WanModel, base: str | tuple[tuple[str, str], ...]) -> None:
        """Takes any base."""

    def base_listing(self, model: WanModel) -> Mapping[str, Any]:
        """The body of GET /v1/models/{id}/bases."""
        option: dict[str, Any] = {
            "name": model.base_model,
            "source": "folder",
            "repo": model.base_model,
            "precision": "folder",
        }
        option |= {"precision": "folder", "size": 1_000_000, "grade": "green", "state": "complete"}
        components = [{"component": "transformer", "options": [option]}]
        reason = "The folder in diffusers format is on this machine."
        auto = {"grade": "green", "reason": reason, "base": {"transformer": option["name"]}}
        questions = list(self.unknown.get(model.id, ()))
        return {
            "model": model.id,
            "auto": auto,
            "components": components,
            "questions": questions,
            "unusable": [],
            "notes": self.notes.get(model.id, []),
        }

    def answer(self, model: WanModel, component: str, name: str) -> None:
        """Keeps the answer, and asks no more about that file."""
        self.answers.append((model.id, component, name))
        for questions in self.unknown.values():
            questions[:] = [question for question in questions if question["name"] != name]


class FakeModel:
    """Remembers which model the last video was rendered with, until it is unloaded."""

    def __init__(self, render: Callable[[Generation, OnProgress], Clip]) -> None:
        self._render = render
        self.loaded: str | None = None

    def __call__(self, generation: Generation, on_progress: OnProgress) -> Clip:
        self.loaded = generation.model
        return self._render(generation, on_progress)

    def unload(self) -> None:
        """Forgets it."""
        self.loaded = None


def _no_fetch(url: str) -> bytes:
    raise AssertionError("these tests fetch nothing")


def _set_up_gradio() -> None:
    """Sets Gradio up as the app does, except for its temporary folder, of which a process has one for all its apps."""
    environment = dict(os.environ)
    prepare_environment(environment, Path())
    del environment["GRADIO_TEMP_DIR"]
    os.environ.update(environment)


@contextmanager
def running(
    folder: Path,
    render: Callable[[Generation, OnProgress], Clip],
    *,
    banner: str | None = None,
    port: int | None = None,
    configs: Configs = no_configs,
    login: Login | None = None,
) -> Iterator[App]:
    """Serves the page from a data folder until the block ends. LoRA files are those in `folder/loras`.

    `configs` stand in for the checkpoints' own; without them the table's sizes are used. With a `login`
    browsers sign in as guests.
    """
    _set_up_gradio()
    lora_dir, uploads = folder / "loras", folder / "uploads"
    for made in (lora_dir, uploads, folder / "clips"):
        made.mkdir(parents=True, exist_ok=True)
    store = Store(folder / "jobs.sqlite")
    model = FakeModel(render)
    hooks = WorkerHooks(unload=model.unload, loaded=lambda: model.loaded, memory=lambda: Memory(6 * 10**9, 24 * 10**9))
    worker = Worker(store, model, folder / "clips", video.write, hooks=hooks)
    images = ImageStore(folder / "images", _no_fetch, owners=store)
    bases = FolderBases()
    environment = Environment(transformer_config=configs, bases=bases)
    service = JobService(
        Library(lora_dir, uploads, owners=store), images, store, worker, folder, environment=environment
    )
    credentials = None if login is None else Credentials(login, OwnerAddress())
    blocks = build(service, banner=banner)
    api = create_api(
        service,
        lambda: {"status": "ok", "version": "0", "device": "cpu", "queue": 0},
        lambda: Access(current_identity.get(), shared=False),
    )
    guests = guest_pages.mount(service, nullcontext)
    sessions, document = Sessions(load_key(folder)), page_document(blocks.shown_types())
    worker.start()
    try:
        _, url, _ = blocks.launch(
            server_name="127.0.0.1",
            server_port=reserve_port() if port is None else port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            _frontend=False,  # as serve does
            app_kwargs={
                "routes": [Mount("/v1", app=api), guests, messages_route(), PageFiles(document.files)],
                "lifespan": around(lambda app: PageLanguage(Auth(app, sessions, credentials), document.additions)),
            },
            **LAUNCH,
        )
        yield App(url, service, bases, folder)
    finally:
        stop_server(blocks)
        worker.stop()
        store.close()
