"""The report in a real headless Chromium: sliders, trajectories, phones, paper, and no network.

Plain red (degraded), green (restored) and blue (clean) images let the tests name the pixels on the screen.
"""

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser, driver_fixture, needs_chromium  # noqa: F401
from report_sample import BLUE, GREEN, RED, sample_report
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from evaluation.report import render

pytestmark = needs_chromium


class Report(Browser):
    """Chromium with the report open, and what a person would do to it."""

    def shares(self, element):
        """Which shares of the width show red, green and blue, along a line above the slider's knob and the badges."""
        pixels, _ = self.see(element)
        row = pixels[len(pixels) // 4].astype(int)
        return [float(np.mean(np.abs(row - colour).max(axis=1) <= 3)) for colour in (RED, GREEN, BLUE)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(sample_report()), "utf-8")
    return path.as_uri()


@pytest.fixture
def browser(driver, address):
    """Whatever a test does: nothing on the console, no request but the page itself."""
    driver.get_log("browser")
    driver.get_log("performance")
    browser = Report(driver, address)
    yield browser
    assert driver.get_log("browser") == []
    assert browser.requests() == {address}


def test_pointer_and_keyboard_move_the_slider_and_pixels_follow(browser):
    browser.open()
    box, slider = browser.find(".compare"), browser.find(".compare input")
    assert browser.shares(box) == pytest.approx([0.5, 0.5, 0], abs=0.02)
    _, place = browser.see(box)
    actions = ActionChains(browser.driver).move_to_element(slider).click_and_hold()
    actions.move_by_offset(round(place["width"] / 4), 0).release().perform()
    assert browser.shares(box) == pytest.approx([0.75, 0.25, 0], abs=0.02)
    ActionChains(browser.driver).move_to_element_with_offset(box, -round(place["width"] / 2) + 2, 40).click().perform()
    assert browser.shares(box)[1] > 0.97  # a click moves it there, to the very edge
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert browser.shares(box)[0] == pytest.approx(float(slider.get_property("value")) / 100, abs=0.02)
    slider.send_keys(Keys.END)
    assert browser.shares(box)[0] > 0.97
    browser.find("input[name=left][value=clean]").click()
    assert browser.shares(box)[2] > 0.97
    browser.find("input[name=left][value=baseline]").click()
    assert sum(browser.shares(box)) < 0.03  # yellow


def test_finger_drags_sideways_and_still_scrolls_the_page(browser):
    browser.open(PHONE)
    box = browser.find(".compare")
    _, place = browser.see(box)
    middle = [place["left"] + place["width"] / 2, place["top"] + place["height"] / 2]

    def swipe(dx, dy):
        def send(kind, *points):
            browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

        send("touchStart", dict(zip("xy", middle)))
        for i in range(1, 11):
            send("touchMove", {"x": middle[0] + dx * i / 10, "y": middle[1] + dy * i / 10})
        send("touchEnd")

    before = browser.run("return scrollY")
    swipe(-place["width"] / 4, 0)
    assert browser.shares(box) == pytest.approx([0.25, 0.75, 0], abs=0.03)
    assert browser.run("return scrollY") == before
    swipe(0, -200)
    assert browser.run("return scrollY") > before + 100


def test_an_image_is_enlarged_to_the_size_of_the_window(browser):
    browser.open()
    box, button = browser.find(".compare"), browser.find(".card button")
    width = box.size["width"]
    button.click()
    assert box.size["width"] > 1.8 * width
    assert button.get_attribute("aria-pressed") == "true"
    assert browser.shares(box) == pytest.approx([0.5, 0.5, 0], abs=0.02)
    button.click()
    assert box.size["width"] == width


def test_a_trajectory_shows_one_step_at_a_time(browser):
    browser.open()
    box, slider = browser.find(".frames"), browser.find(".trajectory input")
    shown = [browser.shares(box)]
    browser.run("arguments[0].focus()", slider)
    for _ in range(2):
        slider.send_keys(Keys.ARROW_RIGHT)
        shown.append(browser.shares(box))
    assert shown == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_nothing_is_cut_and_colours_are_as_wished(browser, size, dark):
    browser.open(size, dark=dark)
    assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [size[0], size[0]]
    assert browser.wide(".compare") == []  # its slider is wider
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(19, 21, 25)" if dark else "rgb(246, 246, 244)")
    if size == PHONE:
        small = browser.run(
            "return [...document.querySelectorAll('button, label, .trajectory input')]"
            ".filter(e => e.getBoundingClientRect().height < 44).map(e => e.outerHTML)"
        )
        assert small == []


@pytest.mark.parametrize(("media", "script"), [("print", True), ("screen", False)])
def test_paper_and_browsers_without_script_show_all_versions_side_by_side(browser, media, script):
    try:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        browser.open(media=media)
        for box, versions in ((browser.find(".compare"), 4), (browser.find(".frames"), 3)):
            assert browser.shares(box) == pytest.approx([1 / versions] * 3, abs=0.03)
        shown = browser.driver.find_elements(By.CSS_SELECTOR, "button, input")
        assert not any(each.is_displayed() for each in shown)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
