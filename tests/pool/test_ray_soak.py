"""The long forms of test_ray.py: kills on three machines, the whole program over a cluster, and the server killed."""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.helpers import body
from tests.pool.ray_cluster import LONG, ROOT, add_machine, ray_machines
from tests.pool.test_ray import MANY, server, slow_job
from tests.test_app import SMALL as SMALL_CLIP
from tests.test_app import App, finished
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS
from wan_ui.media import video

pytestmark = pytest.mark.soak
KILLS = int(os.environ.get("WAN_UI_CLUSTER_KILLS", "20"))


def test_killed_workers_and_actors_end_every_job_once(tmp_path: Path) -> None:
    """KILLS seeded SIGKILLs, of a rendering process or of its actor, on three machines."""
    draws = random.Random(16)
    with ray_machines(tmp_path, gpus_of_head=1) as machines:
        for _ in range(2):
            add_machine(machines)
        with server(tmp_path, machines, MANY) as (dispatcher, service, _):
            wait_until(lambda: len(dispatcher.slots()) == 3, LONG)
            killed, jobs, seed = 0, [], 0
            while killed < KILLS:
                if service.waiting() < 2:
                    jobs.append(service.submit(slow_job(seed, 3, draws.randrange(20, 60)), LOCAL_ACCESS))
                    seed += 3
                wait_until(lambda: any(s.running and s.running.progress.step for s in dispatcher.slots()), LONG)
                if victims := rendering_processes(tmp_path):
                    victim = draws.choice(victims)
                    with suppress(psutil.NoSuchProcess):
                        (victim if draws.random() < 0.5 else victim.parent() or victim).kill()
                    killed += 1
                    wait_until(lambda victim=victim: not is_alive(victim), LONG)  # type: ignore[misc]
            for job in jobs:
                assert dispatcher.wait(job.id, LONG)
            ended = [service.job(job.id, LOCAL_ACCESS) for job in jobs]
            assert {job.status for job in ended} == {"succeeded"}
            assert all([clip.index for clip in job.clips] == [0, 1, 2] for job in ended)
            files = {clip.file for job in ended for clip in job.clips}
            assert {f"clips/{path.name}" for path in (tmp_path / "clips").glob("*.mp4")} == files
            assert all(video.probe(tmp_path / file).num_frames == 1 for file in files)
            assert sum(job.attempts for job in ended) <= KILLS
        wait_until(lambda: not rendering_processes(tmp_path), 10.0)


def rendering_processes(data_dir: Path) -> list[psutil.Process]:
    """The processes of this cluster's slots, each a child of its actor: others may run the same program."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "tests.pool.fake_slot" not in (process.info["cmdline"] or []) or not is_alive(process):
            continue
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("WAN_UI_DATA_DIR") == str(data_dir):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_machine_that_joins_takes_over_from_one_that_is_lost(tmp_path: Path) -> None:
    with ray_machines(tmp_path, gpus_of_head=0) as machines:
        lost = add_machine(machines)
        with server(tmp_path, machines) as (dispatcher, service, cluster):
            job = service.submit(slow_job(1, 2, steps=100), LOCAL_ACCESS)
            wait_until(lambda: any(slot.running and slot.running.progress.step for slot in dispatcher.slots()), LONG)
            ((first,), (slot,)) = (cluster.states(), dispatcher.slots())
            assert (first.state, "wan21_1b" in first.models, slot.device) == ("used", True, "fake GPU")
            machines.remove_node(lost, allow_graceful=False)
            add_machine(machines)
            assert dispatcher.wait(job.id, LONG)
            done = service.job(job.id, LOCAL_ACCESS)
            assert (done.status, [clip.index for clip in done.clips], done.attempts) == ("succeeded", [0, 1], 1)
            for clip in done.clips:
                assert video.read_metadata(tmp_path / clip.file)["request"]["prompts"]
            wait_until(lambda: first.slots[0] not in [slot.name for slot in dispatcher.slots()], LONG)


def test_no_actor_outlives_a_killed_server(tmp_path: Path) -> None:
    with ray_machines(tmp_path, gpus_of_head=1) as machines:
        command = [sys.executable, "-m", "tests.pool.ray_program", str(tmp_path), machines.address]
        program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        process = psutil.Process(int(program.stdout.readline()))
        actor = process.parent()
        assert actor is not None and "SlotActor" in " ".join(actor.cmdline())
        program.send_signal(signal.SIGKILL)
        program.wait()
        program.stdout.close()
        wait_until(lambda: not is_alive(process) and not is_alive(actor), 10.0)


def test_the_whole_program_renders_on_a_cluster(tmp_path: Path) -> None:
    with ray_machines(tmp_path / "machine", gpus_of_head=1) as machines:
        app = App(tmp_path / "server", "--demo", "--cluster", machines.address)
        try:
            app.wait_for("Ready on ", LONG)
            with app.client() as client:
                wait_until(lambda: client.get("/v1/health").json()["slots"], LONG)
                group = client.get("/v1/loras?model=wan22_5b").json()["groups"][0]
                lora = {"path": group["files"][0]["source"], "network_multiplier": 1.0}
                picture = base64.b64encode((tmp_path / "server" / "demo" / "first_frame.png").read_bytes()).decode()
                prompts = [{"prompt": "a sea", **SMALL_CLIP, "seed": seed, "ctrl_img": picture} for seed in (1, 2)]
                request = {"model": "wan22_5b", "prompts": prompts, "loras": [lora]}
                result = finished(client, client.post("/v1/inference", json=request))
                assert (result["status"], len(result["outputs"]["videos"])) == ("succeeded", 2), result["error"]
                folders = [tmp_path / "machine" / "node" / name for name in ("images", "loras")]
                sent = [path for folder in folders for path in folder.iterdir()]
                assert len(sent) == 2  # the LoRA and the first frame, each once

                def health() -> Any:
                    return client.get("/v1/health").json()

                assert [machine["state"] for machine in health()["machines"]] == ["used"]
                # On a busy machine a health answer may be a second old.
                wait_until(lambda: [(slot["device"], slot["failures"]) for slot in health()["slots"]] == [("cpu", 0)])
            assert app.stop(signal.SIGTERM)[0] == 0
        finally:
            app.process.kill()
            app.process.wait()


def test_two_gpus_of_a_machine_render_one_video_and_a_lost_one_leaves_it_to_the_other(tmp_path: Path) -> None:
    with ray_machines(tmp_path, gpus_of_head=2) as machines:
        with server(tmp_path, machines, split=2) as (dispatcher, service, cluster):
            wait_until(lambda: len(dispatcher.slots()) == 2, LONG)
            assert [(state.state, state.splits) for state in cluster.states()] == [("used", True)]
            both = service.submit(slow_job(1, 2, steps=40), LOCAL_ACCESS)  # the fake GPUs' model is known after it
            assert dispatcher.wait(both.id, LONG)
            request = body(9)
            request["prompts"][0]["prompt"] = "gate"  # both stay there until it is opened
            lone = service.submit(request, LOCAL_ACCESS)
            wait_until(lambda: (tmp_path / "node" / "arrived-9").exists(), LONG)
            assert [slot.running is not None for slot in dispatcher.slots()] == [True, True]
            actor = rendering_processes(tmp_path)[-1].parent()
            assert actor is not None
            actor.kill()
            wait_until(lambda: sum(slot.failures for slot in dispatcher.slots()) == 1, LONG)
            (tmp_path / "node" / "open-9").touch()
            assert dispatcher.wait(lone.id, LONG)
            done = service.job(lone.id, LOCAL_ACCESS)
            assert (done.status, len(done.clips), done.attempts) == ("succeeded", 1, 0)
        wait_until(lambda: not rendering_processes(tmp_path), 10.0)
