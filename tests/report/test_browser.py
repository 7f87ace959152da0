"""The page in a real browser: asks for nothing, sorts, filters, enlarges, recolours, prints, is read without script.

Needs playwright and a Chromium: the one that CHROMIUM names, or `chromium`, `chromium-browser`, `google-chrome`.
"""

import dataclasses
import os
import shutil

import cv2
import numpy as np
import pytest

from cracks_jax.report import page as report_page
from cracks_jax.report.model import Cell, Picture, PictureRow, Pictures
from tests.report import sample

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: CHROMIUM names none, and there is no {NAMES}")
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return report_page.write(sample.report(), tmp_path_factory.mktemp("report"))[0].as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page (or another) in a window of its own. At the end: no error, and nothing asked of the outside."""
    contexts, wrong = [], []

    def new(url=address, width=1280, height=900, **settings):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"a name was run: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(f"asked for {r.url}"))
        page.goto(url)
        return page

    yield new
    for context in contexts:
        context.close()
    assert not wrong


def test_loads_without_errors_or_requests(opened):
    page = opened()
    assert page.title().endswith(sample.NASTY)
    page.mouse.wheel(0, 9000)
    page.wait_for_function("scrollY > 500")


def test_policy_forbids_requests(browser, address):
    page = browser.new_page()
    page.goto(address)
    assert page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'forbidden')") == "forbidden"
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("document.body.append(Object.assign(new Image(), { src: 'https://example.org/a.png' }))")
    page.close()


def _column(page, table, number):
    return [t.split("\n")[0] for t in page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()]


def test_sorts_numbers_both_ways_with_the_missing_last(opened):
    page = opened()
    head = page.locator("#scores thead th").nth(1)
    assert _column(page, "scores", 2) == ["49.0", "missing", "41.1", "74.0"] and head.get_attribute("aria-sort") is None
    head.locator(".sort").click()
    assert _column(page, "scores", 2) == ["41.1", "49.0", "74.0", "missing"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator(".sort").press("Enter")
    assert _column(page, "scores", 2) == ["74.0", "49.0", "41.1", "missing"]
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("#scores .sort").nth(2).click()
    assert _column(page, "scores", 3) == ["25.9", "32.5", "33.0", "nan"], "a number that is none has no place"
    assert head.get_attribute("aria-sort") is None


def test_sorts_texts_as_readers_do_and_keeps_order_among_equals(opened):
    page = opened()
    page.locator("#scores-2 .sort").first.click()
    assert _column(page, "scores-2", 1) == ["9 road", "10 road", "A road", "b road", "é road"]
    for _ in range(2):  # "length of class 0" is the same in every row, whichever way
        page.locator("#scores-2 .sort").nth(1).click()
        assert _column(page, "scores-2", 1) == ["9 road", "10 road", "A road", "b road", "é road"]


def test_filters_rows_and_counts_them(opened):
    page = opened()
    page.locator("#scores-2 input").fill("ROAD 27")
    assert page.locator("#scores-2 tbody tr:visible").count() == 1
    assert page.locator("#scores-2 output").inner_text() == "1 of 5 rows"
    page.locator("#scores-2 input").fill("")
    assert page.locator("#scores-2 tbody tr:visible").count() == 5
    assert page.locator("#scores-2 output").inner_text() == ""


def test_metric_convention_chooses_columns(opened):
    page = opened()
    heads = page.locator("#scores thead th:visible .sort")
    assert heads.all_inner_texts() == ["method", "F1", "IoU"]
    page.locator("#scores select").select_option("BSDS")
    assert heads.all_inner_texts() == ["method", "ODS"]
    assert page.locator("#scores tbody tr").first.locator("> :visible").count() == 2


def test_definition_opens_in_one_click_and_escape_returns(opened):
    page = opened()
    button = page.get_by_role("button", name="What F1 means")
    button.click()
    note = page.locator(".term:visible")
    assert note.count() == 1 and "Harmonic mean" in note.inner_text() and sample.NASTY in note.inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".term:visible").count() == 0
    assert button.evaluate("button => button === document.activeElement")
    button.press("Enter")
    page.locator(".term:visible button").click()
    assert page.locator(".term:visible").count() == 0


def _shown(page):
    return page.locator("#viewer .stage svg").get_attribute("aria-label").replace(sample.NASTY, "").strip()


def test_enlarges_and_steps_by_keyboard(opened):
    page = opened()
    first = page.locator("#answers .enlarge").first
    first.focus()
    page.keyboard.press("Enter")
    caption = page.locator("#viewer-caption")
    assert _shown(page) == "photograph 0" and "road 0" in caption.inner_text()
    for key, expected in [
        ("ArrowLeft", "photograph 0"), ("ArrowRight", "mask 0"), ("ArrowDown", "mask 2"), ("ArrowDown", "mask 2"),
        ("ArrowUp", "mask 0"), ("ArrowRight", "answer 0"), ("ArrowRight", "photograph 1"), ("ArrowRight", "answer 1"),
        ("ArrowLeft", "photograph 1"), ("ArrowUp", "photograph 0"),
    ]:  # fmt: skip
        page.keyboard.press(key)
        assert _shown(page) == expected, key
    assert page.locator("#viewer [data-step=ArrowLeft]").is_disabled()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert first.evaluate("button => button === document.activeElement")


def test_drawing_enlarges_and_closes_by_its_button(opened):
    page = opened()
    before = page.locator("#losses svg").bounding_box()
    page.locator("#losses .enlarge").click()
    after = page.locator("#viewer .stage svg").bounding_box()
    assert after["width"] > 2 * before["width"]
    page.locator("#viewer [data-close]").click()
    assert not page.locator("#viewer").is_visible()
    page.locator("#losses .enlarge").press("Space")
    assert page.locator("#viewer").is_visible()
    assert not page.locator("#viewer [data-colours]").is_visible(), "a drawing has no answer's colours"


def test_colours_change_while_enlarged(opened):
    page = opened()
    page.locator("#answers .answer").first.click()
    for palette in reversed(report_page.PALETTES):
        page.locator("#viewer [data-colours]").click()
        assert palette.words[1] in page.locator("#viewer .legend").inner_text()


def _pixel(page, svg, x, y):
    """The colour on the screen at the middle of a picture's pixel."""
    place = svg.evaluate("(s, [x, y]) => { const p = new DOMPoint(x + .5, y + .5).matrixTransform(s.getScreenCTM()); "
                         "return [p.x, p.y] }", [x, y])  # fmt: skip
    screen = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    return tuple(int(v) for v in screen[int(place[1]), int(place[0])][::-1])


@pytest.mark.parametrize("enlarged", [False, True])
def test_palettes_are_exact_to_the_pixel(opened, enlarged):
    page = opened()
    for palette in report_page.PALETTES:
        page.locator(f"#colours-{palette.name}").check()
        svg = page.locator("#answers svg[aria-label='answer 0']").first
        svg.scroll_into_view_if_needed()
        if enlarged:
            svg.click()
            svg = page.locator("#viewer .stage svg")
        page.wait_for_function("svg => svg.classList.contains('crisp')", arg=svg.element_handle())
        for ((x, y), _), colour in zip(sample.BLOCKS.values(), palette.colours, strict=True):
            assert _pixel(page, svg, x, y) == colour
            assert _pixel(page, svg, x, 5) == colour, "a hairline too"
        behind = _pixel(page, svg, 80, 55)
        assert len(set(behind)) == 1 and behind[0] < 40, "the photograph is dark and grey"
        legend = page.locator("#answers .legend").first
        assert all(word in legend.inner_text() for word in palette.words)
        swatches = legend.locator(".swatch").evaluate_all("all => all.map(s => getComputedStyle(s).backgroundColor)")
        assert swatches == [f"rgb{colour}" for colour in palette.colours]
        page.keyboard.press("Escape")


def test_hairline_of_a_large_picture_is_seen_when_small(opened, tmp_path):
    """Shown at a quarter of its size: neither lost between pixels nor faded away."""
    layer = np.zeros((600, 1000, 4), np.uint8)
    for at in range(50, 600, 53):
        layer[at, 100:900] = (0, 0, 255, 255)
    picture = Picture("hairlines", 1000, 600, cv2.imencode(".png", layer)[1].tobytes(), answer=True)
    figure = Pictures("fine", "Fine", ("a", "b", "c", "d"), (PictureRow("r", (picture,)),))
    report = dataclasses.replace(sample.report(), figures=(figure,))
    page = opened(report_page.write(report, tmp_path)[0].as_uri(), width=1100)
    svg = page.locator("#fine svg.picture")
    assert svg.bounding_box()["width"] < 300
    shot = cv2.imdecode(np.frombuffer(svg.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    seen = shot[2:-2, shot.shape[1] // 2, 2] > 128
    assert np.sum(seen[1:] & ~seen[:-1]) == len(range(50, 600, 53))


def test_phone_scrolls_only_tables(opened):
    page = opened(width=375, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    wide = page.locator("#scores-2 .scroll")
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth + 100")
    svg = page.locator("#answers svg.picture").first
    assert svg.bounding_box()["width"] >= 140
    svg.click()
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 375


@pytest.mark.parametrize("width", [375, 1280])
def test_a_name_of_any_length_breaks_no_layout(opened, tmp_path, width):
    """A run's folder may be called by 250 letters without a space: it wraps wherever it stands."""
    name = "upcracknet" * 25
    report = sample.report()
    table, grid = report.tables[0], report.figures[2]
    row = dataclasses.replace(table.rows[0], cells=(Cell(name, name, name), *table.rows[0].cells[1:]))
    picture_row = dataclasses.replace(grid.rows[0], label=name, note=name)
    long = dataclasses.replace(
        report,
        problems=(f"{name}: not finished",),
        runs=(dataclasses.replace(report.runs[0], name=name), report.runs[1]),
        tables=(dataclasses.replace(table, rows=(row, *table.rows[1:])),),
        figures=(dataclasses.replace(grid, title=name, columns=(*grid.columns[:2], name), rows=(picture_row,)),),
    )
    page = opened(report_page.write(long, tmp_path)[0].as_uri(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first = page.locator("tbody th").filter(has_text=name).first
    assert first.evaluate("cell => cell.clientWidth") <= 400, "the name does not push its numbers out of sight"
    beyond = page.evaluate(
        "[...document.querySelectorAll('figcaption, .row-head, h3, nav a, .problems li, dd, tbody th')].filter(one =>"
        " one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline').length"
    )
    assert beyond == 0


CONTRASTS = """selectors => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
      .map((v) => v / 255).map((v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "none";
  };
  return selectors.map((selector) => {
    const e = document.querySelector(selector);
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return [selector, (a + .05) / (b + .05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_suffices(opened, scheme):
    page = opened(color_scheme=scheme)
    selectors = [
        ".lead", "nav a", ".problems li", ".whole", ".broken", "dt", "dd", ".command code", "tr.floor td small",
        "tr.paper td", "span.kind", "caption span", ".what", "figcaption", ".legend", ".plot svg",
    ]  # fmt: skip
    found = page.evaluate(CONTRASTS, selectors)
    assert all(ratio >= 4.5 for _, ratio in found), found
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, dark[4:-1].split(","))) < 60) == (scheme == "dark")


def test_prints_everything_on_white(opened):
    page = opened(color_scheme="dark")
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 1
    page.emulate_media(media="print")
    assert page.locator("nav, .filter, .copy, .what, fieldset").locator("visible=true").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.get_by_text("training.steps").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("details").first.get_attribute("open")


def test_every_picture_has_a_text_alternative(opened):
    page = opened()
    buttons = page.locator("button.enlarge")
    names = [page.get_by_role("button", name=name).count() for name in ("photograph 2", "answer alone", "A loss that")]
    assert buttons.count() == 2 + 8 + 2 and names == [1, 1, 2]
    assert page.locator("main svg:not([aria-label])").count() == 0


def test_keyboard_skips_to_the_content(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_command_is_copied_or_selected(opened):
    page = opened()
    button = page.locator(".copy").first
    button.click()
    page.wait_for_function("button => ['Copied', 'Selected'].includes(button.textContent)", arg=button.element_handle())


def test_everything_is_there_without_script(opened):
    page = opened(java_script_enabled=False)
    for text in ("ODS", "IoU", "What is not whole", "stopped at step 120 of 2,400", "The caption.", "2 P R / (P + R)"):
        assert page.get_by_text(text).first.is_visible(), text
    assert page.locator("#scores thead th:visible").count() == 4, "all conventions, as nothing could choose one"
    assert page.locator(".controls:visible, .copy:visible").count() == 0
    page.locator("summary").first.click()
    assert page.get_by_text("training.steps").is_visible()
    page.get_by_role("button", name="What F1 means").click()
    assert page.locator(".term:visible").count() == 1
    page.keyboard.press("Escape")
    page.locator("#colours-safe").check()
    assert page.get_by_text("sky blue").first.is_visible()
