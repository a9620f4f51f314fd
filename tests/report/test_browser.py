"""The page in a real browser: it draws, sorts, fits a phone, asks the network for nothing and runs nobody's script."""

import json
import shutil
from pathlib import Path

import pytest

from harness.records import write
from harness.report import write_reports
from tests.report import examples

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver on this machine"),
]

HOSTILE = "<script>document.title='owned'</script></script><img src=x onerror=\"document.title='owned'\"><b>%{x}"


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "default"
    for record in examples.records():
        write(record, folder)
    return write_reports(folder)["html"]


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "default"
    embed = examples.embed("minilm", "docstrings", 8, 100.0, "e01", caveats=((HOSTILE, HOSTILE),))
    points = (examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.99, 0.02))
    search = examples.search("minilm", "docstrings", HOSTILE, points, "a02")
    failed = examples.record("embed", HOSTILE, HOSTILE, "e03", status="failed", error=HOSTILE)
    for record in (embed, search, failed):
        record.labels["model"] = record.labels["dataset"] = HOSTILE
        write(record, folder)
    return write_reports(folder)["html"]


@pytest.fixture
def opened(browser, report):
    return visit(browser, report)


def visit(browser, path: Path, width=1280, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    return browser


def test_the_page_has_no_error_and_asks_the_network_for_nothing(opened, report):
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"}
    assert report.as_uri() in asked
    assert all(url == report.as_uri() or url.startswith(("data:", "blob:")) for url in asked), asked
    entries = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in entries if not name.startswith(("data:", "blob:"))] == []


def test_every_chart_is_drawn_with_its_lines_and_error_bars(opened):
    drawn = opened.execute_script(
        """return [...document.querySelectorAll('.chart')].map((chart) => ({
             lines: chart.querySelectorAll('.scatterlayer .trace').length, points: chart.querySelectorAll('.points path').length,
             bars: chart.querySelectorAll('.errorbar path').length, wanted: charts.find((one) => one.id === chart.id).data.length}))"""
    )
    assert len(drawn) == 4
    for chart in drawn:
        assert chart["lines"] == chart["wanted"] > 0
        assert chart["points"] > 0
        assert chart["bars"] > 0


def column_of(browser, title):
    """The texts of a column of the first table, top to bottom."""
    return browser.execute_script(
        """const table = document.querySelector('table.results');
           const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
           const at = heads.findIndex((head) => head.textContent.trim().split(/\\s/)[0] === arguments[0]);
           return [...table.tBodies[0].rows].map((row) => row.cells[at].firstChild.textContent)""",
        title,
    )


def click(browser, title):
    from selenium.webdriver.common.by import By

    table = browser.find_element(By.CSS_SELECTOR, "table.results")
    [button] = [found for found in table.find_elements(By.CSS_SELECTOR, "thead button") if found.text.split()[0] == title]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
    button.click()


def test_a_click_sorts_by_number_and_a_second_one_the_other_way_round(opened):
    before = column_of(opened, "searches")
    click(opened, "searches")
    rising = column_of(opened, "searches")
    assert rising == sorted(before, key=float)
    assert rising != before
    click(opened, "searches")
    assert column_of(opened, "searches") == rising[::-1]
    heads = opened.execute_script("return document.querySelectorAll('table.results')[0].querySelectorAll('[aria-sort=descending]').length")
    assert heads == 1


def test_rows_stay_whole_when_they_are_sorted(opened):
    pairs = dict(zip(column_of(opened, "searches"), column_of(opened, "recall"), strict=True))
    click(opened, "searches")
    assert dict(zip(column_of(opened, "searches"), column_of(opened, "recall"), strict=True)) == pairs


def test_words_are_sorted_by_the_numbers_in_them_and_nothing_comes_last(opened):
    click(opened, "search")
    assert column_of(opened, "search") == ["ef=16", "ef=64", "ef=256", "nprobe=1", "nprobe=4", "nprobe=16", "nprobe=64", "–"]


def test_what_was_not_measured_stays_last_either_way(browser, tmp_path):
    slow = examples.point({"ef": 16}, 0.9, 0.02)
    unknown = examples.Point(10, 1, {"ef": 32}, {**slow.metrics, "qps": examples.missing("1/s", "the client was saturated")})
    fast = examples.point({"ef": 64}, 0.9, 0.01)
    write(examples.search("minilm", "docstrings", "hnsw", (slow, unknown, fast), "a01"), tmp_path)
    visit(browser, write_reports(tmp_path)["html"])
    for _ in range(2):
        click(browser, "searches")
        assert column_of(browser, "searches")[-1] == "–"


@pytest.mark.parametrize("width", [390, 320])
@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_on_a_phone_only_tables_scroll_sideways(browser, request, which, width):
    visit(browser, request.getfixturevalue(which), width)
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inner == width
    if which == "report":
        assert browser.execute_script("return [...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)")
        edges = browser.execute_script(
            "return [...document.querySelectorAll('.chart .main-svg')].map((svg) => svg.getBoundingClientRect().right)"
        )
        assert max(edges) <= width


def test_hostile_names_stay_text_on_the_page_and_in_the_charts(browser, hostile_report):
    visit(browser, hostile_report)
    assert browser.title == "Results: default"
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('body img, body b').length") == 0
    assert HOSTILE in browser.execute_script("return document.querySelector('h2').textContent")
    drawn = browser.execute_script("return [...document.querySelectorAll('.chart .legendtext')].map((text) => text.textContent)")
    assert any(HOSTILE in text for text in drawn), drawn


def test_hovering_over_a_point_shows_its_name_and_interval(browser, hostile_report):
    visit(browser, hostile_report)
    browser.execute_script(
        """const place = document.querySelector('.chart'); place.scrollIntoView();
           Plotly.Fx.hover(place, [{curveNumber: place.data.length - 1, pointNumber: 0}])"""
    )
    text = browser.execute_script("return document.querySelector('.chart .hoverlayer').textContent")
    assert "recall: 0.900 [" in text
    assert "p50: 10.0 ms [9.5, 10.5]" in text
    assert "<script>" in text
    assert browser.execute_script("return document.querySelectorAll('script').length") == 4
    assert browser.title == "Results: default"


def test_light_and_dark_have_their_own_colours_with_enough_contrast(browser, report):
    grounds = set()
    for scheme in ("light", "dark"):
        visit(browser, report, scheme=scheme)
        colours = browser.execute_script(
            """const style = getComputedStyle(document.documentElement);
               return Object.fromEntries(['ground', 'raised', 'ink', 'muted', 'link', 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6']
                 .map((name) => [name, style.getPropertyValue('--' + name).trim()]))"""
        )
        grounds.add(colours["ground"])
        for ground in ("ground", "raised"):
            for ink, least in (("ink", 7), ("muted", 4.5), ("link", 4.5)):  # WCAG 2.2: 4.5 for text, 3 for graphics
                assert contrast(colours[ink], colours[ground]) >= least, (scheme, ink)
        for place in range(7):
            assert contrast(colours[f"c{place}"], colours["ground"]) >= 3, (scheme, place)
        line = browser.execute_script("return document.querySelector('.chart .xtitle').style.fill")
        assert line.replace(" ", "") == "rgb(" + ",".join(map(str, rgb(colours["ink"]))) + ")"
    assert len(grounds) == 2


def rgb(colour):
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def contrast(one, other):
    """The contrast ratio as WCAG 2.2 defines it."""

    def luminance(colour):
        parts = [value / 255 for value in rgb(colour)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
