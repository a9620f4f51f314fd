"""A git repository with a copy of the sources as they are, and branches that plant changes in them."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT, own_environment

GATE = """
# A model without torch, exact search and a graph: seconds a round.
_target_: harness.gate.settings.GateSettings
budget: 10m
blocks: 4
block_ms: 4
memory: false
common: >-
  model=hashed_words dataset=sentences dataset.corpus=400 dataset.queries=40 embed_items=8 batch_size=4 store=exact index=flat
cells:
  words:
    set: model.dim=64
    metrics: [forward_s, search_s, recall]
  graph:
    set: store=faiss index=hnsw index.M=4 index.ef_construction=8 index.ef=[64] k=[10]
    metrics: [recall, index_bytes]
"""

SLOW_MODEL = (
    "tests/plugins/parts.py",
    "        out = np.zeros((prepared.count, self.dim), dtype=np.float32)\n",
    "        out = np.zeros((prepared.count, self.dim), dtype=np.float32)\n"
    "        for words in prepared.inputs:\n"
    "            for word in words:\n"
    "                np.random.default_rng(word).standard_normal(self.dim, dtype=np.float32)\n",
)
"""Every word's vector is made twice: about twice the work."""
SLOW_STORE = (
    "stores/exact.py",
    "        check_shape(self.name, queries, dim=self._dim)\n",
    "        check_shape(self.name, queries, dim=self._dim)\n        sum(range(3_000))\n",
)
SLOW_LOOP = (
    "harness/search_cell.py",
    "        return store.search(vectors[step], k, params, **below)\n",
    "        sum(range(3_000))\n        return store.search(vectors[step], k, params, **below)\n",
)
LOW_EF = ("stores/faiss.py", 'int(min(params["ef"], max(rows, k)))', "int(k)")
REFACTORED = (
    "tests/plugins/parts.py",
    "        return outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)\n",
    "        lengths = np.linalg.norm(outputs, axis=1, keepdims=True)\n        return outputs / np.maximum(lengths, 1e-12)\n",
)


def git(folder, *arguments):
    """Run git as somebody without any settings of their own."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(folder: Path, files: dict[str, str]) -> Path:
    """Make a repository with one commit on main."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "first")
    return folder


def commit(folder: Path, files: dict[str, str], message: str = "next") -> str:
    """Commit some files; returns the commit."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def copy_of_the_sources(folder: Path) -> Path:
    """Make a repository of what runs, as it lies here, whether committed or not."""
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("harness", "models", "stores", "conf", "tests/plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    (folder / "tests/__init__.py").write_text("")
    (folder / "tests/plugins/conf/gate").mkdir()
    (folder / "tests/plugins/conf/gate/tiny.yaml").write_text(GATE)
    (folder / ".gitignore").write_text("__pycache__/\nresults/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "base")
    return folder


def planted(folder: Path, branch: str, *changes) -> str:
    """Commit changes, each a file, what stands in it and what shall stand there, on a branch off main; returns the branch."""
    git(folder, "checkout", "--quiet", "-b", branch, "main")
    for name, before, after in changes:
        text = (folder / name).read_text()
        assert text.count(before) == 1, f"{name} has changed: plant it elsewhere"
        (folder / name).write_text(text.replace(before, after))
    git(folder, "commit", "--quiet", "--all", "-m", branch)
    git(folder, "checkout", "--quiet", "main")
    return branch


def environment(cache: Path) -> dict[str, str]:
    """Return the variables that a gate of such a repository runs under: few threads, nothing of the user's."""
    return {**own_environment(cache), "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
