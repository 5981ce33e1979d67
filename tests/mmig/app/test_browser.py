"""The page in a real Chromium: what a visitor sees and clicks. `make app-test`; `install.sh` beside it installs one."""

import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mmig.app.examples import Examples
from mmig.app.handlers import Handlers
from mmig.app.page import Page as AppPage
from mmig.app.serve import served
from mmig.app.systems import System, open_systems
from tests.mmig.app.conftest import CPU, encoded, picture

pytestmark = pytest.mark.browser
PATIENCE = 90_000
"""Milliseconds that a machine with other work may take for an edit."""
FIRST_EDIT = 10
"""Seconds that are promised for the first edit, on two cores. Here they are those of a core, so that other programs on
the machine do not count."""
DARK, LIGHT = "dark", "light"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "there is no chromium: run tests/mmig/app/install.sh"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def two(system: System, examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Handlers:
    """The tiny editor beside an untrained MMIG, which writes a description and shows where it looked."""
    other = open_systems(["configs/demo/stage1.yaml"], CPU)[0]
    return Handlers([system, other], examples, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def address_of_two(two: Handlers, uploaded: Path) -> Iterator[str]:
    with served(AppPage(two)) as url:
        yield url


def opened(browser: Browser, address: str, width: int = 1280, scheme: str = LIGHT) -> Page:
    """The page of a new visitor; it asks no other host for anything, and has no errors in its console."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.errors, page.hosts = [], set()  # for `close`
    page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda asked: page.hosts.add(urlsplit(asked.url).hostname))
    page.goto(address)
    expect(page.locator("#go")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#picture img")).to_be_visible(timeout=PATIENCE)
    return page


def close(page: Page) -> None:
    assert page.errors == []
    assert page.hosts - {None, ""} == {"127.0.0.1"}
    page.context.close()


def wait_for(page: Page, text: str) -> None:
    """Until the status says so."""
    expect(page.locator("#status")).to_contain_text(re.compile(text), timeout=PATIENCE)


def set_steps(page: Page, name: str, steps: int) -> None:
    page.locator("button.label-wrap", has_text=name).click()
    field = page.get_by_label("Steps").locator("visible=true").first
    field.fill(str(steps))
    field.press("Tab")


def test_the_first_edit_is_one_click_and_a_few_seconds_away(browser: Browser, address: str) -> None:
    page = opened(browser, address)
    expect(page.locator("#instruction textarea")).to_have_value("paint the orange square purple")
    begun = time.process_time()  # of the server, which is in this process
    page.click("#go")
    expect(page.locator("#results .is-edit img")).to_be_visible(timeout=PATIENCE)
    seconds = time.process_time() - begun
    wait_for(page, "Done")
    for tile in ("Source", "Edit", "Difference"):
        shown = page.locator("#results .tile", has=page.get_by_text(tile, exact=True)).locator("img")
        assert shown.evaluate("image => image.complete && image.naturalWidth") == 64
    expect(page.locator("#results .verdict .good")).to_have_count(2)
    page.click("#results summary")
    expect(page.locator("#results pre")).to_contain_text(
        "python edit.py --config configs/editors/tiny_instruction.yaml"
    )
    assert seconds < FIRST_EDIT
    close(page)


def test_two_systems_stand_side_by_side_on_one_seed_and_a_word_shows_where_it_was_looked_for(
    browser: Browser, address_of_two: str
) -> None:
    page = opened(browser, address_of_two)
    page.click("#go")
    wait_for(page, "2 edits are done")
    cards = page.locator("#results article[data-system]")
    expect(cards).to_have_count(2)
    assert [cards.nth(number).get_attribute("data-seed") for number in (0, 1)] == ["0", "0"]
    boxes = [cards.nth(number).bounding_box() for number in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    writer = page.locator("#results article[data-system=stage1]")
    words, maps = writer.locator(".word"), writer.locator(".map")
    assert words.count() >= 2
    expect(maps.nth(0)).to_be_visible()
    expect(maps.nth(1)).to_be_hidden()
    words.nth(1).click()
    expect(maps.nth(1)).to_be_visible()
    expect(maps.nth(0)).to_be_hidden()
    close(page)


def test_cancel_stops_between_two_steps_and_the_next_edit_goes_on(
    browser: Browser, address: str, handlers: Handlers
) -> None:
    page = opened(browser, address)
    set_steps(page, "Settings", 1_000)
    page.click("#go")
    wait_for(page, r"Denoising: step [1-9]")
    page.click("#cancel")
    wait_for(page, "Stopped")
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#go")).to_be_enabled()
    set_done(handlers)
    page.get_by_label("Steps").locator("visible=true").first.fill("2")
    page.click("#go")
    wait_for(page, "Done")
    close(page)


def set_done(handlers: Handlers) -> None:
    """Wait until nothing is being worked at, in a time in which a thousand steps are not done."""
    deadline = time.monotonic() + 20
    while handlers.desk.busy:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_closed_page_stops_its_edit(browser: Browser, address: str, handlers: Handlers) -> None:
    page = opened(browser, address)
    set_steps(page, "Settings", 1_000)
    page.click("#go")
    wait_for(page, r"Denoising: step [1-9]")
    assert handlers.desk.busy
    page.context.close()
    set_done(handlers)


def test_a_bad_upload_is_refused_in_a_sentence_and_a_good_one_is_edited(browser: Browser, address: str) -> None:
    page = opened(browser, address)
    chooser = page.locator("#picture input[type=file]")
    page.get_by_label("Clear").first.click() if not chooser.count() else None
    chooser = page.locator("#picture input[type=file]").first
    chooser.set_input_files({"name": "holiday.png", "mimeType": "image/png", "buffer": b"this is no picture"})
    page.wait_for_function("document.querySelector('#picture img')?.src.includes('holiday') ?? true")
    page.click("#go")
    refusal = page.locator("#status [role=alert]")
    expect(refusal).to_have_text(
        "Picture: this is no picture that can be read; give a PNG, JPEG or WebP.", timeout=PATIENCE
    )
    page.errors.clear()  # of the browser, which cannot show it either
    chooser.set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": encoded(picture(3, 96))})
    page.wait_for_function("document.querySelector('#picture img')?.src.includes('mine') ?? false")
    page.click("#go")
    wait_for(page, "Done")
    assert page.locator("#results .is-edit img").evaluate("image => image.naturalWidth") == 96
    expect(page.locator("#results .verdict")).to_have_count(0)
    close(page)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_a_narrow_screen_shows_all_of_it_in_both_schemes(browser: Browser, address: str, scheme: str) -> None:
    page = opened(browser, address, width=400, scheme=scheme)
    page.click("#go")
    wait_for(page, "Done")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for place in ("#go", "#instruction textarea", "#results .is-edit img", "#examples"):
        box = page.locator(place).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
    for place in ("#status .status", "#results header strong", "#results .good", "#results figcaption"):
        assert contrast(page, place) >= 4.5, place
    assert (luminance(background(page, "body")) < 0.2) == (scheme == DARK)
    close(page)


def colours(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"[\d.]+", text))


def background(page: Page, place: str) -> tuple[float, ...]:
    """Of the nearest element that has one."""
    script = """element => {
        for (let found = element; found; found = found.parentElement) {
            const colour = getComputedStyle(found).backgroundColor;
            if (colour !== 'rgba(0, 0, 0, 0)' && colour !== 'transparent') return colour;
        }
        return 'rgb(255, 255, 255)';
    }"""
    return colours(page.locator(place).first.evaluate(script))


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance, WCAG 2.2."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in colour[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Page, place: str) -> float:
    """Contrast ratio of a text with what is behind it, WCAG 2.2."""
    text = colours(page.locator(place).first.evaluate("element => getComputedStyle(element).color"))
    light, dark = sorted((luminance(text), luminance(background(page, place))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_grid_over_two_guidance_scales(browser: Browser, address: str) -> None:
    page = opened(browser, address)
    set_steps(page, "Settings", 2)
    page.get_by_role("tab", name="Guidance grid").click()
    values = page.get_by_label("Values").locator("visible=true")
    values.nth(0).fill("1, 5")
    values.nth(1).fill("1, 1.5, 2")
    page.click("#draw")
    wait_for(page, "6 edits are done")
    expect(page.locator("#cells tbody img")).to_have_count(6)
    sources = page.locator("#cells tbody img").evaluate_all("images => images.map(image => image.src)")
    assert len(set(sources)) == 6
    close(page)


def test_an_example_is_loaded_and_the_history_can_be_taken_along(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    page = opened(browser, address)
    set_steps(page, "Settings", 2)
    page.locator("#examples").get_by_text("put a large pink square at the bottom").click()
    expect(page.locator("#instruction textarea")).to_have_value("put a large pink square at the bottom")
    page.click("#go")
    wait_for(page, "Done")
    with page.expect_download() as begun:
        page.click("#results .fetch")
    begun.value.save_as(tmp_path / "edit.zip")
    with zipfile.ZipFile(tmp_path / "edit.zip") as archive:
        assert {"edited/edited.png", "edited/source.png", "edited/command.txt"} <= {*archive.namelist()}
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#history li")).to_contain_text("put a large pink square at the bottom")
    other = opened(browser, address)
    other.get_by_role("tab", name="History").click()
    expect(other.locator("#history")).to_contain_text("Nothing yet")
    close(other)
    close(page)
