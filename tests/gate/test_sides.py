"""The two sides of a gate: which commit base is, where it lies meanwhile, and that nothing of it is left."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.errors import SettingsError
from harness.gate.sides import Asked, two_sides
from tests.gate.project import commit, git, repository


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A branch with two commits that has left main, which has gone on by one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    folder = repository(tmp_path / "repo", {"code.py": "value = 0\n"})
    git(folder, "checkout", "--quiet", "-b", "feature")
    commit(folder, {"code.py": "value = 1\n"})
    git(folder, "checkout", "--quiet", "main")
    commit(folder, {"other.py": "value = 2\n"})
    git(folder, "checkout", "--quiet", "feature")
    return folder


def left(tmp_path):
    return [path.name for path in (tmp_path / "temporary").iterdir()]


def worktrees(repo):
    return len(git(repo, "worktree", "list").splitlines())


def test_base_is_where_the_branch_left_and_head_is_the_working_tree_as_it_is(repo, tmp_path):
    (repo / "code.py").write_text("value = 10\n")
    with two_sides(Asked(base="main"), folder=repo) as (base, head):
        assert (base.source / "code.py").read_text() == "value = 0\n"
        assert not (base.source / "other.py").exists(), "what main did since is not the branch's doing"
        assert head.source == repo
        assert (head.source / "code.py").read_text() == "value = 10\n"
        assert "merge base of main" in base.title
        assert "with changes" in head.title
        assert base.python == head.python == sys.executable
    assert left(tmp_path) == []
    assert worktrees(repo) == 1


def test_two_references_are_taken_as_they_are(repo):
    with two_sides(Asked(base="main", head="feature"), folder=repo) as (base, head):
        assert (base.source / "other.py").exists()
        assert (head.source / "code.py").read_text() == "value = 1\n"
        assert head.source != repo
        assert base.title.endswith("(main)")


def test_without_a_base_it_is_where_head_left_origin_main(repo):
    git(repo, "update-ref", "refs/remotes/origin/main", "main")
    with two_sides(Asked(), folder=repo) as (base, _):
        assert "merge base of origin/main" in base.title
        assert (base.source / "code.py").read_text() == "value = 0\n"


def test_without_origin_main_a_base_is_asked_for(repo):
    with pytest.raises(SettingsError, match=r"--base must be given.*git fetch"), two_sides(Asked(), folder=repo):
        pass


@pytest.mark.parametrize("asked", [Asked(base="nowhere"), Asked(base="main", head="nowhere"), Asked(base="--all")])
def test_a_reference_that_names_nothing_says_what_to_do(repo, asked, tmp_path):
    with pytest.raises(SettingsError, match="names no commit here; fetch it"), two_sides(asked, folder=repo):
        pass
    assert left(tmp_path) == []


def test_outside_a_repository_the_other_way_is_named(tmp_path):
    with pytest.raises(SettingsError, match="no git repository"), two_sides(Asked(base="main"), folder=tmp_path):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_worktrees_are_removed_whatever_happens(repo, tmp_path, error):
    def interrupted():
        with two_sides(Asked(base="main", head="feature"), folder=repo):
            assert worktrees(repo) == 3
            raise error

    with pytest.raises(error):
        interrupted()
    assert left(tmp_path) == []
    assert worktrees(repo) == 1


def test_what_a_killed_gate_left_is_removed_by_the_next_and_a_living_ones_is_not(repo, tmp_path):
    code = (
        "import os, signal, sys, tempfile; from pathlib import Path; from harness.gate.sides import Asked, two_sides\n"
        f"tempfile.tempdir = {str(tmp_path / 'temporary')!r}\n"
        f"with two_sides(Asked(base='main'), folder=Path({str(repo)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(left(tmp_path)) == 1
    assert worktrees(repo) == 2
    living = tmp_path / "temporary" / f"harness-gate-{os.getpid()}-other"
    living.mkdir()
    with two_sides(Asked(base="main"), folder=repo):
        assert worktrees(repo) == 2
    assert left(tmp_path) == [living.name]
    assert worktrees(repo) == 1


def test_two_sets_of_settings_need_no_reference(repo):
    with two_sides(Asked(base_set=("dtype=fp32",), head_set=("dtype=bf16",)), folder=repo) as (base, head):
        assert base.source == head.source == repo
        assert (base.overrides, head.overrides) == (("dtype=fp32",), ("dtype=bf16",))
        assert base.title.endswith("dtype=fp32")
        assert head.title.endswith("dtype=bf16")


def test_two_environments_need_no_reference_and_are_not_resolved_to_what_they_link_to(repo, tmp_path):
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").symlink_to(sys.executable)
    with two_sides(Asked(head_env=str(tmp_path / "env")), folder=repo) as (base, head):
        assert base.python == sys.executable
        assert head.python == str(tmp_path / "env/bin/python")


def test_an_environment_that_is_none_is_refused(repo, tmp_path):
    with pytest.raises(SettingsError, match="--head-env must be a Python"), two_sides(Asked(head_env=str(tmp_path)), folder=repo):
        pass


PROJECT = '[project]\nname = "x"\nversion = "1"\ndependencies = ["numpy{pin}"]\n[tool.x]\ny = {other}\n'


@pytest.fixture
def built(monkeypatch):
    """Which environments would have been installed; installing one takes minutes and the network."""
    found = []

    def make(source):
        found.append(Path(source))
        return "/made/bin/python"

    monkeypatch.setattr("harness.gate.sides._environment", make)
    return found


@pytest.mark.parametrize(
    ("before", "after", "differing"),
    [
        ({"pyproject.toml": PROJECT.format(pin="", other=1)}, {"pyproject.toml": PROJECT.format(pin="", other=2)}, None),
        ({"pyproject.toml": PROJECT.format(pin="", other=1)}, {"pyproject.toml": PROJECT.format(pin=">=2", other=1)}, "pyproject.toml"),
        ({"constraints.txt": "numpy==2.1\n"}, {"constraints.txt": "# why\nnumpy==2.1\n\n"}, None),
        ({"constraints.txt": "numpy==2.1\n"}, {"constraints.txt": "numpy==2.2\n"}, "constraints.txt"),
    ],
)
def test_sides_share_the_environment_unless_they_state_other_dependencies(tmp_path, built, before, after, differing):
    folder = repository(tmp_path / "repo", before)
    git(folder, "tag", "before")
    commit(folder, after)
    told = []
    with two_sides(Asked(base="before"), folder=folder, tell=told.append) as (base, head):
        assert base.python == (sys.executable if differing is None else "/made/bin/python")
        assert head.python == sys.executable
        assert built == ([] if differing is None else [base.source])
    assert (differing in " ".join(told)) if differing else told == []


def test_an_environment_that_is_given_is_used_whatever_the_dependencies(tmp_path, built):
    folder = repository(tmp_path / "repo", {"constraints.txt": "numpy==2.1\n"})
    git(folder, "tag", "before")
    commit(folder, {"constraints.txt": "numpy==2.2\n"})
    with two_sides(Asked(base="before", base_env=sys.executable), folder=folder) as (base, _):
        assert base.python == sys.executable
    assert built == []


def test_an_environment_is_made_once_from_what_a_source_states(tmp_path, monkeypatch):
    """A project that depends on nothing and is built by what stands beside it, so that nothing is downloaded."""
    from harness.gate import sides

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    backend = (
        "import zipfile\n"
        "def get_requires_for_build_wheel(config=None): return []\n"
        "def build_wheel(folder, config=None, metadata=None):\n"
        "    name = 'lonely-1-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(f'{folder}/{name}', 'w') as wheel:\n"
        "        wheel.writestr('lonely.py', 'value = 7')\n"
        "        wheel.writestr('lonely-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: lonely\\nVersion: 1\\n')\n"
        "        wheel.writestr('lonely-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\n')\n"
        "        wheel.writestr('lonely-1.dist-info/RECORD', '')\n"
        "    return name\n"
    )
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "lonely"\nversion = "1"\n'
    folder = repository(tmp_path / "repo", {"pyproject.toml": project, "backend.py": backend})
    python = sides._environment(folder)
    done = subprocess.run([python, "-c", "import lonely; print(lonely.value)"], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"
    stamp = Path(python).lstat().st_mtime_ns
    assert sides._environment(folder) == python
    assert Path(python).lstat().st_mtime_ns == stamp
