"""Chaos: whatever is killed, damaged or fails, and whenever, the same command ends with the same results and leaves nothing else behind."""

import random
import re
import time

import psutil
import pytest

from tests.disturbed import Place

SWEEP = [
    "model=hashed_words", "dataset=sentences", "dataset.corpus=60", "dataset.queries=12", "store=nothing", "index=flat", "processes=1",
    "min_duration_s=0.02", "workload.min_requests=11", "embed_items=8", "batch_size=4", "k=[5]", "seed=range(0,8)", "metric=cosine,l2",
]  # fmt: skip
"""Eight embed cells and sixteen search cells of Python alone."""
CELLS = 24

KINDS = ("parent", "server", "child", "fault", "damage")
"""What is done: a kill at any moment, an error at a stage, or a changed byte in a record or in the cache."""

FAULTS = [
    (stage, what)
    for stage in ("embed_memory", "embed", "search_memory", "search", "record")
    for what in ("error", "memory", "child", "server", "parent")
    if stage != "record" or what == "parent"
]


def cells(place):
    """Kind, key and status that an undisturbed sweep ends with: every cell that its plan names is measured."""
    plan = place.command("plan")
    named = re.findall(r"^  (\w{20})  (\w+) .*: measured$", plan, re.MULTILINE)
    assert len(named) == CELLS, plan
    return {(kind, key, "ok") for key, kind in named}


def until(place, run, records):
    """Wait until there are so many records, or the run ends."""
    while place.measured < records and run.poll() is None:
        time.sleep(0.02)


def kill(process):
    try:
        process.kill()
        process.wait(30)
    except psutil.NoSuchProcess:  # it ended by itself just now
        pass


def damage(place, rng):
    """Change one byte of a file that readers trust; returns the file."""
    files = [*(place.results / "records").glob("*.json"), *(path for path in (place.folder / "cache").glob("[!.]*/*/*") if path.is_file())]
    path = rng.choice(sorted(path for path in files if path.stat().st_size))
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
    path.write_bytes(content)
    return path


def disturb(place, what, rng, run):
    """Disturb a sweep that is under way; returns the run if it may go on."""
    process = psutil.Process(run.pid)
    if what == "fault":
        place.order(*rng.choice(FAULTS))
        return run
    servers = process.children()
    children = [child for server in servers for child in server.children(recursive=True)]
    victims = {"server": servers, "child": children}.get(what) or [process]
    if victims != [process]:
        kill(rng.choice(victims))
        return run
    kill(process)
    run.wait()
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("seed", "disturbances"),
    [(1, 6), *(pytest.param(seed, 20, marks=pytest.mark.slow) for seed in (2, 3, 4, 5))],
)
def test_a_sweep_under_kills_faults_and_damage_ends_with_the_records_of_an_undisturbed_one(tmp_path, seed, disturbances):
    rng = random.Random(seed)
    place = Place(tmp_path / "chaos", SWEEP)
    planned = [*KINDS, *rng.choices(KINDS, k=disturbances - len(KINDS))]
    rng.shuffle(planned)
    run, damaged = None, set()
    for what in planned:
        if run is None or run.poll() is not None:
            run = place.start()
        until(place, run, min(place.measured + rng.randint(0, 3), CELLS - 2))
        time.sleep(rng.uniform(0.0, 0.4))
        if run.poll() is not None:  # the last fault has ended it
            run = place.start()
        if what != "damage":
            run = disturb(place, what, rng, run)
            continue
        run = disturb(place, "parent", rng, run)
        if place.measured:
            damaged.add(damage(place, rng))
    if run is not None:
        assert run.wait(timeout=300) in (0, 1, -9), place.said()
        assert "Traceback" not in place.said()
    for path in place.orders.iterdir():  # for stages that did not come any more
        path.unlink()
    code, words = place.run()
    assert code == 0, words
    assert "Traceback" not in words

    found, left_out = place.outcomes()
    assert found == cells(place)
    assert left_out <= damaged, "what was damaged is set aside, and nothing else is"
    place.assert_nothing_half_made_is_left()
    if disturbances > len(KINDS) + 1:  # the real thing beside what the plan says of it
        quiet = Place(tmp_path / "quiet", SWEEP)
        code, words = quiet.run()
        assert code == 0, words
        assert quiet.outcomes() == (found, set())
        assert {path.name for path in place.temporary.iterdir()} == {path.name for path in quiet.temporary.iterdir()}
