"""The HTML page as text: one file, the frame's data inside it, and names that stay names."""

import json
from html.parser import HTMLParser

import pytest
from rich.console import Console

from harness.frame import to_frame
from harness.records import to_json, write
from harness.report import print_tables, write_reports
from harness.report.distribution import LEVELS
from harness.report.markdown import markdown
from harness.report.packed import unpacked
from harness.report.page import page
from harness.report.rows import anchor, plain, sections
from tests.report import examples


class Parsed(HTMLParser):
    """The elements, attributes and words outside of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words, self.scripts, self._inside = [], [], {}, None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = (tag, dict(attributes)) if tag in {"script", "style"} else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.words.append(data)
        elif "id" in self._inside[1]:
            self.scripts[self._inside[1]["id"]] = data


def html_of(records, **more):
    return page("default", plain(to_frame(records)), records, **more)


@pytest.fixture(scope="module")
def parsed():
    return Parsed(html_of(examples.records()))


def data_of(parsed):
    return json.loads(unpacked(parsed.scripts["data"]))


def test_the_numbers_in_the_page_are_the_frames(parsed):
    data = data_of(parsed)
    rows = {anchor(row): row for row in plain(to_frame(examples.records())) if row["status"] == "ok"}
    seen = 0
    for table in data["tables"]:
        for shown in table["rows"]:
            row = rows.pop(shown["anchor"])
            for column, cell in zip(table["columns"], shown["cells"], strict=True):
                if column["group"]:
                    found = [*cell, *[None] * (7 - len(cell))][3:]
                    name = column["name"]
                    want = [row[name], row[f"{name}_lo"], row[f"{name}_hi"], row[f"{name}_n"] or None]
                    assert [one is None for one in found] == [one is None for one in want], name
                    assert [one or 0.0 for one in found] == pytest.approx([one or 0.0 for one in want], rel=1e-6), name
                    seen += row[name] is not None
    assert rows == {}, "each row with a result stands in one table"
    assert seen > 150


def test_a_column_that_is_null_in_every_row_is_there_but_not_shown():
    point = examples.point({"ef": 16}, 0.9, 0.01, quality=False)
    data = data_of(Parsed(html_of([examples.search("minilm", "docstrings", "hnsw", (point,), "a01")])))
    [table] = data["tables"]
    columns = {column["name"]: column["shown"] for column in table["columns"]}
    assert columns["recall"]
    assert columns["build_s"]
    assert columns["ndcg_at_10"] is False
    assert "decode_s" not in columns


def test_rows_on_a_front_have_their_whole_record(parsed):
    data = data_of(parsed)
    by_key = {record.key: record for record in examples.records()}
    fronts = {row["key"] for table in data["tables"] for row in table["rows"] if row["front"]}
    assert fronts
    assert fronts <= set(data["records"])
    for key, record in data["records"].items():
        assert record == json.loads(to_json(by_key[key]))


def test_the_page_refers_to_nothing_outside_itself(parsed):
    for tag, attributes in parsed.elements:
        assert not {"src", "srcset", "action", "data"} & set(attributes), tag
        if "href" in attributes:
            assert attributes["href"].startswith(("#", "data:,")), attributes
    [policy] = [attributes["content"] for tag, attributes in parsed.elements if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_links_within_the_page_lead_somewhere(parsed):
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes in parsed.elements if attributes.get("href", "").startswith("#")}
    assert targets
    assert targets <= set(ids)


def test_a_null_says_why_where_it_stands(parsed):
    data = data_of(parsed)
    nulls = [cell for table in data["tables"] for row in table["rows"] for cell in row["cells"] if cell[0] == data["null"]]
    assert nulls
    assert all(data["words"][cell[2]] for cell in nulls)
    assert all(len(cell) == 3 for cell in nulls), "and has no value to sort by"
    assert "300 samples, a 99th percentile needs 662" in data["words"]
    assert "300 samples, a 99th percentile needs 662" in parsed.words, "and in the list of what was not measured"


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "</script><script>alert(1)</script>",
        "<!--",
        "]]>",
        "\"' onmouseover=alert(1) x='",
        "{{ 7*7 }}",
        "\u2028",
    ],
)
def test_a_hostile_name_is_only_text_everywhere(name):
    record = examples.embed("minilm", name, 8, 100.0, "e01", caveats=((name, name),), data=dict(examples.DATASETS["docstrings"], name=name))
    record.labels["model"] = record.labels["device"] = record.model["source"] = name
    found = examples.search("minilm", "docstrings", name, (examples.point({name: 1}, 0.9, 0.01),), "a02")
    failed = examples.record("embed", name, name, "e03", status="failed", error=name)
    reference = Parsed(html_of([examples.embed("minilm", "plain", 8, 100.0, "e01", caveats=(("a", "b"),)), found, failed]))
    html = html_of([record, found, failed], left_out=[name])
    parsed = Parsed(html)
    assert name.strip() in "".join(parsed.words)
    assert not any(attribute.startswith("on") for _, attributes in parsed.elements for attribute in attributes)
    count = [tag for tag, _ in parsed.elements].count("script")
    assert count == [tag for tag, _ in reference.elements].count("script") == 3
    names = [row["name"] for table in data_of(parsed)["tables"] for row in table["rows"]]
    assert any(name in one for one in names)
    assert "49" not in "".join(parsed.words) or "7*7" not in name


def test_random_weights_stand_in_every_row_of_their_tables():
    random_only = [record for record in examples.records() if record.model.get("weights") == "random"]
    data = data_of(Parsed(html_of(random_only)))
    rows = [row for table in data["tables"] for row in table["rows"]]
    assert len(rows) == 3
    assert all("random weights" in row["name"] for row in rows)
    assert all(any("random weights" in cell[0] for cell in row["cells"]) for row in rows)
    assert not any(row["front"] for row in rows)


def test_differences_between_the_records_machines_are_pointed_out():
    other = dict(examples.ENVIRONMENT, machine=dict(examples.MACHINE, cpu="Other CPU"), fingerprint="beefbeef")
    found = [
        examples.embed("minilm", "docstrings", 8, 100.0, "e01"),
        examples.embed("minilm", "docstrings", 8, 50.0, "e02", environment=other),
    ]
    text = "".join(Parsed(html_of(found)).words)
    assert "not all made under the same conditions" in text
    assert "Other CPU" in text
    assert "machine: cpu" in text
    assert "not all made under the same conditions" not in html_of(found[:1])


def test_a_page_without_charts_carries_no_chart_library():
    failed = examples.record("embed", "minilm", "docstrings", "e01", status="failed", error="x")
    assert len(html_of([failed])) < 100_000


@pytest.mark.parametrize(("rows", "megabytes"), [(500, 6), pytest.param(5_000, 15, marks=pytest.mark.slow)])
def test_a_page_can_be_sent_by_mail(tmp_path, rows, megabytes):
    for record in examples.many(rows):
        write(record, tmp_path)
    html = write_reports(tmp_path)["html"]
    assert html.stat().st_size < megabytes * 1e6
    data = data_of(Parsed(html.read_text(encoding="utf-8")))
    shown = [row["anchor"] for table in data["tables"] for row in table["rows"]]
    assert len(shown) == len(set(shown)) == rows
    assert set(data["sketches"]) == set(shown), "each row has a sketch of its distribution"
    assert all(len(quantiles) == len(LEVELS) for kinds in data["sketches"].values() for _, quantiles in kinds.values())


def test_a_page_of_very_many_rows_holds_those_nearest_the_fronts_and_says_so(monkeypatch):
    monkeypatch.setattr("harness.report.page._ROWS", 60)
    found = list(examples.many(300))
    parsed = Parsed(html_of(found))
    data = data_of(parsed)
    [section] = sections(plain(to_frame(found)))
    fronts = {anchor(row) for row in (*section.search, *section.embed) if id(row) in section.fronts}
    shown = {row["anchor"] for table in data["tables"] for row in table["rows"]}
    assert fronts <= shown
    assert [len(table["rows"]) for table in data["tables"]] == [60, min(60, len(section.embed))]
    words = " ".join(parsed.words)
    assert f"60 of {len(section.search)} rows, those nearest the fronts; results.csv beside this page has all." in words
    drawn = {
        name for picture in data["pictures"] for one in picture["figures"] for trace in one["data"] for name in trace.get("customdata", ())
    }
    assert drawn <= shown


def test_a_caveat_of_very_many_cells_names_some_and_counts_the_rest():
    found = [examples.embed("minilm", "docstrings", size, 10.0, f"e{size:02d}", caveats=(examples.TRUNCATED,)) for size in range(1, 31)]
    words = " ".join(" ".join(Parsed(html_of(found)).words).split())
    assert "30 cells" in words
    assert "and 10 more; the table's column caveats has all" in words


def test_numbers_of_workers_have_a_table_on_the_page_in_markdown_and_on_the_terminal(capsys):
    records = [examples.workers(n, 50.0 * n**0.9, n**-0.1, f"w0{n}") for n in (1, 2)]
    rows = plain(to_frame(records))
    [table] = data_of(Parsed(html_of(records)))["tables"]
    assert table["title"] == "Workers"
    assert [[cell[0] for cell in row["cells"][:2]] for row in table["rows"]] == [["minilm", "1"], ["minilm", "2"]]
    text = markdown("default", rows, records)
    assert "2 numbers of workers were measured" in text
    assert "| minilm | 2 | 93.3 [88.6, 98.0] | 0.933 [0.886, 0.980] |" in text
    print_tables(to_frame(records), Console(width=80))
    assert "Workers" in capsys.readouterr().out
