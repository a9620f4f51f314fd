"""What the tests of pictures share: sections of made-up records, and traces by their names."""

from harness.frame import to_frame
from harness.report.rows import plain, sections
from tests.report import examples


def by_dataset(records):
    return {section.name: section for section in sections(plain(to_frame(records)))}


def section_of(*records):
    return by_dataset(records)["docstrings"]


def docstrings():
    return by_dataset(examples.records())["docstrings"]


def traces(figure):
    """Traces by name, bands left out."""
    return {trace["name"]: trace for trace in figure["data"] if not trace["meta"].get("band")}


def bands(figure):
    return {trace["name"]: trace for trace in figure["data"] if trace["meta"].get("band")}


def hnsw(*points, key="a01", **changes):
    return examples.search("minilm", "docstrings", "hnsw", points, key, **changes)
