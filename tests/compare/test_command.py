"""``python -m harness compare``: what is asked, and what is shown on a terminal, as Markdown and as a page."""

import re

import pytest
from rich.console import Console

from harness import cli
from harness.compare.command import run
from harness.compare.comparison import compare, overview
from harness.compare.rows import read_side
from harness.compare.show import html, markdown, terminal
from harness.errors import SettingsError
from tests.compare import made
from tests.gate.examples import HOSTILE
from tests.report.test_markdown import MarkdownText
from tests.report.test_page import Parsed

KNOBS = ({"ef": 16}, {"ef": 64})


@pytest.fixture
def folders(tmp_path):
    base = made.folder_of(tmp_path / "base", made.embed(seed=1), made.embed(batch_size=32), made.search(knobs=KNOBS, seed=1))
    head = made.folder_of(
        tmp_path / "head",
        made.embed(seed=2, scale=1.5, commit="d" * 40),
        made.failed(made.embed(batch_size=32, key="e-failed", commit="d" * 40), "RuntimeError: no"),
        made.search(knobs=(*KNOBS, {"ef": 256}), seed=2, commit="d" * 40),
    )
    return base, head


def test_the_terminal_shows_what_differs_what_cannot_be_compared_and_what_is_alone(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    run(list(map(str, folders)))
    said = " ".join(capsys.readouterr().out.split())
    assert "slower (advisory)" in said
    assert "head is failed: RuntimeError: no" in said
    assert "Only in the head" in said
    assert "ef=256" in said
    assert "program: commit" in said


def test_markdown_and_page_are_written(folders, tmp_path):
    run(list(map(str, folders)), to_markdown=str(tmp_path / "deep" / "c.md"), to_html=str(tmp_path / "c.html"))
    text = (tmp_path / "deep" / "c.md").read_text()
    for line in re.findall(r"^\|.*", text, re.MULTILINE):
        assert line.count("|") == 7
    assert text.count("<details>") == text.count("</details>") > 0
    words = " ".join(Parsed((tmp_path / "c.html").read_text()).words)
    for said in ("slower (advisory)", "RuntimeError: no", "Only in the head"):
        assert said in words
        assert said in text


def test_the_command_line_reaches_it_and_leaves_with_0(folders, capsys):
    assert cli.main(["compare", *map(str, folders)]) == 0
    assert "rows on both sides" in capsys.readouterr().out


def test_three_folders_are_two_comparisons_with_the_first(folders, capsys):
    run([str(folders[0]), str(folders[1]), str(folders[0])])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("rows on both sides") == 2


def test_one_folder_before_and_after_a_time(tmp_path, capsys):
    made.folder_of(tmp_path, made.embed(seed=1, key="e-old"), made.embed(seed=30, scale=1.5, key="e-new"))
    run([str(tmp_path)], before="2026-11-02T10:10")
    assert "1 row on both sides" in " ".join(capsys.readouterr().out.split())


def test_medians_over_runs_are_called_so_everywhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    base = made.folder_of(tmp_path / "base", *made.runs(10, made.embed))
    head = made.folder_of(tmp_path / "head", *made.runs(12, made.embed, seed=20, scale=1.5))
    run([str(base), str(head)], to_markdown=str(tmp_path / "c.md"), to_html=str(tmp_path / "c.html"))
    for said in (capsys.readouterr().out, (tmp_path / "c.md").read_text(), (tmp_path / "c.html").read_text()):
        assert "(median of 10 runs)" in said
        assert "(median of 12 runs)" in said


def test_two_knobs_of_one_folder_are_compared_at_every_build(tmp_path, capsys):
    folder = made.folder_of(tmp_path, made.search(knobs=KNOBS), made.search(store="milvus_lite", knobs=KNOBS))
    run([str(folder)], where=["ef=16"], against=["ef=64"])
    said = " ".join(capsys.readouterr().out.split())
    assert "2 rows on both sides" in said
    assert 'gate --base-set "index.ef=[16]" --head-set "index.ef=[64]"' in said


def test_two_stores_of_one_folder(tmp_path, capsys):
    folder = made.folder_of(tmp_path, made.search(seed=1), made.search(store="milvus_lite", scale=3.0, seed=2))
    run([str(folder)], where=["store=faiss"], against=["store=milvus_lite"])
    said = " ".join(capsys.readouterr().out.split())
    assert 'gate --base-set "store=faiss" --head-set "store=milvus_lite"' in said
    assert "2 rows on both sides" in said


def test_two_indexes_of_one_folder_at_one_knob_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = made.folder_of(tmp_path, made.search(knobs=KNOBS), made.search(index="ivf_flat", knobs=({"nprobe": 4}, {"nprobe": 16})))
    run([str(folder)], where=["index=hnsw ef=64"], against=["index=ivf_flat", "nprobe=16"], to_markdown=str(tmp_path / "c.md"))
    text = (tmp_path / "c.md").read_text()
    assert "2 rows on both sides" in text
    plain = text.replace("\\[", "[").replace("\\]", "]")
    assert '--base-set "index=hnsw index.ef=[64]" --head-set "index=ivf_flat index.nprobe=[16]"' in plain
    assert "| hnsw · ef=64 → ivf_flat · nprobe=16 | index fidelity, recall |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs two folders"),
        ({"before": "2026-11-02", "after": "2026-11-01"}, "--after must not lie before --before"),
        ({"where": ["store"], "against": ["store=x"]}, "--where takes settings such as"),
        ({"where": ["store=nothing"], "against": ["store=faiss"]}, "fits no row"),
    ],
)
def test_what_is_no_comparison_is_refused(folders, arguments, message):
    with pytest.raises(SettingsError, match=message):
        run([str(folders[0])], **arguments)


def test_a_mistake_leaves_with_2(folders, tmp_path, capsys):
    assert cli.main(["compare", str(folders[0])]) == 2
    assert cli.main(["compare", str(folders[0]), str(tmp_path / "nothing")]) == 2
    assert "holds no records" in capsys.readouterr().err


def test_across_machines_stands_in_every_heading(tmp_path):
    base = read_side(made.folder_of(tmp_path / "base", made.embed(), made.search()))
    head = read_side(made.folder_of(tmp_path / "head", made.embed(machine={"cores": 4}), made.search(machine={"cores": 4})))
    found = compare(base, head, across_machines=True)
    headings = [line for line in markdown([found]).splitlines() if line.startswith(("## ", "### "))]
    assert len(headings) > 3
    assert all("across machines" in line for line in headings if not line.startswith("### What else"))
    refused = compare(base, head)
    assert "not comparable" in overview(refused)[0]
    assert "across machines" not in markdown([refused])


def test_the_commits_are_in_the_command_that_decides(tmp_path):
    base = read_side(made.folder_of(tmp_path / "base", made.embed(seed=1)))
    head = read_side(made.folder_of(tmp_path / "head", made.embed(seed=2, commit="d" * 40)))
    assert "gate --base cccccccccccc --head dddddddddddd" in compare(base, head).decides
    dirty = read_side(made.folder_of(tmp_path / "dirty", made.embed(seed=2, commit="d" * 40 + "+changes")))
    assert "fresh=true" in compare(base, dirty).decides


def test_a_hostile_name_is_text_everywhere(tmp_path):
    from io import StringIO

    from markdown_it import MarkdownIt

    def record(**more):
        one = made.embed(**more)
        one.labels["model"] = one.labels["dataset"] = HOSTILE.replace("\ud800", "")
        return one

    sides = [
        read_side(made.folder_of(tmp_path / name, record(seed=1), record(batch_size=size))) for name, size in (("base", 16), ("head", 32))
    ]
    found = compare(*sides)
    seen = MarkdownText(
        MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(re.sub("</?(details|summary)>", "", markdown([found])))
    )
    assert "<script>alert(1)</script>|`x` *b*" in seen.text
    assert not seen.tags & {"script", "em", "code", "a"}
    assert "<script>alert" not in html([found])
    out = StringIO()
    terminal(found, Console(file=out, force_terminal=True, color_system=None, width=100))
    assert "\x1b[31m" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 100
