"""Fixtures that several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "tests" / "plugins" / "conf"

QUICK = [
    "model=hashed_words",
    "dataset=sentences",
    "store=nothing",
    "index=flat",
    "processes=2",
    "min_duration_s=0.1",
    "workload.min_requests=20",
]
"""A job of the tests' own plug-ins that takes seconds."""


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache for all tests of a session, so that data and vectors are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(shared_cache):
    """What a test computes in its own process is kept in that cache too, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(shared_cache))
        yield


def own_environment(cache):
    """Return variables under which a run shares neither cache nor temporary files nor the machine's lock with anybody else's."""
    temporary = cache.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "HARNESS_CACHE": str(cache), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "COLUMNS": "160"}


@pytest.fixture
def harness(tmp_path, shared_cache):
    """Run the command line as a user does, in a process of its own; returns what came of it."""

    def call(*arguments, plugins=True, cwd=tmp_path, timeout=300, env=None, **more):
        extra = ["--config-dir", str(PLUGINS)] if plugins else []
        return subprocess.run(
            [sys.executable, "-m", "harness", *arguments, *extra],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**own_environment(shared_cache), **(env or {})},
            **more,
        )

    return call
