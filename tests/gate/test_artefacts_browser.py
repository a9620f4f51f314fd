"""The gate's and the comparison's pages in a real browser: they draw, fit a phone, ask the network for nothing and run nobody's script."""

import json
from dataclasses import replace

import pytest

from harness.compare.comparison import compare
from harness.compare.rows import read_side
from harness.compare.show import html
from harness.gate.artefacts import write_artefacts
from tests.compare import made
from tests.gate.examples import CASES, HOSTILE, OUTCOMES, outcome
from tests.report.test_browser import browser, pytestmark

__all__ = ["browser", "pytestmark"]  # the fixture and the mark are used by pytest


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    rows = [replace(case, cell=HOSTILE, metric=HOSTILE, decision=replace(case.decision, reason=HOSTILE)) for case in CASES.values()]
    base = read_side(made.folder_of(folder / "base", made.embed(seed=1), made.search(seed=1)))
    head = read_side(made.folder_of(folder / "head", made.embed(seed=2, scale=1.5), made.embed(batch_size=32), made.search(seed=2)))
    comparison = folder / "compare.html"
    comparison.write_text(html([compare(base, head)]))
    return {
        "gate": write_artefacts(OUTCOMES["mixed"], folder / "gate")["report"],
        "hostile": write_artefacts(outcome(*rows, base=HOSTILE, notes=(HOSTILE,)), folder / "hostile")["report"],
        "compare": comparison,
    }


def visit(browser, path, width=1280):
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["gate", "hostile", "compare"])
def test_a_page_opens_without_an_error_or_a_request_and_only_tables_scroll_sideways(browser, pages, which, width):
    visit(browser, pages[which], width)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"}
    assert all(url == pages[which].as_uri() or url.startswith(("data:", "blob:")) for url in asked), asked
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inner


def test_every_change_is_drawn_with_its_interval(browser, pages):
    visit(browser, pages["gate"])
    drawn = browser.execute_script(
        """return [...document.querySelectorAll('.chart')].map((chart) => ({
             points: chart.querySelectorAll('.points path').length, bars: chart.querySelectorAll('.errorbar path').length,
             names: [...chart.querySelectorAll('.annotation-text')].map((text) => text.textContent)}))"""
    )
    ratios, differences = drawn
    assert ratios["bars"] == len(ratios["names"]) == 6
    assert ratios["points"] >= 6
    assert differences["bars"] == len(differences["names"]) == 1
    assert "search_p95_s · minilm · faiss · hnsw · ef=64 · k=10" in ratios["names"]


def test_a_hostile_name_is_text_in_the_picture(browser, pages):
    visit(browser, pages["hostile"])
    names = browser.execute_script("return [...document.querySelectorAll('.annotation-text')].map((text) => text.textContent)")
    assert any("<script>alert(1)</script>" in name for name in names)
    assert browser.execute_script("return document.querySelectorAll('body img, body b').length") == 0


def test_hovering_shows_amounts_change_and_interval(browser, pages):
    visit(browser, pages["gate"])
    browser.execute_script("Plotly.Fx.hover(document.querySelector('.chart'), [{curveNumber: 0, pointNumber: 0}])")
    text = browser.execute_script("return document.querySelector('.chart .hoverlayer').textContent")
    assert "41.2 ms → 44.0 ms" in text
    assert "+6.8 % [+4.8, +8.8]" in text
