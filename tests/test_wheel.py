"""The wheel: built from this checkout, installed where the checkout cannot be seen, run beside folders that are named like ours.

The new environment sees the libraries of the present one through a path file, which does not run the path files in there, and so
does not see an editable install of this project. Nothing is downloaded.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

TELLING = '''
"""A user's own model, in a file in the current directory."""
import json, os, sys
from dataclasses import dataclass

import my_parts


@dataclass(frozen=True)
class Telling(my_parts.HashedWords):
    log: str = ""

    def _tell(self, event):
        import harness, models.weights, stores.index
        places = [module.__file__ for module in (harness, models.weights, stores.index)]
        with open(self.log, "a") as handle:
            handle.write(json.dumps({"event": event, "pid": os.getpid(), "places": places, "path": sys.path}) + "\\n")

    def locate(self):
        self._tell("located")
        return super().locate()

    def load(self, weights, *, device, dtype, attention, compiled):
        self._tell("loaded")
        return super().load(weights, device=device, dtype=dtype)
'''


def run(*command, cwd, **env):
    """Run a command with none of this session's Python variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env={**kept, **env})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    done = run(sys.executable, *command, cwd=folder)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The interpreter of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])))
    command = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = run(sys.executable, *command, cwd=folder)
    assert done.returncode == 0, done.stderr
    return python, site


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder with packages called like ours, and with a model, a dataset and options of a user's own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("models", "stores"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('the wrong {name}')")
    (folder / "my_parts.py").write_text((ROOT / "tests/plugins/parts.py").read_text())
    (folder / "my_models.py").write_text(TELLING)
    (folder / "my_conf/model").mkdir(parents=True)
    (folder / "my_conf/model/telling.yaml").write_text(f"# Tells.\n_target_: my_models.Telling\nmodality: text\nlog: {folder / 'log'}\n")
    return folder


def harness(installed, elsewhere, *arguments):
    environment = {"HARNESS_CACHE": str(elsewhere / "cache"), "TMPDIR": str(elsewhere), "COLUMNS": "200"}
    return run(str(installed[0]), "-m", "harness", *arguments, cwd=elsewhere, **environment)


def test_the_wheel_holds_the_whole_program_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    expected = {
        str(path.relative_to(ROOT))
        for top in ("harness", "models", "stores")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {f"harness/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert names == expected
    assert {"METADATA", "entry_points.txt", "LICENSE"} <= about


def test_the_new_environment_does_not_see_the_checkout(installed, tmp_path):
    python, site = installed
    code = "import sys, harness, models, stores, torch; print(harness.__file__, models.__file__, stores.__file__, *sys.path, sep='\\n')"
    found = run(str(python), "-P", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert all(Path(place).is_relative_to(site) for place in found[:3])
    assert str(ROOT) not in found[3:]


def test_the_list_is_there_without_the_checkout(installed, elsewhere):
    done = harness(installed, elsewhere, "list")
    assert done.returncode == 0, done.stderr
    for option in ("model=minilm", "dataset=docstrings", "store=exact", "index=hnsw", "device=cpu"):
        assert option in done.stdout


def test_the_script_does_the_same(installed, elsewhere):
    done = run(str(installed[0].with_name("embedding-search-harness")), "list", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "model=minilm" in done.stdout


def test_the_plan_is_made_from_the_wheels_own_configuration(installed, elsewhere):
    done = harness(installed, elsewhere, "plan", "-m", "index=flat,hnsw", "dataset=docstrings", "dataset.corpus=64", "dataset.queries=8")
    assert done.returncode == 0, done.stderr
    assert "2 jobs, 1 embed + 2 search cells" in done.stdout
    assert not list(elsewhere.glob("results/*/records"))


def test_a_run_uses_our_packages_in_parent_and_children(installed, elsewhere):
    _, site = installed
    done = harness(
        installed,
        elsewhere,
        *("model=telling", "dataset=docstrings", "dataset.corpus=64", "dataset.queries=8", "store=exact", "index=flat"),
        *("processes=2", "min_duration_s=0.1", "workload.min_requests=20", "embed_items=32", "--config-dir", "my_conf"),
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (elsewhere / "log").read_text().splitlines()]
    assert len({one["pid"] for one in told if one["event"] == "located"}) == 1  # the parent
    assert len({one["pid"] for one in told if one["event"] == "loaded"}) == 4  # memory, two replicates, the vectors
    for one in told:
        assert all(Path(place).is_relative_to(site) for place in one["places"])
        assert str(ROOT) not in one["path"]
        assert one["path"][-1] == str(elsewhere), "the current directory comes last"
    records = [json.loads(path.read_text()) for path in elsewhere.glob("results/default/records/*.json")]
    assert {(record["kind"], record["status"]) for record in records} == {("embed", "ok"), ("search", "ok")}
    assert {record["environment"]["commit"] for record in records} == {None}
    assert (elsewhere / "results/default/report.html").stat().st_size > 10_000
