"""What can change a number: sources, versions, machine."""

import itertools
import json
import socket
import subprocess
import sys

import pytest

from harness.fingerprint import (
    commit,
    digest,
    digest_of,
    machine,
    packages_imported_by,
    remembering,
    source_of,
    usable_cores,
    versions_used_by,
)

NUMBERS = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's package of three modules: `top` imports `.helper` inside a function, `unused` stands alone."""
    name = f"users_package_{next(NUMBERS)}"  # a name of its own for each test: Python remembers packages
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "top.py").write_text("import json\n\ndef f():\n    from .helper import g\n    import numpy\n    return g\n")
    (folder / "helper.py").write_text("from harness import errors\ng = 1\n")
    (folder / "unused.py").write_text("import pandas\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_sources_are_followed_through_imports_without_importing(package):
    found = source_of([f"{package.name}.top"])
    assert set(found) == {package.name, f"{package.name}.top", f"{package.name}.helper", "harness.errors"}
    assert f"{package.name}.top" not in sys.modules


def test_changing_an_imported_module_changes_the_hashes_and_another_does_not(package):
    before = source_of([f"{package.name}.top"])
    (package / "unused.py").write_text("x = 2\n")
    assert source_of([f"{package.name}.top"]) == before
    (package / "helper.py").write_text("g = 2\n")
    after = source_of([f"{package.name}.top"])
    assert {name for name in before if before[name] != after.get(name)} == {f"{package.name}.helper", "harness.errors"}


def test_a_package_named_by_itself_counts_with_its_init(package):
    (package / "__init__.py").write_text("from .unused import x\n")
    assert f"{package.name}.unused" in source_of([package.name])


def test_versions_are_those_of_the_libraries_imported_and_what_they_need(package):
    assert packages_imported_by([f"{package.name}.top"]) == ["numpy"]
    import importlib.metadata

    assert versions_used_by([f"{package.name}.top"]) == {"numpy": importlib.metadata.version("numpy")}
    needed = versions_used_by([f"{package.name}.unused"])
    assert {"pandas", "numpy", "python-dateutil"} <= set(needed)
    assert "pytest" not in needed


def test_a_digest_does_not_depend_on_the_order_of_keys_and_depends_on_values():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})
    assert digest({"a": 1}) != digest({"a": "1"})
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


def test_the_machine_is_described_without_its_name():
    found = json.dumps(machine())
    assert socket.gethostname() not in found or len(socket.gethostname()) < 4
    assert machine()["cores"] == usable_cores() >= 1
    assert machine()["memory_gib"] >= 1


def test_the_machine_knows_the_cores_it_may_use():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from harness.fingerprint import machine; print(machine()['cores'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "1"


def test_the_commit_is_gits():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    assert commit().removesuffix("+changes") == head.stdout.strip()


def test_the_digest_of_parts_is_that_of_the_whole_whether_or_not_answers_are_remembered():
    def parts():
        modules = ["harness.embed_cell"]
        return {"z": [1, 2.5, None], "a": {"ä": True, "b": "x"}, "source": source_of(modules), "versions": versions_used_by(modules)}

    expected = digest(parts())
    assert digest_of(parts()) == expected
    with remembering():
        assert digest_of(parts()) == digest_of(parts()) == expected
        with remembering():
            assert digest_of(parts()) == expected
        assert digest_of(parts()) == expected
    assert digest_of({**parts(), "z": [1]}) != expected
