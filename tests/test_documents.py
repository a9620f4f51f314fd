"""What the documents say is so: commands run, examples work, names exist, links lead somewhere.

Commands that measure are planned, which checks every setting of theirs; what they leave and print is checked on a run of the
documents' own examples, which needs no torch (`tests.test_real_run` has the real thing). Nothing in a document goes unchecked: a
command that no rule here knows fails.
"""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import wave
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from harness import cli, frame, interfaces, load_results
from tests.conftest import ROOT

COMMANDED = ("README.md", "CONTRIBUTING.md")
ALL = (*COMMANDED, "ARCHITECTURE.md", "CHANGELOG.md", "results/README.md")
SMALL = ["dataset.corpus=64", "dataset.queries=16", "processes=1", "min_duration_s=0.2", "workload.min_requests=20", "embed_items=32"]
SMALL_DATA = ["dataset.corpus=160", "dataset.queries=150"]
EXAMPLES = ["--config-dir", "my_conf", "model=letters", "dataset=pairs", "dataset.path=pairs.tsv", "store=plain_faiss", "metric=ip"]


class Block(NamedTuple):
    document: str
    language: str
    text: str
    before: str
    """The paragraph that introduces it."""


def blocks(*documents: str) -> list[Block]:
    """Every fenced block of some documents."""
    found = []
    for document in documents:
        text = (ROOT / document).read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            before = text[: match.start()].strip().rpartition("\n\n")[2]
            found.append(Block(document, match[1], match[2], before))
    return found


def commands(document: str) -> list[str]:
    """Every command line in a document's shell blocks, without its comment."""
    lines: list[str] = []
    for block in blocks(document):
        if block.language == "bash":
            lines += block.text.splitlines()
        elif block.language == "console" and "error: " not in block.text:  # mistakes have a test of their own
            lines += [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
    return list(dict.fromkeys(bare for line in lines if (bare := re.sub(r"(^|\s+)#.*", "", line))))


COMMANDS = [(document, command) for document in COMMANDED for command in commands(document)]


def examples() -> dict[str, str]:
    """The files that the documents give as examples: the last file name in the paragraph before a block is its path."""
    found = {}
    for block in blocks(*COMMANDED):
        named = re.findall(r"`([\w/]+\.(?:py|yaml))`", block.before)
        if block.language in ("python", "yaml") and named and Path(named[-1]).suffix == {"python": ".py", "yaml": ".yaml"}[block.language]:
            found[named[-1]] = block.text
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A user's folder, with the documents' examples in it and what their commands name."""
    folder = tmp_path_factory.mktemp("user")
    for path, text in examples().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        for kind in ("photos", "notes"):
            (folder / kind / label).mkdir(parents=True)
        for i in range(45):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / "photos" / label / f"{i}.png")
            (folder / "notes" / label / f"{i}.txt").write_text(f"note {i} about {label}")
    (folder / "recordings").mkdir()
    for i in range(90):
        with wave.open(str(folder / "recordings" / f"{i}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(rng.integers(-9000, 9000, 800, dtype=np.int16).tobytes())
    (folder / "scifact/qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        lines = [json.dumps({"_id": f"{name[0]}{i}", "title": "", "text": f"{name} number {i}"}) for i in range(320)]
        (folder / f"scifact/{name}.jsonl").write_text("\n".join(lines))
    judged = [f"q{i}\tc{i}\t1" for i in range(320)]
    (folder / "scifact/qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    with h5py.File(folder / "glove-25-angular.hdf5", "w") as file:
        file["train"], file["test"] = rng.standard_normal((300, 25), np.float32), rng.standard_normal((20, 25), np.float32)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=9)) for _ in range(1000)]
    (folder / "pairs.tsv").write_text("".join(f"what is {word}?\tnobody has ever said what {word} is\n" for word in words))
    return folder


@pytest.fixture(scope="module")
def shell(here, shared_cache, tmp_path_factory):
    """Run the interpreter in the user's folder."""
    alone = tmp_path_factory.mktemp("t")  # the machine's lock lies there: nothing here is a timing that others could disturb

    def call(*arguments, **variables):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "HARNESS_CACHE": str(shared_cache), "PYTHONPATH": str(ROOT), "TMPDIR": str(alone), "HF_HUB_OFFLINE": "1"}
            | variables,
        )

    return call


@pytest.fixture(scope="module")
def measured(shell):
    """The first command, in small and with the documents' own model, dataset and store."""
    return shell("-m", "harness", *EXAMPLES, *SMALL)


@pytest.fixture(scope="module")
def stored(measured, here):
    """The folders of results that the documents' commands name: those of the first command, and the reference that comes along."""
    assert measured.returncode == 0, measured.stderr
    for name in ("before", "after", "laptop", "server"):
        shutil.copytree(here / "results/default", here / "results" / name)
    shutil.copytree(ROOT / "results/reference", here / "results/reference")


# ---------------------------------------------------------------------------------------- commands


def _made(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"the Makefile has no {target}"


def _installed(words: list[str]) -> None:
    """An installation is CI's to run; here its extras, files and versions are looked up."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for word in words[words.index("install") + 1 :]:
        if match := re.fullmatch(r"\.\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= set(project["optional-dependencies"])
        elif "==" in word:
            name, _, version = word.partition("==")
            assert pins[name].partition("+")[0] == version, "the version that constraints.txt pins"
        elif word.endswith(".txt"):
            assert (ROOT / word).exists()
        else:
            assert word in ("--constraint", "--editable", "--index-url") or word.startswith("https://download.pytorch.org/")


@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_every_command_in_a_document_works(document, command, shell, request):
    words = shlex.split(command)
    if words[0] == "make":
        return _made(words[1])
    if words[0].endswith("pip") and words[1] == "install":
        return _installed(words)
    if words == ["python3", "-m", "venv", ".venv"]:
        return None
    assert words[:3] == ["python", "-m", "harness"], f"no rule here checks `{command}`"
    arguments = words[3:]
    if arguments and arguments[0] in ("report", "compare", "choose", "merge"):
        request.getfixturevalue("stored")
    if not arguments or arguments[0] not in (*cli.COMMANDS, "--help", "--cfg"):
        arguments = ["plan", *arguments]
    if arguments[0] == "plan" and not any(word.startswith(("dataset=", "dataset.corpus", "+sweep=")) for word in arguments):
        arguments += SMALL_DATA
    done = shell("-m", "harness", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return None


def test_the_first_command_measures_and_ends_as_the_readme_shows(measured, here):
    assert measured.returncode == 0, measured.stderr
    shown = next(block.text for block in blocks("README.md") if block.language == "console" and "search p50" in block.text)
    for line in shown.splitlines():
        if line.startswith("results/default/"):
            assert line in measured.stdout.splitlines()
            assert (here / line).exists()
    assert headings(shown) == headings(measured.stdout)


def headings(text: str) -> list[list[str]]:
    """The words of each table's two heading lines, which stand above a rule."""
    lines = text.splitlines()
    return [[*lines[i - 2].split(), *lines[i - 1].split()] for i, line in enumerate(lines) if line.strip().startswith("────")]


def test_the_plan_shown_is_the_plan_printed(shell):
    block = next(block.text for block in blocks("README.md") if "harness plan" in block.text and block.language == "console")
    command, *shown = block.splitlines()
    plan = shell("-m", "harness", *shlex.split(command.removeprefix("$ "))[3:], "name=planned", *SMALL_DATA)
    assert plan.returncode == 0, plan.stderr

    def outline(lines):
        """What does not depend on the machine, on what is measured already or on the size of the data."""
        cells = [re.search(r"(embed|search) .*(?=: )", line) for line in lines]
        return [cell[0] for cell in cells if cell]

    assert outline(shown) == outline(plan.stdout.splitlines())
    counts = re.search(r"\d+ jobs, \d+ embed \+ \d+ search cells", plan.stdout)
    assert counts is not None
    assert counts[0] in block


@pytest.mark.parametrize("name", ["choose", "compare"])
def test_what_is_shown_of_the_reference_is_what_is_printed(shell, stored, name):
    block = next(block.text for block in blocks("README.md") if f"harness {name}" in block.text and block.language == "console")
    command, *shown = block.splitlines()
    done = shell("-m", "harness", *shlex.split(command.removeprefix("$ "))[3:], COLUMNS="120")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    first = " ".join(shown).partition("\u2500")[0].split()[:40]  # the sentences above the table, however they are wrapped
    assert " ".join(first) in " ".join(said.split())
    assert set(re.findall(r"\d[\d.,]*", " ".join(shown))) <= set(re.findall(r"\d[\d.,]*", said))


def test_the_mistakes_shown_are_answered_as_shown(shell):
    block = next(block.text for block in blocks("README.md") if block.language == "console" and "error: " in block.text)
    command, *shown = block.splitlines()
    done = shell("-m", "harness", *shlex.split(command.removeprefix("$ "))[3:])
    assert done.returncode == 2
    assert done.stderr.splitlines() == shown


# ---------------------------------------------------------------------------------------- examples


def test_the_python_of_the_readme_runs(measured, shell):
    """In small: what the snippet asks for is followed by settings that make it quick."""
    snippet = next(block.text for block in blocks("README.md") if block.language == "python")
    more = [*EXAMPLES[2:], *SMALL]
    wrapped = f"lambda *asked, **how: whole(*asked, *{more!r}, config_dirs=['my_conf'], **how)"
    prelude = f"import harness\nwhole = harness.run\nharness.run = {wrapped}\n"
    done = shell("-c", prelude + snippet)
    assert done.returncode == 0, done.stderr
    assert "recall_lo" in done.stdout
    assert re.search(r"hnsw +\d", done.stdout), "a latency for each index"


def test_every_option_given_as_an_example_can_be_planned(shell, here):
    for path in examples():
        if path.endswith(".yaml"):
            group, option = Path(path).parent.name, Path(path).stem
            more = ["dataset.path=pairs.tsv"] if option == "pairs" else []
            metric = ["metric=ip"] if group == "store" else []
            done = shell("-m", "harness", "plan", "--config-dir", "my_conf", f"{group}={option}", *SMALL_DATA, *more, *metric)
            assert done.returncode == 0, f"{path}: {done.stderr}"


def test_the_options_given_as_examples_are_listed_with_their_lines(shell):
    done = shell("-m", "harness", "list", "--config-dir", "my_conf")
    assert done.returncode == 0
    listed = " ".join(done.stdout.split())
    for path, text in examples().items():
        if path.endswith(".yaml"):
            assert " ".join(text.splitlines()[0].removeprefix("# ").split()) in listed


def test_the_classes_given_as_examples_measure(measured, here):
    command = next(command for command in commands("CONTRIBUTING.md") if "--config-dir" in command)
    assert set(EXAMPLES) <= {*shlex.split(command)}
    assert measured.returncode == 0, measured.stderr
    found = load_results(here / "results/default")
    found = found[found["index"].isna() | (found["index"] == "hnsw")]
    assert set(found.status) == {"ok"}
    assert set(found.kind) == {"embed", "search"}
    assert found.recall.max() == 1.0
    assert found.ndcg_at_10_exact.max() > 5 * chance(documents=64)


def chance(*, documents: int) -> float:
    """Expected nDCG@10 of a random ranking with one relevant document: its rank is uniform."""
    return sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / documents


def test_the_index_family_given_as_an_example_keeps_the_contract():
    text = next(block.text for block in blocks("CONTRIBUTING.md") if "class IVF_OPQ" in block.text)
    namespace = {"__name__": "example"}
    exec(text, namespace)  # our own document
    index = namespace["IVF_OPQ"](nlist=8, nprobe=[1, 8], m=16)
    assert isinstance(index, interfaces.Index)
    assert index.build_params() == {"nlist": 8, "m": 16, "nbits": 8}
    assert index.violations(rows=100, dim=384, k=[10]) == []
    assert index.violations(rows=100, dim=100, k=[10]) == ["index.m must divide the dimension 100, got 16"]


# ------------------------------------------------------------------------------------------- names


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of all tables below a heading, up to the next heading of its level or above, as lists of cells."""
    text = (ROOT / document).read_text(encoding="utf-8")
    level = heading.partition(" ")[0]
    section = text.partition(f"\n{heading}\n")[2]
    assert section, f"{document} has no {heading}"
    section = re.split(rf"^#{{1,{len(level)}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("|")]
    return [row for row in rows if not set("".join(row)) <= set("|-: ")]


def test_every_setting_of_the_readme_exists_with_its_default_and_none_is_left_out():
    config = OmegaConf.load(ROOT / "conf/config.yaml")
    groups = {key: value for part in config.pop("defaults") if not isinstance(part, str) for key, value in part.items()}
    config.pop("hydra")
    defaults = {key: value for key, value in groups.items() if not key.startswith("override")} | dict(config)
    for group, option in (("workload", "serial"), ("dataset", "auto")):
        extra = OmegaConf.load(ROOT / f"conf/{group}/{option}.yaml")
        defaults |= {f"{group}.{key}": value for key, value in extra.items() if key not in ("concurrency", "by_modality")}
    documented = {}
    for names, default, _ in (row for row in table("README.md", "## Settings") if len(row) == 3 and row[0] != "setting"):
        documented |= dict.fromkeys(re.findall(r"`([\w.]+)`", names), OmegaConf.create(f"value: {default.strip('`')}").value)
    assert documented == defaults


def test_every_exit_code_of_the_readme_is_the_programs():
    documented = {row[0] for row in table("README.md", "## Settings") if len(row) == 2 and row[0].isdigit()}
    said = re.search(r"Exit codes: (.*)\.", " ".join(cli.__doc__.split()))
    assert documented == set(re.findall(r"\d+", said[1]))


def test_every_column_of_the_frame_is_explained_and_no_other():
    explained = []
    for heading in ("### Embed cell", "### Search cell", "### What a row is", "### What explains the rest"):
        for row in table("ARCHITECTURE.md", heading):
            explained += re.findall(r"`(\w+)`", row[0])
    assert len(explained) == len(set(explained)), "each once"
    assert set(explained) == {*frame.IDENTITY, *frame.FIGURES, *frame.LAST}


def test_every_figure_says_its_unit_its_replication_and_the_test_that_holds_it():
    for heading in ("### Embed cell", "### Search cell"):
        _, *rows = table("ARCHITECTURE.md", heading)
        for row in rows:
            assert len(row) == 5, row[0]
            assert all(row), row[0]
            assert re.search(r"`tests/[\w/]+\.py`", row[4]), row[0]


def test_every_rule_of_measurement_is_held_by_a_test_of_its_number():
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## Rules of measurement\n")[2].partition("\n## ")[0]
    stated = {int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)}
    held = {int(number) for number in re.findall(r"def test_rule_(\d+)_", (ROOT / "tests/test_rules_of_measurement.py").read_text())}
    assert stated == held


def test_every_file_in_the_trees_exists(measured, here):
    tree = next(block.text for block in blocks("README.md") if "├── Makefile" in block.text)
    parents: list[str] = []
    for line in tree.splitlines():
        branch, names = re.match(r"([│ ├└─]*)(.*)", line).groups()
        depth = len(branch) // 4 - 1
        described = re.split(r"\s{2,}", names)[0]
        found = [name for name in re.split(r",? ", described) if name]
        parents = [*parents[:depth], found[0]]
        for name in found:
            path = ROOT.joinpath(*parents[:depth], name)
            assert path.exists(), f"README's tree names {path.relative_to(ROOT)}"
            assert path.is_dir() == name.endswith("/"), name
    for block in blocks("README.md", "results/README.md"):
        if "├── report.html" in block.text:
            for name in re.findall(r"[├└]── (\S+)", block.text):
                assert (here / "results/default" / name).exists(), f"a run leaves no {name}"


def test_every_top_level_module_of_the_engine_is_in_the_tree():
    tree = next(block.text for block in blocks("README.md") if "├── Makefile" in block.text)
    named = set(re.findall(r"[\w]+\.py", tree))
    small = {"__init__", "__main__", "build", "cache", "data", "devices", "fingerprint", "memory", "progress", "summary"}
    missing = {path.name for path in (ROOT / "harness").glob("*.py") if path.stem not in small} - named
    assert not missing


@pytest.mark.parametrize("document", ALL)
def test_links_and_pictures_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("document", ALL)
def test_every_file_named_exists(document):
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`((?:harness|models|stores|conf|tests|docs)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(test_\w+)`", text):
        if not (ROOT / "tests" / f"{name}.py").exists():
            assert any(f"def {name}(" in path.read_text() for path in (ROOT / "tests").rglob("test_*.py")), name


def test_the_sizes_stated_for_the_data_that_comes_along_are_the_defaults():
    for row in table("README.md", "### The data that comes along")[1:]:
        option = re.search(r"`(\w+)`", row[0])[1]
        config = OmegaConf.load(ROOT / f"conf/dataset/{option}.yaml")
        assert row[2] == f"{config.corpus:,} documents, {config.queries} queries"
        if "max_words" in config:
            assert f"{config.min_words} to {config.max_words} words" in row[1]


def test_the_picture_is_small_enough_to_clone():
    pictures = [path for path in (ROOT / "docs").iterdir() if path.is_file()]
    assert pictures
    assert all(picture.stat().st_size < 200_000 for picture in pictures)
    assert {picture.name for picture in pictures} == set(re.findall(r"\(docs/(\S+)\)", (ROOT / "README.md").read_text()))
