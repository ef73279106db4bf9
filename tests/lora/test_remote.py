"""Addresses become checked files, or a refusal that leaves nothing behind; the web and the hub are loopback servers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub import TOKEN
from tests.web_files import FileServer, lora_bytes, serving
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import Cancelled, DiskFull, FetchFailed, LoraInvalid, LoraNotFound, WanUIError
from wan_ui.lora.hub import file_address, hub_file
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles, check_source, is_remote, shown_name, without_queries

ROOT = Path(__file__).parents[2]
LORA = lora_bytes()


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    with serving() as file_server:
        yield file_server


def sources(folder: Path, **options: object) -> RemoteFiles:
    return RemoteFiles(folder / "uploads", **{"allow_hosts": ["127.0.0.1"], "seconds": 60.0, **options})  # type: ignore[arg-type]


def library(folder: Path, **options: object) -> Library:
    return Library(folder / "loras", folder / "uploads", sources(folder, **options))


def unheard(here: int, total: int) -> None:
    pass


def files_in(folder: Path) -> list[str]:
    """What lies in the uploads folder, by relative path."""
    root = folder / "uploads"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_address_becomes_a_checked_file(tmp_path: Path, file_server: FileServer) -> None:
    url, seen = file_server.put("deep/My%20Job_high_noise.safetensors".replace("%20", " "), LORA), []
    found = library(tmp_path)
    with pytest.raises(LoraNotFound, match="has not been downloaded"):
        found.locate(url, LOCAL_ACCESS)
    assert found.fetch(url.replace(" ", "%20"), lambda here, total: seen.append((here, total))) == ()
    file = found.locate(url.replace(" ", "%20"), LOCAL_ACCESS)
    assert (file.name, file.size, file.header.slot) == ("My Job_high_noise.safetensors", len(LORA), "high")
    assert file.sha256 == hashlib.sha256(LORA).hexdigest() == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert seen[0][0] == 0 and seen[-1] == (len(LORA), len(LORA))
    assert seen == sorted(seen)
    assert library(tmp_path).locate(url.replace(" ", "%20"), LOCAL_ACCESS) == file  # after a restart


def test_a_name_that_the_host_states_is_the_file_s_name(tmp_path: Path, file_server: FileServer) -> None:
    headers = {"Content-Disposition": 'attachment; filename="../x/style_low_noise.safetensors"'}
    url = file_server.put("download/123", LORA, headers=headers)
    found = library(tmp_path)
    found.fetch(url, unheard)
    assert (found.locate(url, LOCAL_ACCESS).name, found.locate(url, LOCAL_ACCESS).header.slot) == (
        "style_low_noise.safetensors",
        "low",
    )


def test_the_same_file_is_stored_once_and_asked_for_by_its_etag(tmp_path: Path, file_server: FileServer) -> None:
    one, other = file_server.put("a.safetensors", LORA, etag='"1"'), file_server.put("b.safetensors", LORA)
    found = library(tmp_path)
    for _ in range(2):
        found.fetch(one, unheard)
        found.fetch(other, unheard)
    a, b = "a.safetensors", "b.safetensors"
    assert file_server.asked == [(a, 200), (b, 200), (a, 304), (b, 200)]
    assert len([name for name in files_in(tmp_path) if name.endswith(".safetensors")]) == 1
    file_server.put("a.safetensors", lora_bytes("musubi"), etag='"2"')
    before = found.locate(one, LOCAL_ACCESS)
    found.fetch(one, unheard)
    assert found.locate(one, LOCAL_ACCESS).sha256 == hashlib.sha256(lora_bytes("musubi")).hexdigest()
    assert found.locate(one, LOCAL_ACCESS, before.sha256).sha256 == before.sha256  # what a waiting job was checked with
    assert found.locate(other, LOCAL_ACCESS).sha256 == before.sha256


def test_a_host_that_is_gone_leaves_the_copy_in_use_and_says_so(tmp_path: Path, file_server: FileServer) -> None:
    url = file_server.put("a.safetensors", LORA)
    found = library(tmp_path)
    found.fetch(url, unheard)
    file_server.put("a.safetensors", status=503)
    (note,) = found.fetch(url, unheard)
    assert "a.safetensors downloaded on" in note and "status 503" in note
    assert found.locate(url, LOCAL_ACCESS).size == len(LORA)


WRONG: dict[str, tuple[dict[str, object], type[WanUIError], str]] = {
    "a page": ({"body": b"<html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}, LoraInvalid, "web page"),
    "a page that says otherwise": ({"body": b"<!DOCTYPE html>" + b" " * 90}, LoraInvalid, "HTML page"),
    "a pickle": ({"body": b"PK\x03\x04" + b"x" * 500}, LoraInvalid, "pickle"),
    "cut off by the host": ({"body": LORA[:5000], "stated": len(LORA)}, FetchFailed, "closed the connection"),
    "cut off without a length": ({"body": LORA[:-1], "length": False}, LoraInvalid, "incomplete"),
    "cut off and consistent": ({"body": LORA[:-7]}, LoraInvalid, "incomplete"),
    "too long": ({"body": LORA + b"\0"}, LoraInvalid, "follow its last tensor"),
    "empty": ({"body": b""}, LoraInvalid, "incomplete"),
    "too large": ({"body": b"", "stated": 2**40}, FetchFailed, "more than 1000000 bytes"),
    "too large, unstated": ({"body": lora_bytes(pad=1_000_000), "length": False}, FetchFailed, "more than 1000000"),
    "zipped": ({"body": LORA, "headers": {"Content-Encoding": "gzip"}}, FetchFailed, "compressed"),
    "not there": ({"status": 404}, FetchFailed, "status 404"),
    "not for all": ({"status": 401}, FetchFailed, "HF_TOKEN"),
    "a redirect inside": ({"status": 302, "headers": {"Location": "http://10.0.0.1/"}}, FetchFailed, "public internet"),
    "a redirect to metadata": (
        {"status": 307, "headers": {"Location": "http://169.254.169.254/latest"}}, FetchFailed, "public internet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_sound_lora_is_refused_and_leaves_nothing(
    case: str, tmp_path: Path, file_server: FileServer
) -> None:
    answer, error, message = WRONG[case]
    url = file_server.put("a.safetensors", **answer) + "?token=s3cr3t"  # type: ignore[arg-type]
    with pytest.raises(error, match=message) as caught:
        library(tmp_path, max_bytes=1_000_000).fetch(url, unheard)
    assert files_in(tmp_path) == []
    said = json.dumps(caught.value.body())
    assert "s3cr3t" not in said and str(tmp_path) not in said


def test_a_server_of_this_machine_is_not_reached_unless_allowed(tmp_path: Path, file_server: FileServer) -> None:
    url = file_server.put("a.safetensors", LORA)
    with pytest.raises(FetchFailed, match="--allow-url-host"):
        library(tmp_path, allow_hosts=[]).fetch(url, unheard)
    assert file_server.asked == []


def test_a_name_is_resolved_by_the_checked_resolver_only(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match="public internet"):
        library(tmp_path, resolver=lambda host, port: ["127.0.0.1"]).fetch("http://cdn.example/a.safetensors", unheard)


def test_a_full_disk_is_seen_before_the_first_byte(tmp_path: Path, file_server: FileServer) -> None:
    url = file_server.put("a.safetensors", LORA)
    with pytest.raises(DiskFull, match="GB left"):
        library(tmp_path, free=lambda folder: 2**30).fetch(url, unheard)
    assert files_in(tmp_path) == []


def test_whoever_listens_can_end_it(tmp_path: Path, file_server: FileServer) -> None:
    def enough(here: int, total: int) -> None:
        if here:
            raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        library(tmp_path).fetch(file_server.put("a.safetensors", LORA), enough)
    assert files_in(tmp_path) == []


def test_a_sweep_takes_what_a_killed_process_left(tmp_path: Path) -> None:
    found = sources(tmp_path)
    left = tmp_path / "uploads" / ".part-abc"
    left.mkdir()
    (left / "file").write_bytes(b"half")
    found.sweep()
    assert not left.exists()


def test_a_partner_that_was_fetched_is_known(tmp_path: Path, file_server: FileServer) -> None:
    high = file_server.put("job_high_noise.safetensors", LORA)
    low = file_server.put("job_low_noise.safetensors", lora_bytes(pad=1))
    found = library(tmp_path)
    found.fetch(high, unheard)
    assert found.partner(high, LOCAL_ACCESS) is None
    found.fetch(low, unheard)
    assert found.partner(high, LOCAL_ACCESS) == low and found.partner(low, LOCAL_ACCESS) == high
    assert found.inspect(high, LOCAL_ACCESS)["partner"] == low


def test_a_library_without_sources_fetches_nothing(tmp_path: Path) -> None:
    with pytest.raises(LoraNotFound, match="downloads no LoRAs"):
        Library(tmp_path).fetch("https://example.org/a.safetensors", unheard)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (
            "https://huggingface.co/o/n/blob/main/a/b.safetensors",
            "https://huggingface.co/o/n/resolve/main/a/b.safetensors",
        ),
        ("https://hf.co/o/n/blob/v1/b.safetensors?x=1", "https://hf.co/o/n/resolve/v1/b.safetensors?x=1"),
        ("https://huggingface.co/o/n/resolve/main/blob/b.safetensors", None),
        ("https://example.org/o/n/blob/main/b.safetensors", None),
        ("https://huggingface.co.example.org/o/n/blob/main/b.safetensors", None),
        ("http://[::1/o/n/blob/x", None),
    ],
)
def test_the_hub_s_page_about_a_file_becomes_the_file(url: str, address: str | None) -> None:
    assert file_address(url) == (address or url)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hf://o/n/a.safetensors", ("o/n", "a.safetensors", None)),
        ("hf://o-1/n.x/deep/er/a b.safetensors@refs/pr/3", ("o-1/n.x", "deep/er/a b.safetensors", "refs/pr/3")),
        ("HF://o/n/A.SAFETENSORS@main", ("o/n", "A.SAFETENSORS", "main")),
    ],
)
def test_a_hub_source_has_parts(source: str, parts: tuple[str, str, str | None]) -> None:
    found = hub_file(source)
    assert (found.repo, found.file, found.revision) == parts
    assert is_remote(source)


@pytest.mark.parametrize(
    "source",
    [
        "hf://", "hf://o", "hf://o/n", "hf://o/n/", "hf://o/n/a.ckpt", "hf://o/n/../a.safetensors", "hf://../n/a.safetensors",
        "hf://o/n/a.safetensors@", "hf://o/n/a.safetensors@../x", "hf://o/n//a.safetensors", "hf://o/n/a\\b.safetensors",
        "hf://o/n/a.safetensors@x y",
    ],
)  # fmt: skip
def test_what_names_no_hub_file_is_not_found(source: str) -> None:
    with pytest.raises(LoraNotFound, match="hf://org/name"):
        check_source(source)


@pytest.mark.parametrize("source", ["http://", "https://u:p@example.org/a", "http://example.org:99999/a"])
def test_what_is_no_web_address_is_refused(source: str) -> None:
    with pytest.raises(FetchFailed):
        check_source(source)


def test_a_sentence_names_the_file_and_not_the_address() -> None:
    assert shown_name("https://u.example/a/b%20c.safetensors?sig=s3cr3t#x") == "b c.safetensors"
    assert shown_name("hf://o/n/deep/a.safetensors@main") == "a.safetensors@main"


# The hub, in a process of its own: huggingface_hub reads its address when it is imported.

HUB = """
import json, os, sys
from pathlib import Path
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import Cancelled, WanUIError
from wan_ui.lora.library import Library
from wan_ui.lora.remote import RemoteFiles
folder = Path(sys.argv[1])
options = {"max_bytes": int(sys.argv[3])} if len(sys.argv) > 3 else {}
library = Library(folder, folder / "uploads", RemoteFiles(folder / "uploads", allow_hosts=["127.0.0.1"], **options))
seen, said = [], {}
def heard(here, total):
    seen.append((here, total))
    if "cancel" in sys.argv and here:
        raise Cancelled("enough")
try:
    said["notes"] = library.fetch(sys.argv[2], heard, os.environ.get("TOKEN_OF_THE_REQUEST"))
    file = library.locate(sys.argv[2], LOCAL_ACCESS)
    said |= {"name": file.name, "sha256": file.sha256, "last": seen[-1]}
    again = []
    library.fetch(sys.argv[2], lambda here, total: again.append(here))
    said["again"] = again
except WanUIError as error:
    said |= error.body()
said["left"] = sorted(p.name for p in (folder / "uploads").rglob("*") if p.is_file())
print(json.dumps(said))
"""


class Hub:
    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def fetch(self, source: str, *more: str, token: str | None = None) -> dict[str, object]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": self.url, "HF_HOME": str(self.folder / "hf"), "PYTHONPATH": str(ROOT)}
        environment |= {"HF_TOKEN": "hf_s3cr3t", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {} if token is None else {"TOKEN_OF_THE_REQUEST": token}
        command = [sys.executable, "-c", HUB, str(self.folder), source, *more]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert run.returncode == 0, run.stderr
        assert "hf_s3cr3t" not in run.stdout + run.stderr
        said: dict[str, object] = json.loads(run.stdout)
        return said


@pytest.fixture(scope="module")
def hub_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repo = tmp_path_factory.mktemp("hub") / "someone" / "style"
    (repo / "loras").mkdir(parents=True)
    (repo / "loras" / "style_high_noise.safetensors").write_bytes(LORA)
    (repo / "cut.safetensors").write_bytes(LORA[:-1])
    (repo.parents[1] / "private" / "style").mkdir(parents=True)
    (repo.parents[1] / "private" / "style" / "a.safetensors").write_bytes(LORA)
    environment = {**os.environ, "FAKE_HUB": str(repo.parents[1])}
    hub = subprocess.Popen(
        [sys.executable, "-m", "tests.fake_hub"], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert hub.stdout is not None
    yield hub.stdout.readline().strip()
    hub.terminate()
    hub.communicate()


@pytest.fixture
def hub(hub_address: str, tmp_path: Path) -> Hub:
    return Hub(hub_address, tmp_path)


@pytest.mark.slow
def test_a_hub_file_is_fetched_with_progress_and_not_again(hub: Hub) -> None:
    said = hub.fetch("hf://someone/style/loras/style_high_noise.safetensors@main")
    assert (said["name"], said["sha256"]) == ("style_high_noise.safetensors", hashlib.sha256(LORA).hexdigest())
    assert said["last"] == [len(LORA), len(LORA)] and said["notes"] == []
    assert said["again"] == [0]
    assert isinstance(said["left"], list) and len(said["left"]) == 2


@pytest.mark.slow
def test_the_hub_s_page_address_works_too(hub: Hub) -> None:
    said = hub.fetch(f"{hub.url}/someone/style/blob/main/loras/style_high_noise.safetensors")
    assert said["sha256"] == hashlib.sha256(LORA).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "more", "code", "message"),
    [
        ("hf://someone/none/a.safetensors", (), "FETCH_FAILED", "no public someone/none"),
        ("hf://someone/style/a.safetensors", (), "FETCH_FAILED", "no file a.safetensors"),
        ("hf://someone/style/cut.safetensors", (), "LORA_INVALID", "incomplete"),
        ("hf://someone/style/cut.safetensors", ("1000",), "FETCH_FAILED", "the limit is 1000"),
        ("hf://someone/style/loras/style_high_noise.safetensors", ("1000000000", "cancel"), "CANCELED", "enough"),
    ],
)
def test_what_the_hub_cannot_give_is_said(
    hub: Hub, source: str, more: tuple[str, ...], code: str, message: str
) -> None:
    said = hub.fetch(source, *more)
    assert said["code"] == code
    assert message in str(said["message"])
    assert said["left"] == []


@pytest.mark.slow  # the hub's client tries again for 20 seconds
def test_a_hub_that_does_not_answer_is_said(tmp_path: Path) -> None:
    said = Hub("http://127.0.0.1:9", tmp_path).fetch("hf://someone/style/a.safetensors")
    assert said["code"] == "FETCH_FAILED" and "does not answer" in str(said["message"])


def test_what_others_may_see_of_an_address() -> None:
    said = {
        "loras": [{"path": "https://ann:key@host.example/a.safetensors?token=secret#x"}, {"path": "job/a.safetensors"}],
        "values": ["HTTP://host.example/b.safetensors?sig=secret", 3, None],
        "prompts": [{"prompt": "https://kept.example/?as=written"}],
    }
    assert without_queries(said) == {
        "loras": [{"path": "https://host.example/a.safetensors"}, {"path": "job/a.safetensors"}],
        "values": ["http://host.example/b.safetensors", 3, None],
        "prompts": [{"prompt": "https://kept.example/?as=written"}],
    }
    assert without_queries("https://[broken?token=secret") == ""


@pytest.mark.slow
def test_the_token_of_a_request_opens_a_private_file_for_it_alone(hub: Hub) -> None:
    """The second download of the script is without the token: the stored copy does not take the hub's place."""
    said = hub.fetch("hf://private/style/a.safetensors", token=TOKEN)
    assert said["sha256"] == hashlib.sha256(LORA).hexdigest()
    assert said["code"] == "FETCH_FAILED" and "no public private/style" in str(said["message"])
    kept = [path for path in (hub.folder / "uploads").rglob("*") if path.is_file()]
    assert len(kept) == 2 and [path for path in kept if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_wrong_token_opens_nothing(hub: Hub) -> None:
    said = hub.fetch("hf://private/style/a.safetensors", token="hf_wrong")
    assert said["code"] == "FETCH_FAILED" and said["left"] == [] and "hf_wrong" not in json.dumps(said)
