"""Imports run one way, and what a person waits for at the prompt is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for top in ("harness", "models", "stores") for path in (ROOT / top).rglob("*.py"))
BOTTOM = {"harness.errors", "harness.interfaces"}


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module named in an import statement anywhere in a file, absolute."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module)
            if node.module in ("harness", "models", "stores", "harness.datasets", "harness.metrics"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("harness", "models", "stores")} - {
        "harness",
        "harness.datasets",
        "harness.metrics",
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    name, used = name_of(path), imports_of(path)
    if name in BOTTOM:
        assert used <= {"harness.errors"} - {name}
    elif name.startswith(("models", "stores")):
        assert {u for u in used if not u.startswith(name.split(".")[0])} <= BOTTOM, "a plug-in knows only the interfaces"
    elif name.startswith(("harness.datasets", "harness.metrics")):
        own = ".".join(name.split(".")[:2])
        assert {u for u in used if not u.startswith(own)} <= BOTTOM
    else:
        assert not {u for u in used if u.startswith(("models", "stores"))}, "the engine knows only the interfaces"


def test_the_bottom_needs_nothing_but_numpy():
    code = "import sys; import harness.errors, harness.interfaces; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
    assert not loaded & {"torch", "pandas", "scipy", "hydra", "pymilvus", "faiss", "transformers", "rich", "typer", "PIL"}


@pytest.mark.parametrize("module", ["harness.cli", "harness", "harness.settings", "harness.plan"])
def test_the_command_line_pulls_in_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
    assert not loaded & {
        "torch",
        "pymilvus",
        "pandas",
        "transformers",
        "sentence_transformers",
        "faiss",
        "scipy",
        "plotly",
        "pyarrow",
        "sklearn",
    }


def test_every_part_says_why_it_exists():
    assert [name_of(path) for path in MODULES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))] == []
