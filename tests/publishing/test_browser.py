"""The built site in a browser: filters, hints, widths, requests, accessibility; and every link without one."""

import gzip
import json
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup
from site_in_a_browser import PATIENCE

from kdrepro import paths
from kdrepro.publishing import book

pytestmark = pytest.mark.browser

PAGES = [page for page in dict.fromkeys(book._pages(paths.ROOT)) if page != "index"]
CHAPTERS = [page for page in PAGES if "/chapters/" in page]
WIDTHS = (1280, 390)
MOST_BYTES = 1_500_000  # of a page with all that it loads, as servers send it: compressed
# What reaches beyond the article's column and is in no box that scrolls.
TOO_WIDE = """() => {
  const column = document.querySelector(".bd-article").getBoundingClientRect(), found = [];
  const scrolls = (e) => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
  for (const element of document.querySelectorAll(".bd-article *")) {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height || box.right <= column.right + 1) continue;
    let outer = element.parentElement;
    while (outer && !outer.classList.contains("bd-article") && !scrolls(outer)) outer = outer.parentElement;
    if (!outer || outer.classList.contains("bd-article")) found.push(element.outerHTML.slice(0, 120));
  }
  const page = document.documentElement;
  return page.scrollWidth > page.clientWidth ? ["the page itself", ...found] : found;
}"""


@pytest.fixture
def index(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/book/index.html")
    yield page
    context.close()


def shown(page, selector, attribute):
    """An attribute of each element that can be seen."""
    return [e.get_attribute(attribute) for e in page.query_selector_all(selector) if e.is_visible()]


def test_filters_filter_picture_and_table(index):
    rows = index.query_selector_all("#verdict-table tbody tr")
    everything = shown(index, ".claims-picture.wide .claim-row", "data-claim")
    index.select_option("[name=section]", "3")
    assert set(shown(index, "#verdict-table tbody tr", "data-section")) == {"3"}
    assert set(shown(index, ".claims-picture.wide .claim-row", "data-section")) == {"3"}
    assert shown(index, ".claims-picture.wide .claim-head", "data-section") == ["3"]
    index.select_option("[name=verdict]", "partly")
    partly = shown(index, "#verdict-table tbody tr", "data-claim")
    assert set(shown(index, "#verdict-table tbody tr", "data-verdict")) == {"partly"}
    assert index.inner_text("#claims-count") == f"{len(partly)} of {len(rows)} claims"
    assert set(shown(index, ".claims-picture.wide .claim-row", "data-claim")) <= set(partly)
    index.select_option("[name=section]", "")
    index.select_option("[name=verdict]", "")
    assert shown(index, ".claims-picture.wide .claim-row", "data-claim") == everything


def test_the_table_is_sorted_by_its_titles(index):
    index.click("#verdict-table th[data-sort=verdict] button")
    ranks = list(map(int, shown(index, "#verdict-table tbody tr", "data-rank")))
    assert ranks == sorted(ranks)
    assert index.get_attribute("#verdict-table th[data-sort=verdict]", "aria-sort") == "ascending"
    index.click("#verdict-table th[data-sort=claim] button")
    names = shown(index, "#verdict-table tbody tr", "data-claim")
    assert names == index.evaluate("names => [...names].sort((a, b) => a.localeCompare(b))", names)
    index.select_option("[name=sort]", "order")
    orders = list(map(int, shown(index, "#verdict-table tbody tr", "data-order")))
    assert orders == sorted(orders)


@pytest.mark.parametrize("way", ["keyboard", "pointer"])
def test_a_row_shows_seeds_control_and_link(index, way):
    hints = json.loads(index.text_content("#claims-data"))
    claim = next(name for name, hint in hints.items() if hint["seeds"] and hint["control"])
    row = index.locator(f".claims-picture.wide [data-claim='{claim}']")
    row.focus() if way == "keyboard" else row.hover()
    index.wait_for_selector("#claims-hint", state="visible")
    text = index.inner_text("#claims-hint")
    assert hints[claim]["seeds"] in text
    assert hints[claim]["control"] in text
    assert index.get_attribute("#claims-hint a", "href") == row.get_attribute("href")
    index.keyboard.press("Escape")
    assert index.is_hidden("#claims-hint")


def test_without_javascript_all_is_there(browser, address, index):
    context = browser.new_context(viewport={"width": 390, "height": 900}, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/book/index.html")
    assert shown(page, ".claims-picture.narrow .claim-row", "data-claim") == shown(
        index, ".claims-picture.wide .claim-row", "data-claim"
    )
    assert len(shown(page, "#verdict-table tbody tr", "data-claim")) == index.locator("#verdict-table tbody tr").count()
    assert page.is_hidden("#claims-filters")
    assert "each seed: " in page.text_content(".claims-picture.narrow [data-claim='mnist.distilled'] title")
    context.close()


def test_from_the_index_to_the_record_in_two_clicks(index):
    index.click("#verdict-table [data-claim='mnist.distilled'] a")
    record = index.locator("#mnist-distilled a").filter(has_text="record (JSON)").first
    with index.expect_response(lambda response: response.url.endswith("/files/results/02-mnist.json")) as answer:
        record.click()
    assert answer.value.json()["claims"]["mnist.distilled"]["metrics"]["errors"]


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_are_quiet_light_and_ask_nobody_else(browser, address, name):
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 900})
    context.set_default_timeout(PATIENCE)
    page, said, asked, loaded = context.new_page(), [], [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfinished", lambda request: loaded.append(request))
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("!window.MathJax?.startup?.promise || window.MathJax.startup.promise.then(() => true)")
        page.wait_for_timeout(350)  # the side bar's own transition
        assert page.evaluate(TOO_WIDE) == [], f"at {width} pixels"
    assert said == []
    assert sum(len(gzip.compress(request.response().body())) for request in loaded) < MOST_BYTES
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    context.close()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("book/index", "light"), ("book/index", "dark"), ("book/run", "light"), ("book/claims", "dark"),
     (CHAPTERS[1], "light"), (CHAPTERS[-1], "dark"), (CHAPTERS[4], "light"), ("book/play", "light"),
     ("book/play", "dark")],
)  # fmt: skip
def test_axe_finds_no_serious_fault(browser, address, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    page.wait_for_timeout(600)  # boxes that scroll are found after the equations are set
    faults = [
        (fault["id"], [node["html"][:150] for node in fault["nodes"]][:5])
        for fault in Axe().run(page).response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []
    context.close()


def test_every_internal_link_and_anchor_resolves(site):
    found = [path for path in site.rglob("*.html") if "_static" not in path.parts]  # there the theme keeps templates
    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in found}
    anchors = {path: {tag.get("id") or tag.get("name") for tag in page.find_all(True)} for path, page in pages.items()}
    broken, checked = [], 0
    for path, page in pages.items():
        for tag in page.find_all(True):
            for target in filter(None, (tag.get("href"), tag.get("src"))):
                if target.startswith(("http:", "https:", "mailto:", "data:", "javascript:")):
                    continue
                address, fragment = urldefrag(target)
                file = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
                checked += 1
                if not file.exists() or (fragment and file.suffix == ".html" and fragment not in anchors[file]):
                    broken.append(f"{path.relative_to(site)}: {target}")
    assert broken == []
    assert checked > 1000
