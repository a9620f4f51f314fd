"""The Markdown report: the whole text against a file that a person has looked at, and names that must stay text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.frame import to_frame
from harness.report.markdown import markdown, text
from harness.report.rows import plain
from tests.report import examples

GOLDEN = Path(__file__).with_name("golden.md")


def report(records, **more):
    return markdown("default", plain(to_frame(records)), records, **more)


def test_the_report_is_the_one_that_was_looked_at():
    """Where a change is meant, look at the new text and write it to golden.md."""
    assert report(examples.records()) == GOLDEN.read_text(encoding="utf-8")


def test_every_table_has_as_many_cells_in_each_row():
    tables = [block for block in report(examples.records()).split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "line\nbreak",
    "*bold* _it_ `code`",
    "[x](http://example.org)",
    "&lt;",
    "back\\slash",
    "# head",
    "~~gone~~",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_read_as_itself(name):
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    record.labels["model"] = record.labels["dataset"] = name
    failed = examples.record("embed", "minilm", "docstrings", "e02", status="failed", error=name)
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(report([record, failed], left_out=[name]))
    seen = MarkdownText(html)
    assert seen.text.count(" ".join(name.split())) >= 4  # summary, heading, error, file left out
    assert not seen.tags & {"script", "em", "code", "a", "s"}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1, max_size=20))
def test_escaped_words_are_read_as_themselves_in_a_table(words):
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"| x{text(words)}x |\n|---|\n| y |\n")
    seen = MarkdownText(html)
    assert f"x{words}x" in seen.text
    assert seen.tags <= {"table", "thead", "tbody", "tr", "th", "td"}


class MarkdownText:
    """A rendered page's words and the elements in it."""

    def __init__(self, html):
        from html.parser import HTMLParser

        parser = HTMLParser()
        parts, self.tags = [], set()
        parser.handle_data = parts.append
        parser.handle_starttag = lambda tag, attributes: self.tags.add(tag)
        parser.feed(html)
        parser.close()
        self.text = "".join(parts)
