"""The HTML page as text: one file, the frame's data inside it, and names that stay names."""

import json
import re
from html.parser import HTMLParser

import pytest

from harness.frame import to_frame
from harness.report.page import page
from harness.report.rows import plain
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


def test_the_embedded_data_are_the_frames_rows(parsed):
    frame = to_frame(examples.records())
    want = [{name: value for name, value in row.items() if value is not None} for row in plain(frame)]
    assert json.loads(parsed.scripts["results"]) == want
    assert len(want) == len(frame)


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
    notes = [attributes.get("title") for tag, attributes in parsed.elements if "null" in attributes.get("class", "").split()]
    assert notes
    assert all(notes)
    assert "300 samples, a 99th percentile needs 662" in notes


def test_nothing_that_was_not_measured_has_a_sort_key(parsed):
    assert all("data-sort" not in attributes for _, attributes in parsed.elements if "null" in attributes.get("class", "").split())


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
    assert count == [tag for tag, _ in reference.elements].count("script") == 4
    assert {row["model"] for row in json.loads(parsed.scripts["results"])} >= {name}
    assert "49" not in "".join(parsed.words) or "7*7" not in name


def test_random_weights_stand_in_every_row_of_their_tables():
    random_only = [record for record in examples.records() if record.model.get("weights") == "random"]
    html = html_of(random_only)
    bodies = re.findall(r'<table class="results">.*?<tbody>(.*?)</tbody>', html, re.DOTALL)
    rows = [row for body in bodies for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    assert len(rows) == 3
    assert all("random weights" in row for row in rows)
    assert "on the Pareto front" not in "".join(bodies)


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
