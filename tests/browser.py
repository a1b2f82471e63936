"""A real headless Chromium for tests, and what a person does with a page in it."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)",
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)
DESKTOP, PHONE = (1280, 900), (360, 740)


class Browser:
    """Chromium with a page open."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address
        self.run = driver.execute_script

    def open(self, size=DESKTOP, *, dark=False, media=""):
        command = self.driver.execute_cdp_cmd
        phone = size == PHONE
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": phone}
        command("Emulation.setDeviceMetricsOverride", screen)
        command("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        command("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
        self.driver.get(self.address)
        return self

    def find(self, selector, index=0):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)[index]

    def see(self, element):
        """Scrolls it to the middle of the window; what is seen of it, [H, W, 3], and its box there."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        box = self.run("return arguments[0].getBoundingClientRect().toJSON()", element)
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
        return pixels[round(box["top"]) : round(box["bottom"]), round(box["left"]) : round(box["right"])], box

    def wide(self, apart_from):
        """What reaches beyond the window, or is cut, but for elements inside of the selector `apart_from`."""
        return self.run(
            "return [...document.querySelectorAll('body *')].filter(e => !e.closest(arguments[0])"
            " && (e.getBoundingClientRect().right > innerWidth || e.clientWidth && e.scrollWidth > e.clientWidth + 1))"
            ".map(e => e.outerHTML.slice(0, 80))",
            apart_from,
        )

    def requests(self):
        """Addresses of all requests since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {url.split("#")[0] for url in urls if not url.startswith("data:")}


@pytest.fixture(scope="module", name="driver")
def driver_fixture(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))  # its path: selenium fetches no driver
    driver.get("data:,")
    yield driver
    driver.quit()
