"""A whole server as a stranger meets it, alone or behind a link: real guard, gate, page, door and store; no engine."""

from __future__ import annotations

import os
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import httpx

from tests.fake_frpc import program
from tests.lora_files import write_lora
from tests.ports import reserve_port
from tests.servers import stop_server
from wan_ui.access import Access
from wan_ui.compose import Services, SignIn, compose, launch
from wan_ui.config import Settings
from wan_ui.job import ClipRecord
from wan_ui.server import hidden_folder, prepare_environment
from wan_ui.tunnel import Relay, Tunnel

Mode = Literal["plain", "share"]
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # over HTTP none is looked at; to load all takes each 20 ms
SECRET = "an-environment-value-that-nobody-may-read"
BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a garden", "num_frames": 5}]}


@dataclass
class Server:
    """`url` is the way in: through the link, where there is one. `host` is what a Host header then says."""

    mode: Mode
    services: Services
    entry: SignIn
    folder: Path
    port: int
    link_port: int | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.link_port or self.port}"

    @property
    def host(self) -> str:
        return f"stranger.localhost:{self.link_port}" if self.link_port else f"127.0.0.1:{self.port}"

    def client(self, signed_in: bool = True, looks: bool = True, **headers: str) -> httpx.Client:
        """A program; `signed_in`: with the password. `looks`: what must not be in an answer is looked for."""
        client = httpx.Client(
            base_url=self.url,
            headers={"host": self.host, **headers},
            timeout=30,
            trust_env=False,
            verify=NO_CERTIFICATES,
            event_hooks={"response": [self.look]} if looks else {},
        )
        if signed_in and self.entry.login is not None:
            client.auth = (self.entry.login.user, self.entry.login.password)
        return client

    @contextmanager
    def browser(self, looks: bool = True) -> Iterator[httpx.Client]:
        """A browser that signed in and opened the page: it has a cookie of its own, and sends no password."""
        with self.client(signed_in=False, looks=looks, accept="text/html") as client:
            if self.entry.login is not None:
                sent = {"user": self.entry.login.user, "password": self.entry.login.password}
                assert client.post("/login", data=sent).status_code == 303
            assert client.get("/").status_code == 200
            yield client

    @contextmanager
    def owner(self) -> Iterator[httpx.Client]:
        """The owner's browser. The owner's address opens once, so the session is signed here as it would be."""
        with self.browser() as client:
            (cookie,) = client.cookies.jar
            assert cookie.name is not None and self.entry.login is not None
            client.cookies.clear()
            sessions = self.services.sessions
            login = self.entry.login
            session = sessions.new("owner", sessions.mark(f"{login.user}:{login.password}"))
            client.cookies.set(cookie.name, sessions.text(session), domain=cookie.domain, path="/")
            yield client

    def look(self, response: httpx.Response) -> None:
        """No answer tells of the server's own folders, of its environment, or where its code broke."""
        if "text/event-stream" in response.headers.get("content-type", ""):
            return  # has no end
        text = response.read().decode("utf-8", "replace") + str(response.headers)
        for secret in (str(self.folder), SECRET, "Traceback (most recent", str(Path(__file__).parent.parent.parent)):
            assert secret not in text, f"{response.request.url} tells {secret}"

    def visitor_of(self, client: httpx.Client) -> str:
        """The visitor that a browser is, by its cookie."""
        (cookie,) = client.cookies.jar
        session = self.services.sessions.read(cookie.value or "")
        assert session is not None
        return session.visitor

    def finished_job(self, visitor: str | None) -> str:
        """A job of a visitor with one clip (no real one) in the data folder."""
        from wan_ui.identity import Identity

        job = self.services.service.submit(BODY, Access(Identity(visitor, True), shared=False))
        with closing(sqlite3.connect(self.folder / "data" / "jobs.sqlite")) as database, database:
            database.execute("UPDATE jobs SET status = 'in_progress' WHERE id = ?", (job.id,))
        name = f"clips/{job.id}.mp4"
        (self.folder / "data" / "clips").mkdir(exist_ok=True)
        (self.folder / "data" / name).write_bytes(b"a clip")
        assert self.services.store.add_clip(job.id, ClipRecord(0, 64, 64, 5, 16, 42, name, {}))
        self.services.store.finish(job.id, "succeeded")
        return job.id


@contextmanager
def running(mode: Mode, folder: Path, **changes: Any) -> Iterator[Server]:
    """Serves until the block ends. Its data folder is `folder/data`, which may be there already."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "loras").mkdir()
    write_lora(folder / "loras" / "style.safetensors", width=1536, ffn=8960, blocks=1, rank=1)
    (folder / "secret.safetensors").write_bytes((folder / "loras" / "style.safetensors").read_bytes())
    (folder / "loras" / "link.safetensors").symlink_to(folder / "secret.safetensors")
    os.environ["WAN_UI_TEST_SECRET"] = SECRET
    settings = replace(
        Settings(lora_dir=folder / "loras", data_dir=data, share=mode == "share", allow_url_hosts=("127.0.0.1",)),
        **changes,
    )
    here = Path.cwd()
    with ExitStack() as stack:
        stack.callback(os.chdir, here)
        # Other servers of this process keep their uploads elsewhere.
        stack.enter_context(mock.patch.dict(os.environ))
        prepare_environment(os.environ, data)
        os.environ["GRADIO_TEMP_DIR"] = hidden_folder(data / "gradio", stack)
        (data / "empty").mkdir()
        os.chdir(data / "empty")
        services = compose(settings)
        stack.callback(services.close)
        tunnel, port = Tunnel(data), reserve_port()
        entry = SignIn.of(settings, tunnel)
        blocks = launch(services, None, port, settings, entry)
        stack.callback(stop_server, blocks)
        services.service.fetcher.start()
        link_port = None
        if mode == "share":
            link_port = reserve_port()
            stack.callback(tunnel.stop)
            tunnel.start(Relay(program(folder), f"stranger:{link_port}", "http"), port)
        yield Server(mode, services, entry, folder, port, link_port)
