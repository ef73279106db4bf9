"""SIGKILL at random moments over a queue of jobs on the demo checkpoints, and what is left of the queue.

The ordinary run is a small part of it; scripts/soak runs it whole.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forked import run_together
from tests.jobs.mortal import be_killed
from tests.test_app import App, until
from wan_ui import Engine
from wan_ui.compare import expand
from wan_ui.demo.checkpoints import ensure
from wan_ui.job import FINAL, Job
from wan_ui.jobs.store import Store
from wan_ui.media import video
from wan_ui.render_order import plan_cells
from wan_ui.request import Compare, parse, resolve

pytestmark = pytest.mark.slow
SEED = 20261121
SIZE: dict[str, Any] = {"width": 64, "height": 64, "num_frames": 5}

# Every change of a job's state is noted by the database itself, so that one that ended twice would be seen.
JOURNAL = (
    "CREATE TABLE journal (n INTEGER PRIMARY KEY, id TEXT, was TEXT, now TEXT)",
    """
    CREATE TRIGGER noted AFTER UPDATE OF status ON jobs WHEN OLD.status <> NEW.status
    BEGIN INSERT INTO journal (id, was, now) VALUES (NEW.id, OLD.status, NEW.status); END
    """,
)


def prompts(count: int, steps: int) -> list[dict[str, Any]]:
    return [{"prompt": f"clip {n}", **SIZE, "sample_steps": steps, "seed": -1} for n in range(count)]


def fill(store: Store, jobs: int, steps: int) -> list[Job]:
    """Jobs of one to three clips with drawn seeds, a comparison among them."""
    added: list[Job] = []
    for number in range(jobs):
        body: dict[str, Any] = {"model": "wan21_1b", "prompts": prompts(1 + number % 3, steps)}
        if number % 7 == 3:
            asked = {"columns": {"field": "seed", "values": [number, number + 100]}}
            body = {**body, "prompts": prompts(1, steps), "compare": asked}
            made = expand(parse(body), Compare.model_validate(asked))
            generations, cells = plan_cells(made, [resolve(one.request, store_image=str)[0] for one in made.cells])
            added.append(store.add(body, generations, cells=cells))
        else:
            added.append(store.add(body, resolve(parse(body), store_image=str)))
    return added


def prepared(data_dir: Path, jobs: int, steps: int) -> list[Job]:
    """The demo, and a line of waiting jobs whose every change of state is noted."""
    data_dir.mkdir(exist_ok=True)
    ensure(data_dir / "demo")
    store = Store(data_dir / "jobs.sqlite")
    with sqlite3.connect(data_dir / "jobs.sqlite") as rows:
        for statement in JOURNAL:
            rows.execute(statement)
    added = fill(store, jobs, steps)
    store.close()
    return added


def whole(data_dir: Path, added: list[Job]) -> str:
    """Checks that nothing is lost, doubled, out of order or half there; some figures."""
    store = Store(data_dir / "jobs.sqlite")
    ended = [store.job(job.id) for job in added]
    store.close()
    assert [job.status for job in ended] == ["succeeded"] * len(added)
    assert [job.generations for job in ended] == [job.generations for job in added]  # the seeds that were drawn
    with sqlite3.connect(data_dir / "jobs.sqlite") as rows:
        journal = rows.execute("SELECT id, was, now FROM journal ORDER BY n").fetchall()
    ends = [job_id for job_id, _, now in journal if now in FINAL]
    assert ends == [job.id for job in added]  # each once, and in their order
    begins = [job_id for job_id, _, now in journal if now == "in_progress"]
    assert list(dict.fromkeys(begins)) == [job.id for job in added]
    assert len(begins) - len(added) == sum(job.attempts for job in ended)

    listed = {clip.file: job.generations[clip.index] for job in ended for clip in job.clips}
    assert sum(len(job.generations) for job in ended) == len(listed)
    found = {f"clips/{path.name}" for path in (data_dir / "clips").iterdir()}
    assert found == {*listed, *(name.replace(".mp4", suffix) for name in listed for suffix in (".jpg", ".png"))}
    engine = Engine(data_dir / "demo" / "models", data_dir / "demo" / "loras", "cpu", data_dir=data_dir)
    for file, generation in listed.items():
        frames = video.read_frames(data_dir / file)
        assert frames.shape == (generation.num_frames, generation.height, generation.width, 3)
        assert video.read_metadata(data_dir / file)["generation"]["seed"] == generation.seed
    file, generation = next(iter(listed.items()))
    again = data_dir / "again.mp4"
    video.write(again, engine.render(generation, lambda progress: None).frames, generation.fps, {})
    assert np.array_equal(video.read_frames(again), video.read_frames(data_dir / file))
    engine.close()
    return f"{sum(job.attempts for job in ended)} times while a job ran, {len(listed)} clips, all playable"


def killed_and_whole(data_dir: Path, jobs: int, kills: int, steps: int, longest: float) -> str:
    """Lets a line be killed so often, each time within `longest` seconds of its start, and checks what is left."""
    added = prepared(data_dir, jobs, steps)
    begun = time.monotonic()
    (printed,) = run_together(be_killed, [(data_dir, kills, SEED, longest)], data_dir.parent, seconds=3600)
    result = json.loads(printed.splitlines()[-1])
    assert result == {"killed": kills, "ended_early": 0, "last": 0}, printed
    return f"{kills} kills over {jobs} jobs in {time.monotonic() - begun:.0f} s: {whole(data_dir, added)}"


@pytest.mark.timeout(900)  # half a minute on an idle machine; how often it loads depends on how busy it is
def test_eight_kills_over_four_jobs(tmp_path: Path) -> None:
    killed_and_whole(tmp_path / "data", jobs=4, kills=8, steps=20, longest=1.0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_kills_over_twenty_jobs(tmp_path: Path) -> None:
    print("\n" + killed_and_whole(tmp_path / "data", jobs=20, kills=200, steps=100, longest=2.0))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_kills_of_the_whole_program(tmp_path: Path) -> None:
    """From its first moments on, page and all; far fewer, since each start takes its seconds."""
    data_dir, moments = tmp_path / "data", random.Random(SEED)
    data_dir.mkdir()
    added = prepared(data_dir, jobs=4, steps=60)
    for kill in range(11):
        app = App(data_dir, "--demo", "--max-attempts", "1000")
        if kill < 10:
            if kill % 3:
                app.wait_for("Ready on ")
            time.sleep(moments.uniform(0, 4))
            app.process.kill()
            assert app.process.wait() == -signal.SIGKILL
    app.wait_for("Ready on ")
    with app.client() as client:
        for job in added:
            until(client, f"/v1/requests/{job.id}/status", set(FINAL))
    assert app.stop(signal.SIGTERM)[0] == 0
    print(f"\n10 kills of the program over {len(added)} jobs: {whole(data_dir, added)}")
