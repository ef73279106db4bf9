"""What guests and strangers did to the HTTP side of wan-ui 0.2.0, one test for each finding (docs/security.md)."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.attacks.server import PASSWORD, USER, Server, SilentHost, error_code, running, wait_for

pytestmark = pytest.mark.slow

BODY: dict[str, Any] = {"model": "wan21_1b", "prompts": [{"prompt": "a garden", "num_frames": 5}]}
DESCRIPTORS = 400
SLOW_SECONDS = 4.0  # after which the server disconnects a client that sends nothing
WAITING_GUESTS = 30
QUICK = 3.0  # seconds; what was not delayed takes less on a busy machine
EVENT_PATHS = ("run/predict", "call/x", "api/look", "run/look", "call/v2/x", "reset", "cancel", "component_server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "WAN_UI_ALLOW_URL_HOST": "127.0.0.1",
        "WAN_UI_SLOW_CLIENT_SECONDS": f"{SLOW_SECONDS:g}",
        "WAN_UI_MAX_WAITING_GUESTS": f"{WAITING_GUESTS}",
        "WAN_UI_MAX_DISK_GB": "0.05",
    }
    with running(tmp_path_factory.mktemp("server"), environment=settings, descriptors=DESCRIPTORS) as server:
        yield server


@pytest.fixture(scope="module")
def ann(server: Server) -> Iterator[httpx.Client]:
    """A guest."""
    with server.guest() as guest:
        yield guest


@pytest.fixture(scope="module")
def bob(server: Server) -> Iterator[httpx.Client]:
    """Another guest."""
    with server.guest() as guest:
        yield guest


@pytest.fixture(scope="module")
def owner(server: Server) -> Iterator[httpx.Client]:
    with server.owner() as client:
        yield client


@pytest.fixture(scope="module")
def silent() -> Iterator[SilentHost]:
    host = SilentHost()
    yield host
    host.close()


def event_of(client: httpx.Client, name: str, session: str) -> dict[str, Any]:
    """The body of an event of the page, its inputs empty."""
    for event in client.get("/config").json()["dependencies"]:
        if event["api_name"] == name:
            return {"fn_index": event["id"], "data": [None] * len(event["inputs"]), "session_hash": session}
    raise LookupError(name)


def answer_seconds(client: httpx.Client, event: dict[str, Any], limit: float) -> float:
    """How long a queued event takes until its answer is there; infinity beyond the limit."""
    begun = time.monotonic()
    assert client.post("/gradio_api/queue/join", json=event).status_code == 200
    query = {"session_hash": event["session_hash"]}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        client.stream("GET", "/gradio_api/queue/data", params=query, timeout=limit) as stream,
    ):
        for line in stream.iter_lines():
            if '"process_completed"' in line:
                return time.monotonic() - begun
            if time.monotonic() - begun > limit:
                break
    return float("inf")


# Gradio's sessions and events


def test_f3_session_names_are_short(server: Server, ann: httpx.Client) -> None:
    """60 MB of memory for each name of 15 MB, also on routes that do not exist."""
    server.until_ready()
    before = server.memory()
    answers = set()
    for index in range(6):
        name = f"{index}" + "a" * (4 << 20)
        for path in ("queue/join", "nothing"):
            event = {"fn_index": 0, "data": [], "session_hash": name}
            answers.add(ann.post(f"/gradio_api/{path}", json=event).status_code)
    event = {"fn_index": 0, "data": [], "session_hash": "a" * 65}
    answers.add(ann.post("/gradio_api/queue/join", json=event).status_code)
    assert answers <= {404, 413, 422}
    assert server.memory() - before < 60 << 20


def test_f6_answers_that_nobody_asks_for_are_few(server: Server) -> None:
    """14 MB of memory for the answer to each event of 10 MB, for as long as nobody asks for it."""
    with server.guest() as guest:
        event = event_of(guest, "on_model", "unheard")
        large = {**event, "data": ["a" * 1_000_000, *event["data"][1:]]}
        assert guest.post("/gradio_api/queue/join", json=large).status_code == 413
        answers = [guest.post("/gradio_api/queue/join", json=event).status_code for _ in range(40)]
    assert answers[0] == 200 and answers[-1] == 429


def test_f11_no_event_is_heard_by_another(server: Server, ann: httpx.Client, bob: httpx.Client) -> None:
    event = event_of(ann, "on_load_text", "of-ann")
    reply = ann.post("/gradio_api/queue/join", json={**event, "data": ["a secret", None]})
    for name in (reply.json()["event_id"], "of-ann"):
        with bob.stream("GET", f"/gradio_api/call/x/{name}", timeout=5) as stream:
            assert stream.status_code == 404


def test_f12_the_owners_session_is_its_own(owner: httpx.Client, ann: httpx.Client) -> None:
    event = event_of(owner, "on_load_text", "of-the-owner")
    assert owner.post("/gradio_api/queue/join", json=event).status_code == 200
    for path in ("queue/data?session_hash=of-the-owner", "heartbeat/of-the-owner"):
        with ann.stream("GET", f"/gradio_api/{path}", timeout=5) as stream:
            assert stream.status_code == 404


def test_f12_private_handlers_run_in_the_queue_alone(ann: httpx.Client) -> None:
    event = event_of(ann, "on_load_text", "beside")
    for path in EVENT_PATHS:
        assert ann.post(f"/gradio_api/{path}", json=event).status_code == 404, path


def test_f26_an_events_id_is_a_text(server: Server, ann: httpx.Client) -> None:
    """And its number one of the page's: another one, or half a character, was answered with 500 and a trace."""
    lines = len(server.lines)
    event = event_of(ann, "look", "dict")
    forms = ({"fn_index": 10**6}, {"fn_index": 10**30}, {"trigger_id": "\ud800"}, {"event_id": {"a": 1}, "fn_index": 0})
    for path in ("queue/join", "run/predict", "cancel", "reset"):
        for form in forms:
            body = json.dumps({**event, **form})
            reply = ann.post(f"/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
            assert reply.status_code in (404, 422), (path, form)
    assert "Traceback" not in "\n".join(server.lines[lines:])


# Sign-in and sessions


def test_f15_a_planted_cookie_ends_at_the_sign_in(server: Server) -> None:
    """The guest keeps the cookie that is planted in another's browser, and lists what is sent after the sign-in."""
    with server.guest() as attacker, server.client(accept="text/html") as victim:
        for name, value in attacker.cookies.items():
            victim.cookies.set(name, value, domain="127.0.0.1")
        assert victim.post("/login", data={"user": USER, "password": PASSWORD}).status_code == 303
        job = victim.post("/v1/inference", json=BODY).json()["request_id"]
        assert victim.get(f"/v1/requests/{job}/status").status_code == 200
        assert attacker.get(f"/v1/requests/{job}/status").status_code == 404


def test_behind_a_proxy_with_https_the_cookie_is_secure(server: Server) -> None:
    """The proxy is on this machine, as uvicorn asks of one that it believes."""
    given = {"user": USER, "password": PASSWORD}
    for headers, is_safe in (({"x-forwarded-proto": "https"}, True), ({}, False)):
        with server.client() as browser:
            cookie = browser.post("/login", data=given, headers=headers).headers["set-cookie"]
            assert cookie.startswith("__Host-") == ("; Secure" in cookie) == is_safe
            sent = {"cookie": cookie.partition(";")[0]}
            assert browser.get("/v1/models", headers={**headers, **sent}).status_code == 200
            browser.cookies.clear()
            other = {} if is_safe else {"x-forwarded-proto": "https"}
            assert browser.get("/v1/models", headers={**other, **sent}).status_code == 401


def assert_turns(server: Server) -> None:
    """A guest's first request comes before another's second (F13). Nothing is rendered yet: the engine is not there."""
    with server.guest() as many, server.guest() as one:
        sent = [many.post("/v1/inference", json=BODY).json()["request_id"] for _ in range(4)]
        first = one.post("/v1/inference", json=BODY).json()["request_id"]

        def ends() -> list[str]:
            clients = [*((many, job) for job in sent), (one, first)]
            states = [client.get(f"/v1/requests/{job}/status").json() for client, job in clients]
            return [state["finished_at"] or "" for state in states]

        wait_for(lambda: all(ends()))
        assert sorted(ends())[1] == ends()[-1]


def test_f16_a_new_password_ends_the_owners_session(
    server: Server, owner: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And a planted cookie ends at the owner's address too (F15)."""
    folder = tmp_path_factory.mktemp("password")
    with running(folder) as first, first.guest() as guest, first.client(accept="text/html") as kept:
        planted = dict(guest.cookies.items())
        for name, value in planted.items():
            kept.cookies.set(name, value, domain="127.0.0.1")
        assert kept.get(first.owner_path).status_code == 303
        cookies = dict(kept.cookies.items())
        assert cookies != planted
        job = kept.post("/v1/inference", json=BODY).json()["request_id"]
        assert kept.get(f"/v1/requests/{job}/status").status_code == 200
        assert guest.get(f"/v1/requests/{job}/status").status_code == 404
    with running(folder, password="another one") as second, second.client() as late:
        assert_turns(second)
        for name, value in cookies.items():
            late.cookies.set(name, value, domain="127.0.0.1")
        assert late.get("/v1/models").status_code == 401


# Slow clients


def test_f10_half_sent_requests_end(server: Server, ann: httpx.Client) -> None:
    """More of them than the process may have open files; then it was silent until they went."""
    server.until_ready()
    heads = (b"", b"GET / HTTP/1.1\r\nHost: ", server.head("POST", "/login", Content_Length="100") + b"\r\nuser=")
    connections = []
    try:
        for index in range(DESCRIPTORS + 50):
            with contextlib.suppress(OSError):
                connections.append(server.connect(heads[index % 3], timeout=2))
        assert server.health_seconds(timeout=QUICK) < QUICK
        assert ann.get("/v1/models", timeout=QUICK).status_code == 200
        latest = connections[-3:]
        for connection in latest:
            connection.settimeout(SLOW_SECONDS + 10)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):  # a refusal, and then the end
                    pass
    finally:
        for connection in connections:
            connection.close()


def test_f4_first_frames_that_never_come_delay_nobody(
    server: Server, ann: httpx.Client, bob: httpx.Client, silent: SilentHost
) -> None:
    """They were fetched in the threads that serve all routes: health answered after 18 s."""
    connections = []
    for index in range(45):
        url = f"http://127.0.0.1:{silent.port}/{index}.png"
        body = json.dumps({"model": "wan21_i2v_14b", "prompts": [{"prompt": "a", "ctrl_img": url}]}).encode()
        head = server.head(
            "POST",
            "/v1/inference",
            (ann, bob)[index % 2],
            Content_Type="application/json",
            Content_Length=str(len(body)),
        )
        connections.append(server.connect(head + b"\r\n" + body))
    try:
        wait_for(lambda: len(silent.connections) > 0)
        with server.program(timeout=QUICK) as program:
            waits = [server.health_seconds(timeout=QUICK)]
            begun = time.monotonic()
            assert program.get("/v1/models").status_code == 200
            waits.append(time.monotonic() - begun)
        assert max(waits) < QUICK
        body_of_many = {
            "model": "wan21_i2v_14b",
            "prompts": [
                {"prompt": "a", "ctrl_img": f"http://127.0.0.1:{silent.port}/many-{index}.png"} for index in range(1000)
            ],
        }
        with server.program(timeout=QUICK) as program:
            assert error_code(program.post("/v1/inference", json=body_of_many)) == "INVALID_REQUEST"
    finally:
        for connection in connections:
            connection.close()


def test_f14_loading_into_the_form_delays_nobody(
    server: Server, ann: httpx.Client, bob: httpx.Client, silent: SilentHost
) -> None:
    """One seat for everybody: four slow ones made all others wait 85 s."""
    url = f"http://127.0.0.1:{silent.port}/slow.png"
    slow = json.dumps({"model": "wan21_i2v_14b", "prompts": [{"prompt": "a", "ctrl_img": url}]})
    event = event_of(bob, "on_load_text", "slow")
    for _ in range(4):
        sent = {**event, "data": [slow, None]}
        assert bob.post("/gradio_api/queue/join", json=sent).status_code == 200
    quick = {**event_of(ann, "on_load_text", "quick"), "data": [json.dumps(BODY), None]}
    assert answer_seconds(ann, quick, 10) < 10


def test_f9_an_upload_heeds_the_limit_of_the_disk_and_of_time(server: Server, ann: httpx.Client) -> None:
    with contextlib.suppress(httpx.WriteError):
        reply = ann.post("/v1/loras/inspect", files={"file": ("a.safetensors", bytes(60_000_000))})
        assert reply.status_code == 507, reply.text
    head = server.head(
        "POST", "/v1/restore", ann, Content_Length="1000000", Content_Type="multipart/form-data; boundary=b"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    with server.connect(head + b"\r\n" + part + bytes(1000), timeout=SLOW_SECONDS + 15) as held:
        with contextlib.suppress(ConnectionError):
            while held.recv(4096):
                pass
    uploads = server.folder / "data" / "uploads"
    wait_for(lambda: not [path for path in uploads.iterdir() if path.is_dir() and path.name != "fetched"])


# Values and headers


@pytest.mark.parametrize("name", ["a/b/\0.safetensors", f"a/b/{'c' * 3000}.safetensors", "C:/b/c.safetensors"])
def test_f20_strange_hub_names_are_refused(server: Server, ann: httpx.Client, name: str) -> None:
    for path, body in (
        ("inference", {**BODY, "loras": [{"path": f"hf://{name}"}]}),
        ("loras/inspect", {"path": f"hf://{name}"}),
    ):
        reply = ann.post(f"/v1/{path}", json=body)
        assert reply.status_code == 400 and error_code(reply) == "LORA_NOT_FOUND", reply.text


def test_f21_no_header_moves_the_page_and_no_cache_keeps_it(ann: httpx.Client) -> None:
    for path in ("/", "/config", "/v1/gallery", "/v1/models", "/v1/nothing"):
        reply = ann.get(path, headers={"x-gradio-server": "http://evil.example"})
        assert "evil.example" not in reply.text
        assert "no-store" in reply.headers["cache-control"]
    assets = [part.split('"')[0] for part in ann.get("/").text.split('"./assets/')[1:]]
    assert "immutable" in ann.get(f"/assets/{assets[0]}").headers["cache-control"]


# The queue


def waiting_body(silent: SilentHost, number: int) -> dict[str, Any]:
    """A request that waits for its LoRA's download."""
    return {**BODY, "loras": [{"path": f"http://127.0.0.1:{silent.port}/{number}.safetensors"}]}


def test_f13_all_guests_together_have_a_limit(
    server: Server, owner: httpx.Client, ann: httpx.Client, silent: SilentHost
) -> None:
    """20 waiting requests each, and by signing in again 81 times as many."""
    accepted = 0
    with contextlib.ExitStack() as stack:
        for guest in (ann, *(stack.enter_context(server.guest()) for _ in range(3))):
            replies = [guest.post("/v1/inference", json=waiting_body(silent, number)) for number in range(15)]
            accepted += [reply.status_code for reply in replies].count(200)
    assert 15 <= accepted <= WAITING_GUESTS
    assert owner.post("/v1/inference", json=waiting_body(silent, 0)).status_code == 200


def test_f13_sign_ins_are_few_a_minute(server: Server) -> None:
    def sign_in() -> int:
        with server.client() as client:
            return client.post("/login", data={"user": USER, "password": PASSWORD}).status_code

    answers = [sign_in()]
    while answers[-1] == 303 and len(answers) < 240:  # a slow machine is given one more each second
        answers.append(sign_in())
    assert answers[0] == 303 and answers[-1] == 429


def test_f5_the_right_password_passes_while_others_guess(server: Server, ann: httpx.Client) -> None:
    with server.client() as stranger:
        answers = [stranger.get("/v1/models", auth=(USER, f"wrong {index}")).status_code for index in range(30)]
        assert set(answers) == {401, 429} and answers[-1] == 429
        assert stranger.get("/v1/models", auth=(USER, PASSWORD)).status_code == 200
        given = {"user": USER, "password": PASSWORD}
        wait_for(lambda: stranger.post("/login", data=given).status_code == 303)  # one a second, after the above


def test_f24_a_data_folder_that_is_gone_is_the_machines_fault(
    server: Server, owner: httpx.Client, ann: httpx.Client
) -> None:
    lines = len(server.lines)
    data, away = server.folder / "data", server.folder / "away"
    data.rename(away)
    try:
        replies = [
            ann.post("/v1/loras/inspect", files={"file": ("a.safetensors", b"x")}),
            ann.post("/v1/restore", files={"file": ("a.mp4", b"x")}),
            ann.post("/v1/jobs/import", files={"file": ("a.zip", b"x")}),
            owner.post("/v1/inference", json=BODY),
            ann.post("/gradio_api/upload", files={"files": ("a.png", b"x")}),
        ]
    finally:
        away.rename(data)
    assert [reply.status_code for reply in replies] == [503] * 5, [reply.text[:200] for reply in replies]
    assert "Traceback" not in "\n".join(server.lines[lines:])


# Later attacks that got through at first


def test_the_owner_has_event_streams_however_many_others_open(
    server: Server, owner: httpx.Client, ann: httpx.Client
) -> None:
    """270 streams of a program without a cookie kept everybody else without any; a burst passed a browser's limit."""
    password = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    program = server.head("GET", "/v1/events", Authorization=f"Basic {password}") + b"\r\n"
    guest = server.head("GET", "/v1/events", ann) + b"\r\n"
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(server.connect(program)) for _ in range(110)]
        guests = [stack.enter_context(server.connect(guest)) for _ in range(40)]
        # Many ask before the first stream begins: what is too much is refused, or its stream ends at once.
        wait_for(lambda: sum(map(is_refused, programs)) >= 110 - 96)
        open_streams = [connection for connection in guests if lasts(connection)]
        assert 1 <= len(open_streams) <= 12
        with owner.stream("GET", "/v1/events", timeout=QUICK) as stream:
            assert stream.status_code == 200 and next(stream.iter_lines()).startswith("retry")


def is_refused(connection: socket.socket) -> bool:
    """Whether the answer is an error, or has ended by now; what has been sent stays unread."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        head = connection.recv(65_536, socket.MSG_PEEK)
        return head[9:12] == b"429" or b"\r\n0\r\n\r\n" in head
    return False


def lasts(connection: socket.socket) -> bool:
    """Whether an answer goes on after its first event."""
    data = b""
    connection.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while piece := connection.recv(65_536):
            data += piece
            if b"event: server" in data:
                return True
    return False


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_refused_by_mcp_too(server: Server, ann: httpx.Client, number: str) -> None:
    lines = len(server.lines)
    call = {"name": "submit", "arguments": {**BODY, "fps": "NUMBER"}}
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    reply = ann.post("/mcp", content=message.replace('"NUMBER"', number), headers=headers)
    assert reply.json()["result"]["structuredContent"]["detail"]["error"]["code"] == "BAD_JSON", reply.text
    assert "Traceback" not in "\n".join(server.lines[lines:])


def test_bodies_of_unknown_fields_and_of_numbers_delay_nobody(owner: httpx.Client) -> None:
    """200,000 unknown fields took 10 s of validation; 30 MB of numbers kept all threads waiting while decoded."""
    unknown = json.dumps({**BODY, "loras": [{str(number): 1 for number in range(200_000)}]}).encode()
    numbers = b'{"prompts": [' + b"1," * 14_000_000 + b"1]}"
    for body, code in ((unknown, "INVALID_REQUEST"), (numbers, "BAD_JSON")):
        begun = time.monotonic()
        reply = owner.post("/v1/inference", content=body, headers={"content-type": "application/json"})
        assert error_code(reply) == code and len(reply.content) < 100_000
        assert time.monotonic() - begun < QUICK


def test_a_part_of_a_form_that_is_no_file_is_not_kept(server: Server, ann: httpx.Client) -> None:
    """300 MB of one took 895 MB of memory, and health 3 s."""

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n'
        yield from (bytes(1 << 20) for _ in range(40))
        yield b"\r\n--b--\r\n"

    before, lines = server.memory(), len(server.lines)
    form = {"content-type": "multipart/form-data; boundary=b"}
    with contextlib.suppress(httpx.WriteError):
        assert ann.post("/gradio_api/upload", content=pieces(), headers=form).status_code == 422
    assert server.memory() - before < 30 << 20
    nameless = b"--b\r\nContent-Disposition: form-data; name=\"files\"; filename*=utf-8''a\r\n\r\nx\r\n--b--\r\n"
    assert ann.post("/gradio_api/upload", content=nameless, headers=form).status_code == 422
    assert "Traceback" not in "\n".join(server.lines[lines:])


def test_few_progress_streams_of_short_names(server: Server, ann: httpx.Client, bob: httpx.Client) -> None:
    """600 streams took health 1.2 s, and Gradio kept each name that was asked for, of up to 60 kB."""
    upload, progress = "/gradio_api/upload?upload_id=slow", "/gradio_api/upload_progress?upload_id="
    lines = len(server.lines)
    head = server.head("POST", upload, ann, Content_Type="multipart/form-data; boundary=b", Content_Length="1000")
    with contextlib.ExitStack() as stack:
        stack.enter_context(server.connect(head + b"\r\n--b\r\n"))
        stream = server.head("GET", f"{progress}slow", ann) + b"\r\n"
        streams = [stack.enter_context(server.connect(stream)) for _ in range(12)]
        wait_for(lambda: sum(map(is_refused, streams)) == 6)
        assert bob.get(f"{progress}slow").status_code == 404
    assert ann.get(progress + "a" * 65).status_code == 422
    wait_for(lambda: ann.get(f"{progress}a b").status_code == 422)
    assert "Traceback" not in "\n".join(server.lines[lines:])  # the upload that was given up is no fault


def test_a_request_states_its_length_once(server: Server, ann: httpx.Client) -> None:
    """A proxy that heeds the other one would take what follows for a request of somebody else."""
    head = server.head("POST", "/v1/inference", ann, Content_Length="4", Transfer_Encoding="chunked")
    inner = server.head("GET", "/v1/models", ann) + b"\r\n"
    with server.connect(head + b"\r\n0\r\n\r\n" + inner) as connection:
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


def test_few_cookies_of_one_name_are_looked_at(server: Server, ann: httpx.Client) -> None:
    """2,500 of them in one head of a stranger took 100 ms of computing."""
    (name, value), *_ = ann.cookies.items()
    for others, status in ((6, 200), (600, 401)):
        cookies = "; ".join([f"{name}={number}" for number in range(others)] + [f"{name}={value}"])
        with server.client() as client:
            assert client.get("/v1/models", headers={"cookie": cookies}).status_code == status


def test_an_answer_with_a_file_repeats_no_header_of_its_request(server: Server, ann: httpx.Client) -> None:
    """Gradio answered a range with the request's own headers, the session's cookie among them; `bytes=--1` failed."""
    lines = len(server.lines)
    (path,) = ann.post("/gradio_api/upload", files={"files": ("a.png", b"0123456789")}).json()
    sent = {"range": "bytes=0-3", "refresh": "0; url=http://evil.example"}
    answer = ann.get(f"/gradio_api/file={path}", headers=sent)
    assert (answer.status_code, answer.content) == (206, b"0123")
    assert not {"cookie", "refresh", "user-agent"} & set(answer.headers)
    for odd in ("bytes=--1", "bytes=0-1,3-4", "bytes=-", "bytes=a-b", "lines=0-1"):
        assert ann.get(f"/gradio_api/file={path}", headers={"range": odd}).content == b"0123456789"
    assert "Traceback" not in "\n".join(server.lines[lines:])


def test_a_body_of_tiny_chunks_delays_nobody(server: Server, ann: httpx.Client) -> None:
    """3.6 MB of one-byte chunks in one connection: health took 4.6 s, without a password too, and a guest's 9.7 s."""
    for client, path in ((None, "/v1/inference"), (None, "/login"), (ann, "/v1/inference"), (ann, "/v1/restore")):
        head = server.head("POST", path, client, Content_Type="application/json", Transfer_Encoding="chunked")
        with server.connect(head + b"\r\n") as connection:
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                for _ in range(60):
                    connection.sendall(b"1\r\n{\r\n" * 10_000)
                while connection.recv(65_536):
                    pass
            # It was disconnected, and long before the server could have read all of it.
            assert server.health_seconds(timeout=QUICK) < QUICK


def test_no_part_of_another_sites_page_is_served(ann: httpx.Client) -> None:
    """Images, scripts and frames of other sites were: browsers send no Origin for them."""
    for site in ("cross-site", "same-site"):
        for path in ("/v1/gallery", "/v1/events", "/config", "/gradio_api/heartbeat/x"):
            sent = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            request = ann.build_request("GET", path, headers=sent)
            del request.headers["origin"]
            assert error_code(ann.send(request)) == "ORIGIN_REFUSED", path
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    request = ann.build_request("GET", "/", headers=followed)
    del request.headers["origin"]
    assert ann.send(request).status_code == 200


def test_a_page_of_http_sends_nothing_to_a_server_behind_https(server: Server, ann: httpx.Client) -> None:
    """Whoever controls the network writes the former."""
    with server.client() as client:
        for origin, status in ((f"https://127.0.0.1:{server.port}", 401), (server.url, 403)):
            sent = {"origin": origin, "x-forwarded-proto": "https"}
            assert client.post("/v1/inference", json=BODY, headers=sent).status_code == status
