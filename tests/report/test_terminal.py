"""The tables on a terminal of 80 columns."""

import io
import re

import pytest
from rich.console import Console

from harness.errors import DataError
from harness.frame import to_frame
from harness.records import write
from harness.report import print_tables
from tests.report import examples


def printed(records, width=80):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_tables(to_frame(records), console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def text():
    return printed(examples.records())


def words(text):
    return " ".join(text.split())


def test_no_line_is_wider_than_80_columns_and_nothing_is_cut(text):
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_each_dataset_has_its_tables_and_nothing_of_another(text):
    docstrings, scenes = text.split("scenes image, 1,000 documents, 100 queries, 2048 dimensions")
    assert "docstrings text, 20,000 documents, 500 queries, 384 dimensions" in docstrings
    assert "resnet50" not in docstrings
    assert "ivf_flat" not in scenes.split("Without a result")[0]
    assert docstrings.count("Embedding · cpu · fp32") == docstrings.count("Search · minilm · milvus_lite") == 1


def test_figures_stand_in_milliseconds_and_megabytes_with_their_intervals(text):
    lines = text.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith(" ef=64") and "[0.974, 0.990]" in line]
    assert lines[at - 1].split() == ["hnsw", "0.984", "10.4", "93.3", "0.701"]
    assert lines[at].split(maxsplit=1)[1].replace(" ", "") == "[0.974,0.990][9.9,10.9][88.6,97.9][0.679,0.723]"
    assert "95 % interval" in text


def test_intervals_over_one_process_are_marked_and_explained(text):
    assert "[215, 238]†" in text
    assert "† within one process" in text
    assert "†" not in printed([examples.embed("minilm", "docstrings", 8, 100.0, "e01")])


def test_random_weights_are_said_in_every_row(text):
    scenes = text.split("scenes image")[1].split("[low, high]")[0]
    assert words(scenes).count("random weights)") + words(scenes).count("resnet50 (random weights)") >= 3
    assert words(scenes).count("weights)") == 3


def test_cells_without_a_result_stand_with_their_reason(text):
    tail = words(text.split("Without a result")[1])
    assert "oom embed: minilm · cpu · fp32 · batch 4096 · docstrings the measuring process was killed at 7.9 GB" in tail
    assert "skipped search: minilm · scann · milvus_lite · cosine · docstrings store milvus_lite has no index SCANN" in tail
    assert "failed search: minilm · hnsw_sq" in tail


def test_caveats_stand_with_what_they_mean(text):
    tail = words(text.split("Caveats")[1])
    for code, meaning in (examples.TRUNCATED, examples.LITE, examples.RANDOM_VECTORS, examples.RANDOM_WEIGHTS):
        assert f"{code} (" in tail
        assert meaning in tail


def test_what_is_null_is_a_dash_with_its_reason(text):
    assert "– Quality against labels nDCG@10: vectors of random weights have no quality to speak of" in words(text)


def test_markup_and_control_characters_in_names_are_only_text():
    hostile = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    hostile.labels["model"] = "[bold red]m[/] \x1b[31mred"
    hostile.labels["dataset"] = "[link=x]d[/]\x07"
    text = printed([hostile])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[link=x]d[/]" in text
    assert "[bold red]m[/]" in words(text)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_long_names_do_not_break_the_width(width):
    long = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    long.labels["model"] = "organisation/" + "very-long-model-name-" * 5
    assert max(map(len, printed([long], width).splitlines())) <= width


def test_wide_intervals_break_into_two_lines_and_no_digit_is_lost():
    wild = examples.Measured(2_006_020.0, "1/s", "higher", 1_890_820.0, 2_128_237.0, 3)
    point = examples.point({"ef": 16}, 0.9, 3.2e-7)
    points = (examples.Point(10, 1, {"ef": 16}, {**point.metrics, "qps": wild}),)
    text = words(printed([examples.search("minilm", "docstrings", "hnsw", points, "a01")]))
    assert "hnsw 0.900 0.000320 2,006,020 0.641" in text
    for part in ("ef=16", "[0.839,", "0.940]", "[1,890,820,", "2,128,237]"):
        assert part in text


def test_a_folder_is_read_and_an_empty_one_says_so(tmp_path):
    console = Console(width=80, file=io.StringIO())
    with pytest.raises(DataError, match="no records"):
        print_tables(tmp_path, console)
    write(examples.embed("minilm", "docstrings", 8, 100.0, "e01"), tmp_path)
    print_tables(tmp_path, console)
    assert "minilm" in console.file.getvalue()


def test_of_very_many_rows_those_nearest_the_fronts_are_printed_and_the_rest_is_counted():
    text = printed(examples.many(600), 200)
    assert re.search(r"100 of \d+ rows, those nearest the fronts", text)
    assert len(text.splitlines()) < 700
