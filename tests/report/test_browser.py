"""The page in a real browser: it draws, sorts, filters, fits a phone and paper, asks the network for nothing and runs nobody's script."""

import base64
import csv
import io
import json
import re

import pytest

from harness.records import write
from harness.report import write_reports
from tests.report import examples
from tests.report.chromium import needs_a_browser, started, visit

pytestmark = [pytest.mark.browser, needs_a_browser]

HOSTILE = "<script>document.title='owned'</script></script><img src=x onerror=\"document.title='owned'\"><b>%{x}"


@pytest.fixture(scope="module")
def browser():
    with started() as driver:
        yield driver


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


@pytest.fixture(scope="module")
def large_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "default"
    for record in examples.many(5_000):
        write(record, folder)
    return write_reports(folder)["html"]


@pytest.fixture
def opened(browser, report):
    return visit(browser, report)


def draw_all(browser):
    browser.execute_script("drawAll()")


def test_the_page_has_no_error_and_asks_the_network_for_nothing(opened, report):
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"}
    assert report.as_uri() in asked
    assert all(url == report.as_uri() or url.startswith(("data:", "blob:")) for url in asked), asked
    entries = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in entries if not name.startswith(("data:", "blob:"))] == []


def test_every_chart_is_drawn_with_what_it_should_show(opened):
    draw_all(opened)
    drawn = opened.execute_script(
        """return [...document.querySelectorAll('.chart')].map((place) => ({
             title: place.closest('figure').querySelector('h3').textContent,
             lines: place.querySelectorAll('.scatterlayer .trace').length, bars: place.querySelectorAll('.barlayer .trace').length,
             points: place.querySelectorAll('.points path').length, errors: place.querySelectorAll('.errorbar path').length,
             wanted: charts.get(place.id).current().data.length}))"""
    )
    assert [chart["title"] for chart in drawn[:10]] == [
        "Recall and latency",
        "Recall and throughput",
        "Quality lost to the index",
        "Throughput and batch size",
        "Where a search's time goes",
        "Building the index",
        "Where a batch's time goes",
        "Latency distribution: one search",
        "Latency distribution: embedding one query",
        "Latency distribution: embedding one batch",
    ]
    for chart in drawn:
        assert chart["lines"] + chart["bars"] == chart["wanted"] > 0, chart
        assert chart["points"] > 0, chart
    assert drawn[0]["errors"] > 0
    assert opened.get_log("browser") == []


def test_charts_out_of_sight_are_drawn_when_they_come_into_it(browser, report):
    visit(browser, report, 390)
    last = "const all = [...charts.values()]; const one = all[all.length - 1];"
    assert browser.execute_script(f"{last} return Boolean(one.drawn)") is False
    browser.execute_async_script(
        f"""{last} const done = arguments[0]; one.place.scrollIntoView();
            const wait = () => (one.drawn ? done() : setTimeout(wait, 20)); wait()"""
    )
    assert browser.execute_script(f"{last} return one.place.querySelectorAll('.points path').length") > 0


def test_another_way_of_asking_is_drawn_when_it_is_chosen(browser, report):
    visit(browser, report)
    draw_all(browser)
    before, after = browser.execute_script(
        """const select = [...document.querySelectorAll('select[data-chart]')]
             .find((one) => [...one.options].some((option) => option.text === 'share'));
           const place = document.getElementById(select.dataset.chart); const title = () => place.querySelector('.xtitle').textContent;
           const before = title(); select.value = '1'; select.dispatchEvent(new Event('change')); return [before, title()]"""
    )
    assert (before, after) == ("time an item (ms)", "share of the time (%)")


def test_a_click_on_a_legend_entry_hides_its_line_and_its_band(browser, report):
    visit(browser, report)
    browser.execute_script("document.querySelector('.chart').scrollIntoView({block: 'center'})")
    shown = "return document.querySelector('.chart').data.filter((one) => one.legendgroup === 'hnsw').map((one) => one.visible ?? true)"
    from selenium.webdriver import ActionChains

    toggle = browser.execute_script(
        """return [...document.querySelectorAll('.chart .legend .traces')].find((one) => one.textContent === 'hnsw')
             .querySelector('.legendtoggle')"""
    )
    assert browser.execute_script(shown) == [True, True]
    ActionChains(browser).move_to_element(toggle).click().perform()
    browser.execute_async_script(
        "const done = arguments[0]; const wait = () => (document.querySelector('.chart').data.some((one) => one.visible === 'legendonly') "
        "? done() : setTimeout(wait, 20)); wait()"
    )
    assert browser.execute_script(shown) == ["legendonly", "legendonly"]


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


def type_filter(browser, text, table=0):
    browser.execute_script(
        """const box = document.querySelectorAll('.tools input[type=search]')[arguments[1]]; box.value = arguments[0];
           box.dispatchEvent(new Event('input'))""",
        text,
        table,
    )


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("hnsw", ["hnsw"] * 3),
        ("index:ivf", ["ivf_flat"] * 4),
        ("NPROBE=1", ["ivf_flat"] * 2),  # 1 and 16
        ("recall>=0.95 p50<12", ["hnsw", "ivf_flat"]),
        ("hnsw ef=64", ["hnsw"]),
        ("searches>1000", []),
        ("size<5", []),  # not measured is not small
    ],
)
def test_a_filter_keeps_the_rows_with_its_words_and_numbers(opened, text, left):
    type_filter(opened, text)
    assert column_of(opened, "index") == left
    count = opened.execute_script("return document.querySelector('.count').textContent")
    assert count == f"{len(left)} of 8 rows"


def test_a_reader_chooses_columns_and_the_address_remembers_them_with_filter_and_order(browser, report):
    visit(browser, report)
    browser.execute_script(
        """const boxes = [...document.querySelectorAll('.chooser')][0].querySelectorAll('label');
           const wanted = ['strict', 'searches (1/s)'];
           for (const label of boxes) if (wanted.includes(label.textContent.trim())) label.querySelector('input').click()"""
    )
    assert "strict" in headings(browser)
    assert "searches" not in headings(browser)
    type_filter(browser, "index:hnsw")
    click(browser, "recall")
    click(browser, "recall")
    address = browser.execute_script("return location.hash")
    visit(browser, report, asked=address)
    assert "strict" in headings(browser)
    assert "searches" not in headings(browser)
    assert column_of(browser, "recall") == ["0.999", "0.984", "0.893"]
    boxes = "return [...document.querySelectorAll('.chooser')][0].querySelectorAll('input:checked').length"
    assert browser.execute_script(boxes) == len(headings(browser))


def headings(browser):
    return browser.execute_script(
        """const table = document.querySelector('table.results'); const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
           return heads.map((head) => head.textContent.trim().split(/\\s/)[0])"""
    )


def test_the_csv_is_what_is_shown_with_full_intervals(browser, report):
    visit(browser, report)
    type_filter(browser, "index:hnsw")
    rows = list(csv.DictReader(io.StringIO(browser.execute_script("return tables[0].csv()"))))
    assert [float(row["recall"]) for row in rows] == [0.8934, 0.9841, 0.9993]
    assert [float(row["search_latency_p50_s"]) for row in rows] == [0.0098, 0.0104, 0.0125]
    assert float(rows[0]["search_latency_p50_s_lo"]) == pytest.approx(0.0098 * 0.95)
    assert rows[0]["search_latency_p50_s_n"] == "3"
    assert "recall_strict" not in rows[0]
    assert rows[0]["search_params"] == "ef=16"
    assert "build_params" not in rows[0]


def test_a_row_has_an_address_that_opens_everything_known_about_it(browser, report):
    visit(browser, report)
    browser.execute_script("document.querySelectorAll('table.results tbody th a')[1].click()")
    told = browser.execute_script("return document.getElementById('details').open && document.getElementById('details').textContent")
    assert "hnsw · ef=16" in told
    assert "the store does not tell the size of an index" in told
    assert '"ef_construction": 200' in told, "the whole record"
    address = browser.execute_script("return location.hash")
    visit(browser, report, asked=address)
    assert browser.execute_script("return document.getElementById('details').open")
    assert browser.execute_script("return document.getElementById('details-name').textContent").startswith("hnsw · ef=16")


def test_a_row_can_be_added_to_the_distributions_and_taken_away(browser, report):
    visit(browser, report)
    browser.execute_script("document.querySelector('select[data-curve]').scrollIntoView()")
    lines = "return curves[0].chart.current().data.map((trace) => trace.name)"
    before = browser.execute_script(lines)
    assert len(before) == 3, "one of each index"
    choose = """const select = document.querySelector('select[data-curve]');
                select.value = [...select.options].find((option) => option.text.includes('nprobe=4 ') || option.text.includes('nprobe=4')
                  && !option.text.includes('nprobe=64')).value; select.dispatchEvent(new Event('change'))"""
    browser.execute_script(choose)
    after = browser.execute_script(lines)
    assert len(after) == 4
    assert "nprobe=4" in after[-1]
    medians = browser.execute_script("return curves[0].chart.current().data.map((trace) => trace.x[trace.y.indexOf(0.5)])")
    assert medians[-1] == pytest.approx(10.1, rel=0.1)
    address = browser.execute_script("return location.hash")
    visit(browser, report, asked=address)
    assert browser.execute_script(lines) == after
    browser.execute_script(choose)
    assert browser.execute_script(lines) == before


def test_a_click_on_a_point_adds_its_row_to_the_distributions(browser, report):
    visit(browser, report)
    draw_all(browser)
    before = browser.execute_script("return curves[0].chosen.length")
    row = browser.execute_script(
        """const place = document.querySelector('.chart'); const trace = place.data.find((one) => one.name === 'hnsw' && one.customdata);
           place.emit('plotly_click', {points: [{customdata: trace.customdata[0]}]}); return trace.customdata[0]"""
    )
    assert browser.execute_script("return curves[0].chosen")[-1] == row
    assert browser.execute_script("return curves[0].chosen.length") == before + 1


def test_on_paper_charts_and_rows_are_there_and_controls_are_not(browser, report):
    visit(browser, report)
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type /Page\b", pdf)) <= 25
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden, clipped = browser.execute_script(
        """const shown = (one) => getComputedStyle(one).display !== 'none';
           return [[...document.querySelectorAll('.tools, nav, select[data-curve]')].filter(shown).length,
                   [...document.querySelectorAll('.scroll')].filter((one) => getComputedStyle(one).overflowX !== 'visible').length]"""
    )
    assert (hidden, clipped) == (0, 0)
    assert browser.execute_script("return [...charts.values()].every((one) => one.drawn)")


@pytest.mark.slow
def test_five_thousand_rows_stay_usable(browser, large_report):
    visit(browser, large_report)
    opened_ms = browser.execute_script("return performance.getEntriesByType('measure').find((one) => one.name === 'ready').duration")
    rows = "return document.querySelectorAll('table.results')[0].tBodies[0].rows.length"
    assert browser.execute_script(rows) < 200, "a slice is drawn"
    took = "const begun = performance.now(); {0}; return performance.now() - begun"
    sorting = browser.execute_script(took.format("document.querySelector('th[data-column=qps] button').click()"))
    assert column_of(browser, "searches") == sorted(column_of(browser, "searches"), key=lambda text: float(text.replace(",", "")))
    filtering = browser.execute_script(
        took.format(
            "const box = document.querySelector('.tools input'); box.value = 'index:hnsw_sq recall>0.99'; "
            "box.dispatchEvent(new Event('input'))"
        )
    )
    left, everything = re.findall(r"[\d,]+", browser.execute_script("return document.querySelector('.count').textContent"))
    assert 0 < int(left.replace(",", "")) < int(everything.replace(",", ""))
    assert set(column_of(browser, "index")) == {"hnsw_sq"}
    before = browser.execute_script(rows)
    browser.execute_async_script(
        """const done = arguments[0]; const box = document.querySelector('.tall');
           box.scrollTop = box.scrollHeight; setTimeout(done, 200)"""
    )
    assert browser.execute_script(rows) > before, "the next slice follows"
    drawing = browser.execute_script(took.format("drawAll()"))
    assert browser.get_log("browser") == []
    print(f"5,000 rows: open {opened_ms:.0f} ms, sort {sorting:.0f} ms, filter {filtering:.0f} ms, all charts {drawing:.0f} ms")


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
    draw_all(browser)
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
    draw_all(browser)
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
           drawAll(); Plotly.Fx.hover(place, [{curveNumber: place.data.length - 1, pointNumber: 0}])"""
    )
    text = browser.execute_script("return document.querySelector('.chart .hoverlayer').textContent")
    assert "recall: 0.900 [" in text
    assert "p50: 10.0 ms [9.5, 10.5]" in text
    assert "<script>" in text
    assert browser.execute_script("return document.querySelectorAll('script').length") == 4  # three of the page and the chart library
    assert browser.title == "Results: default"


def test_light_and_dark_have_their_own_colours_with_enough_contrast(browser, report):
    grounds = set()
    for scheme in ("light", "dark"):
        visit(browser, report, scheme=scheme)
        draw_all(browser)
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
