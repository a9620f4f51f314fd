"""``python -m harness list``: everything there is to choose from, with a line each."""

from pathlib import Path

import pytest

from harness.listing import described
from harness.settings import CONF, GROUPS, options
from tests.conftest import PLUGINS


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_that_can_be_chosen_is_listed_with_a_line(group):
    found = described(group)
    assert sorted(found) == options(group) == sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for name, line in found.items():
        assert len(line) > 15, f"{group}={name} begins with no comment that says what it is"
        assert "\n" not in line


def test_options_of_a_users_own_folder_are_listed_beside_ours_and_do_not_replace_them(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("# My model.\n_target_: my.Model\n")
    (tmp_path / "model/bare.yaml").write_text("_target_: my.Model\n")
    (tmp_path / "model/minilm.yaml").write_text("# Not the real one.\n")
    found = described("model", [str(tmp_path)])
    assert found["mine"] == "My model."
    assert found["bare"] == ""
    assert found["minilm"] == described("model")["minilm"]


def test_the_command_lists_every_group_and_the_devices(harness):
    done = harness("list", plugins=False)
    assert done.returncode == 0, done.stderr
    for group in GROUPS:
        for name in options(group):
            assert f"{group}={name}" in done.stdout
    for device in ("auto", "cpu", "cuda", "mps"):
        assert f"device={device}" in done.stdout


def test_the_command_lists_a_users_options_too(harness):
    done = harness("list", "--config-dir", str(PLUGINS), plugins=False)
    assert done.returncode == 0, done.stderr
    assert "model=hashed_words" in done.stdout
    assert Path(PLUGINS / "model/hashed_words.yaml").read_text().splitlines()[0].lstrip("# ") in done.stdout
