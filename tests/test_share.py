"""The program with a public link, through a stand-in for the tunnel: used, stopped, killed, started again."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_fixture import heard, new_context
from tests.fake_frpc import program
from tests.ports import reserve_port
from tests.test_app import App
from tests.ui.page_object import choose_model
from tests.waiting import wait_until
from wan_ui.demo.checkpoints import ensure
from wan_ui.tunnel import RECORD, command_of

pytestmark = pytest.mark.slow

FOLDERS = ("", "clips/", "uploads/", "uploads/fetched/", "images/", "trainer/", "trainer/previews/", "trainer/links/",
           "compared/a-0/")  # fmt: skip
LEFT = tuple(f"{folder}.part-1a2b" for folder in FOLDERS)
FOREIGN = (*(f"{folder}part-1a2b" for folder in FOLDERS), "trainer/0/files/.part-mine", "gradio/a/.part-mine")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's files, written once."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    ensure(folder)
    return folder


class Shared:
    """A started program with a link. `sign_in` is name and password, `owner` the owner's address."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.data, self.link_port = data, reserve_port()
        self.app = App(
            data, "--demo", "--share", "--share-server", f"guest:{self.link_port}", "--share-program",
            str(program(data.parent)), *flags
        )  # fmt: skip

    def up(self) -> Shared:
        said = self.app.wait_for("Sign in: ")
        self.user, self.password = said.removeprefix("Sign in: name ").split(", password ")
        return self.wait_for_link()

    def wait_for_link(self) -> Shared:
        self.owner = self.app.wait_for("Owner: ").split()[1]
        self.link = self.app.wait_for("Public link: ").split()[2].rstrip("/")
        self.tunnel = int(json.loads((self.data / RECORD).read_text())["pid"])
        return self

    def gone(self) -> None:
        """Waits until the tunnel's program has ended, and nobody answers at the link."""
        wait_until(lambda: "frpc" not in command_of(self.tunnel))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{self.link_port}/", trust_env=False)


@pytest.fixture
def data(demo: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo, tmp_path / "data" / "demo")
    return tmp_path / "data"


@pytest.fixture
def shared(data: Path) -> Iterator[Shared]:
    shared = Shared(data)
    yield shared
    shared.app.process.kill()
    shared.app.process.wait()


def sign_in(page: Page, shared: Shared, password: str) -> None:
    page.get_by_label("Name").fill(shared.user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.browser
def test_a_guest_signs_in_and_renders_and_the_owner_stops_the_link(browser: Browser, shared: Shared) -> None:
    shared.up().app.wait_for("Ready on ")
    assert len(shared.password) == 32
    context = new_context(browser)
    guest = context.new_page()
    wrong = heard(guest)
    asked: list[str] = []
    guest.on("request", lambda request: asked.append(request.url))
    guest.goto(shared.link)
    sign_in(guest, shared, "not the password")
    expect(guest.get_by_role("alert")).to_have_text("Wrong name or password.")
    sign_in(guest, shared, shared.password)
    expect(guest.get_by_role("heading", name="wan-ui")).to_be_visible(timeout=60_000)
    expect(guest.locator("#link")).to_contain_text("open to everybody who has its link")
    expect(guest.get_by_role("button", name="Stop sharing")).to_have_count(0)
    assert shared.password not in guest.content()
    choose_model(guest, "Wan 2.1 T2V 1.3B")
    field = {"Prompt": "a guest", "Width": "64", "Height": "64", "Frames": "5", "Steps": "2"}
    for label, value in field.items():
        guest.get_by_label(label, exact=True).locator("visible=true").fill(value)
    guest.get_by_role("button", name="Generate", exact=True).click()
    expect(guest.locator("#now .chip")).to_have_text("Done")
    guest.wait_for_function("document.querySelector('#result video')?.readyState >= 1")
    # What a browser says of the login page's own answers.
    assert [text for text in wrong if "401" not in text] == []
    assert [url for url in asked if not url.startswith((shared.link, "data:", "blob:"))] == []

    own = new_context(browser)
    owner = own.new_page()
    owner.goto(shared.owner)
    expect(owner.locator("#link")).to_contain_text(shared.password)
    expect(owner.locator("#link")).to_contain_text(shared.link)
    expect(owner.locator(".jobs button.show").filter(has_text="a guest")).to_be_visible()
    owner.get_by_role("button", name="Stop sharing").click()
    expect(owner.locator("#link")).not_to_be_visible()
    shared.gone()
    owner.reload()
    expect(owner.get_by_role("heading", name="wan-ui")).to_be_visible()
    with shared.app.client() as client:
        assert client.get("/").status_code == 401
    context.close()
    own.close()


def test_a_password_of_ones_own_is_not_printed_and_sigterm_leaves_no_tunnel(data: Path) -> None:
    shared = Shared(data, "--auth", "ann:correct horse")
    app = shared.app
    try:
        assert app.wait_for("Sign in: ") == "Sign in: name ann, the password you chose"
        shared.wait_for_link()
        with app.client() as client:
            assert client.get("/v1/models").status_code == 401
            assert client.get("/v1/models", auth=("ann", "correct horse")).status_code == 200
        code, _ = app.stop(signal.SIGTERM)
        assert code == 0
        shared.gone()
        assert not (shared.data / RECORD).exists()
        assert "correct horse" not in "\n".join(app.ended()[1])
    finally:
        app.process.kill()
        app.process.wait()


def test_nothing_is_left_by_sigkill_once_it_is_started_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = data.parent / "temporary"
    (temporary / "wan-ui-foreign" / "files").mkdir(parents=True)
    (temporary / "wan-ui-other").mkdir()
    (temporary / "wan-ui-other" / "files").symlink_to(data / "clips", target_is_directory=True)
    foreign = sorted(temporary.iterdir())
    monkeypatch.setenv("TMPDIR", str(temporary))
    shared = Shared(data).up()
    (nameless,) = set(temporary.iterdir()) - set(foreign)
    assert (nameless / "files").readlink() == data / "gradio"
    shared.app.process.kill()
    shared.app.process.wait()
    assert "frpc" in command_of(shared.tunnel)
    for name in LEFT:
        (data / name / "deep").mkdir(parents=True)
    for name in FOREIGN:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"somebody's own")
    again = App(shared.data, "--demo")
    try:
        again.wait_for("Closed a public link that a killed server had left open.")
        shared.gone()
        again.wait_for("Page: ")
        assert not nameless.exists() and len(list(temporary.iterdir())) == len(foreign) + 1
        assert [name for name in LEFT if (data / name).exists()] == []
        assert [name for name in FOREIGN if not (data / name).is_file()] == []
        again.stop(signal.SIGTERM)
        assert sorted(temporary.iterdir()) == foreign
    finally:
        again.process.kill()
        again.process.wait()


def test_a_link_that_fails_is_an_error_with_its_reason(data: Path) -> None:
    flags = ("--share", "--share-server", "fails:1", "--share-program", str(program(data.parent)))
    code, said = App(data, "--demo", *flags).ended()
    assert code == 1 and said[-1].startswith("wan-ui: The public link could not be opened: login to server failed")
    assert not any("Traceback" in line for line in said)


def test_another_host_asks_for_a_password(data: Path) -> None:
    app = App(data, "--demo", "--host", "0.0.0.0")
    try:
        password = app.wait_for("Sign in: ").split("password ")[1]
        app.wait_for("Owner: ")
        with app.client() as client:
            assert client.get("/").status_code == 401
            assert client.get("/v1/models", auth=("wan-ui", password)).status_code == 200
            lan = {"host": f"192.168.7.7:{app.port}"}
            assert client.get("/v1/health", headers=lan).status_code == 200
            assert client.get("/v1/health", headers={"host": "evil.example"}).status_code == 403
    finally:
        app.process.kill()
        app.process.wait()
