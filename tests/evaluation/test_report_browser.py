"""The report in a real headless Chromium: sliders, zoom, trajectories, phones, and no network.

Plain red (degraded), green (restored) and blue (clean) images let the tests name the pixels on the screen.
"""

import base64
import io
import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_sample import BLUE, GREEN, RED, sample_report
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from webserver import Site, serving

from evaluation.report_page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)",
)

DESKTOP, PHONE = (1280, 900), (360, 740)
OPEN = "return document.getElementById('zoom').open"


class Browser:
    """Chromium with the report open, and what a person would do to it."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def open(self, size=DESKTOP, *, touch=False, dark=False, calm=False):
        command = self.driver.execute_cdp_cmd
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": touch}
        command("Emulation.setDeviceMetricsOverride", screen)
        command("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        wishes = {"prefers-color-scheme": "dark" if dark else "light"}
        wishes["prefers-reduced-motion"] = "reduce" if calm else "no-preference"
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        command("Emulation.setEmulatedMedia", {"media": "", "features": features})
        self.driver.get(self.address)
        return self

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector, index=0):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)[index]

    def see(self, element):
        """Scrolls it to the middle of the window; what is seen of it, [H, W, 3], and its box there."""
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        box = self.run("return arguments[0].getBoundingClientRect().toJSON()", element)
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
        return pixels[round(box["top"]) : round(box["bottom"]), round(box["left"]) : round(box["right"])], box

    def share(self, box, colour):
        """Which share of the width shows this colour, along a line above handle and badges."""
        pixels, _ = self.see(box)
        row = pixels[len(pixels) // 4].astype(int)
        return float(np.mean(np.abs(row - colour).max(axis=1) <= 3))


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))  # its path: selenium fetches no driver
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, sample_report())
    return path.as_uri()


@pytest.fixture
def browser(driver, address):
    """Whatever a test does: nothing on the console, no request but the page itself."""
    driver.get_log("browser")
    driver.get_log("performance")
    yield Browser(driver, address)
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert address in requests
    assert {url.split("#")[0] for url in requests if not url.startswith("data:")} == {address}


def test_all_images_load(browser):
    browser.open()
    sizes = browser.run(
        "return [...document.images].filter(i => i.hasAttribute('src')).map(i => [i.complete, i.naturalWidth])"
    )
    assert len(sizes) == 3 * (6 + 2 + 2) + 3 + 6
    assert all(complete and width in (64, 192) for complete, width in sizes)


def test_pointer_drags_the_slider_and_pixels_follow(browser):
    browser.open()
    box, slider = browser.find(".compare"), browser.find(".compare input")
    assert browser.share(box, RED) == pytest.approx(0.5, abs=0.02)
    _, place = browser.see(box)
    actions = ActionChains(browser.driver).move_to_element(slider).click_and_hold()
    actions.move_by_offset(round(place["width"] / 4), 0).release().perform()
    assert browser.share(box, RED) == pytest.approx(0.75, abs=0.02)
    assert browser.share(box, GREEN) == pytest.approx(0.25, abs=0.02)
    assert float(slider.get_property("value")) == pytest.approx(75, abs=1)
    ActionChains(browser.driver).move_to_element_with_offset(box, -round(place["width"] / 2) + 2, 40).click().perform()
    assert browser.share(box, GREEN) > 0.97  # a click moves it there, to the very edge


def test_keyboard_moves_the_slider_and_says_so(browser):
    browser.open()
    box, slider = browser.find(".compare"), browser.find(".compare input")
    browser.see(box)
    browser.run("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    moved = float(slider.get_property("value"))
    assert moved > 50
    assert slider.get_attribute("aria-valuetext") == f"{round(moved)} % degraded, {100 - round(moved)} % restored"
    assert browser.share(box, RED) == pytest.approx(moved / 100, abs=0.02)
    slider.send_keys(Keys.ARROW_LEFT)
    assert float(slider.get_property("value")) < moved
    slider.send_keys(Keys.HOME)
    assert browser.share(box, GREEN) > 0.97
    slider.send_keys(Keys.END)
    assert browser.share(box, RED) > 0.97


def test_finger_drags_sideways_and_still_scrolls_the_page(browser):
    browser.open(PHONE, touch=True)
    box = browser.find(".compare")
    _, place = browser.see(box)
    middle = [place["left"] + place["width"] / 2, place["top"] + place["height"] / 2]

    def swipe(dx, dy):
        touch = "Input.dispatchTouchEvent"
        browser.driver.execute_cdp_cmd(touch, {"type": "touchStart", "touchPoints": [dict(zip("xy", middle))]})
        for i in range(1, 11):
            at = {"x": middle[0] + dx * i / 10, "y": middle[1] + dy * i / 10}
            browser.driver.execute_cdp_cmd(touch, {"type": "touchMove", "touchPoints": [at]})
        browser.driver.execute_cdp_cmd(touch, {"type": "touchEnd", "touchPoints": []})

    before = browser.run("return scrollY")
    swipe(-place["width"] / 4, 0)
    assert browser.share(box, RED) == pytest.approx(0.25, abs=0.03)
    assert browser.run("return scrollY") == before
    swipe(0, -200)
    WebDriverWait(browser.driver, 5).until(lambda _: browser.run("return scrollY") > before + 100)


def test_left_of_the_sliders_can_be_the_clean_image(browser):
    browser.open()
    box = browser.find(".compare")
    choice = browser.find("input[name=left][value=clean]")
    browser.see(choice)  # in sight first: the page glides, and a click would meet it on its way
    choice.click()
    assert browser.share(box, BLUE) == pytest.approx(0.5, abs=0.02)
    assert browser.share(box, RED) == 0
    assert "clean" in browser.find(".compare input").get_attribute("aria-valuetext")


def test_zoom_flips_scales_and_closes_with_focus_back(browser):
    browser.open()
    button = browser.find("[data-zoom]")
    browser.see(button)
    browser.run("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert browser.run(OPEN)
    image, keyboard = browser.find("#zoom-view img"), browser.driver.switch_to.active_element
    assert browser.find("#zoom-title").text == "colours"
    assert browser.run("return getComputedStyle(arguments[0]).imageRendering", image) == "pixelated"

    def shown():
        pixels, place = browser.see(image)
        return tuple(pixels[len(pixels) // 2, pixels.shape[1] // 2]), round(place["width"])

    colour, width = shown()
    assert colour == GREEN
    assert width >= 2 * 64
    assert width % 64 == 0
    keyboard.send_keys(Keys.ARROW_LEFT)  # the choice has the focus: arrows flip
    assert shown() == (RED, width)
    keyboard = browser.driver.switch_to.active_element
    keyboard.send_keys(Keys.ARROW_LEFT)
    assert shown() == (BLUE, width)
    browser.driver.switch_to.active_element.send_keys("-")
    assert shown()[1] < width
    browser.find("#zoom-in").click()
    assert shown()[1] == width
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.run(OPEN)
    assert browser.driver.switch_to.active_element == button
    button.click()
    browser.find("#zoom-close").click()
    assert not browser.run(OPEN)
    assert browser.driver.switch_to.active_element == button


def test_zoom_on_a_phone_is_twice_the_size_and_scrolls_inside(browser):
    browser.open(PHONE, touch=True)
    browser.run("document.querySelectorAll('[data-zoom]')[1].click()")
    sizes = browser.run(
        "const v = document.getElementById('zoom-view'), i = v.querySelector('img');"
        "return [i.width, v.clientWidth, v.scrollWidth, v.scrollLeft,"
        " document.getElementById('zoom').getBoundingClientRect().right, document.documentElement.scrollWidth]"
    )
    width, seen, scrollable, at, right, page = sizes
    assert width == 2 * 192
    assert seen < scrollable == width
    assert at == pytest.approx((scrollable - seen) / 2, abs=1)  # opens at the centre
    assert right <= 360
    assert page == 360
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)


def test_trajectory_steps_and_plays_to_its_end(browser):
    browser.open()
    box = browser.find(".trajectory .frames")
    button, slider = browser.find(".trajectory button"), browser.find(".trajectory input")
    assert browser.share(box, RED) == 1
    browser.run("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.share(box, GREEN) == 1
    assert slider.get_attribute("aria-valuetext") == "step 1 of 2"
    slider.send_keys(Keys.END)
    assert browser.share(box, BLUE) == 1
    browser.run(
        "window.told = []; new MutationObserver(() => told.push(arguments[0].textContent))"
        ".observe(arguments[0], {childList: true})",
        button,
    )
    button.click()  # from the end it starts again
    WebDriverWait(browser.driver, 10).until(lambda _: browser.run("return told.length") >= 2)
    assert browser.run("return told") == ["Pause", "Play"]
    assert slider.get_property("value") == "2"
    assert browser.share(box, BLUE) == 1
    assert browser.find(".trajectory output").text.replace("\u2009", "") == "2/2"


def test_who_asked_for_no_motion_steps_by_hand(browser):
    browser.open(calm=True)
    button, slider = browser.find(".trajectory button"), browser.find(".trajectory input")
    browser.see(button)
    assert button.text == "Next"
    seen = []
    for _ in range(4):
        button.click()
        time.sleep(0.5)  # longer than a playing frame stays
        seen.append(slider.get_property("value"))
    assert seen == ["1", "2", "0", "1"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_page_never_scrolls_sideways_and_text_has_contrast(browser, size, dark):
    browser.open(size, touch=size == PHONE, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [size[0], size[0]]
    wide = browser.run(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .compare, svg, .unseen')"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(_rgb(background)) < 3 * 60) is dark
    pairs = browser.run(CONTRAST)
    assert len(pairs) > 20
    worst = min(pairs, key=lambda pair: _contrast(*map(_rgb, pair[:2])))
    assert _contrast(*map(_rgb, worst[:2])) >= 4.5, worst
    if size == PHONE:
        small = browser.run(
            "return [...document.querySelectorAll('main button, fieldset label, .player input')]"
            ".filter(e => e.getClientRects().length && e.getBoundingClientRect().height < 44).map(e => e.outerHTML)"
        )
        assert small == []


# [text colour, colour below it, where] of every element with a text of its own on an opaque ground
CONTRAST = """
const seen = new Map();
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own || !e.getClientRects().length || e.closest('.badge, title, .shot')) continue;
  let below = e;
  while (below && getComputedStyle(below).backgroundColor === 'rgba(0, 0, 0, 0)') below = below.parentElement;
  const style = getComputedStyle(e);
  const ink = e.closest('svg') ? style.fill : style.color;
  const ground = getComputedStyle(below).backgroundColor;
  const kind = [ink, ground, e.tagName, e.className.baseVal ?? e.className].join();
  seen.set(kind, [ink, ground, e.outerHTML.slice(0, 80)]);
}
return [...seen.values()];
"""


def _rgb(text):
    assert text.startswith("rgb("), text
    return [int(each) for each in text[4:-1].split(",")]


def _contrast(one, other):
    """The ratio of WCAG 2.2, 1 to 21."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_paper_and_browsers_without_script_show_all_versions_side_by_side(browser):
    def colours_on(media, script):
        browser.open()
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        browser.driver.get(browser.address)
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
        pixels, _ = browser.see(browser.find(".compare"))
        row = pixels[len(pixels) // 4].astype(int)
        return [float(np.mean(np.abs(row - colour).max(axis=1) <= 3)) for colour in (RED, GREEN, BLUE)]

    try:
        for media, script in (("print", True), ("screen", False)):
            assert colours_on(media, script) == pytest.approx([1 / 3] * 3, abs=0.03)
            shown = browser.driver.find_elements(By.CSS_SELECTOR, "main button, main input")
            assert not any(each.is_displayed() for each in shown)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_policy_stops_what_would_reach_the_network(driver, tmp_path):
    """The page with an image and a script of someone else's put in: nothing is loaded, nothing runs."""
    with serving(Site(content_type="image/png")) as site:
        write_report(tmp_path / "page.html", replace(sample_report(), gallery=[], worst=[], best=[], trajectories=[]))
        page = (tmp_path / "page.html").read_text("utf-8")
        foreign = f'<img src="{site.url}/x.png"><script>document.title = "taken"</script><link rel="stylesheet" href='
        changed = page.replace("<main>", f'<main>{foreign}"{site.url}/x.css">')
        assert changed != page
        (tmp_path / "page.html").write_text(changed, "utf-8")
        driver.get_log("browser")
        driver.get((tmp_path / "page.html").as_uri())
        told = [entry["message"] for entry in driver.get_log("browser")]
        assert site.requests == []
        assert driver.title == sample_report().title
        assert sum("Content Security Policy" in message for message in told) == 3, told
