"""Whole runs that a test kills or disturbs, each with a cache, temporary files and results of its own, so that what they leave is seen."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from harness.records import newest, scan
from tests.conftest import PLUGINS, ROOT, own_environment

DISTURBING = ROOT / "tests/plugins/disturbing"


class Place:
    """A folder with everything that runs of a sweep read and leave."""

    def __init__(self, folder: Path, sweep):
        self.folder, self.sweep = folder, list(sweep)
        self.results, self.orders = folder / "results/default", folder / "orders"
        self.orders.mkdir(parents=True)
        self.environment = own_environment(folder / "cache")
        self.environment |= {"HARNESS_TEST_ORDERS": str(self.orders), "PYTHONPATH": f"{DISTURBING}:{self.environment['PYTHONPATH']}"}

    @property
    def temporary(self):
        return Path(self.environment["TMPDIR"])

    def start(self):
        """Start the sweep, or go on with it."""
        with (self.folder / "words").open("w") as words:
            return subprocess.Popen(
                [sys.executable, "-m", "harness", "-m", *self.sweep, "--config-dir", str(PLUGINS)],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=words,
                env=self.environment,
            )

    def run(self):
        """Go on with the sweep until it ends; returns its exit code and what it said."""
        code = self.start().wait(timeout=300)
        return code, self.said()

    def command(self, name):
        """Run a command about the sweep that measures nothing; returns what it printed."""
        asked = [sys.executable, "-m", "harness", name, "-m", *self.sweep, "--config-dir", str(PLUGINS)]
        return subprocess.run(asked, cwd=self.folder, capture_output=True, text=True, check=True, env=self.environment).stdout

    def said(self):
        return (self.folder / "words").read_text()

    def order(self, stage, what):
        (self.orders / f"{stage}.{what}").touch()

    @property
    def measured(self):
        """How many records there are."""
        return len(list((self.results / "records").glob("*.json")))

    def outcomes(self):
        """Kind, key and status of each cell, the newest record counting; and the files that are no records any more."""
        found, left_out = scan(self.results)
        return {(record.kind, record.key, record.status) for record in newest(found)}, {path for path, _ in left_out}

    def processes(self):
        """The processes that belong to runs here, which their environment tells."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HARNESS_CACHE") == self.environment["HARNESS_CACHE"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def assert_nobody_is_left(self):
        end = time.monotonic() + 30
        while left := self.processes():
            assert time.monotonic() < end, left
            time.sleep(0.05)

    def assert_nothing_half_made_is_left(self):
        """After a run that was not disturbed: no process, working folder, half-written file, half-made folder or lock of a cell."""
        self.assert_nobody_is_left()
        assert not [path.name for path in self.temporary.iterdir() if path.name.startswith("harness-")], "working folders"
        assert not [path.name for path in (self.results / "records").glob(".*")], "half-written records and locks of cells"
        samples = (self.results / "records").glob("*.npz")
        assert not [path.name for path in samples if not path.with_suffix(".json").exists()], "samples without their record"
        assert not list((self.folder / "cache").glob("[!.]*/.*")), "half-made folders of the cache"
