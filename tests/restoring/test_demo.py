"""scripts/demo.py: its page in a real headless Chromium, and what it says where there can be none."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from bridges import photograph
from browser import DESKTOP, PHONE, Browser, driver_fixture, needs_chromium  # noqa: F401
from PIL import Image
from processes import ROOT, until
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import sample
from i2sb import export

sys.path.append(str(ROOT / "scripts"))
import demo

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason='gradio is not installed: pip install ".[demo]"'
)


class Page(Browser):
    """The page, and what a user does on it."""

    def all(self, selector, text=""):
        try:
            return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if text in found.text]
        except StaleElementReferenceException:  # the page is just changing it
            return []

    def click(self, selector, text=""):
        until(lambda: self.all(selector, text))
        self.all(selector, text)[0].click()

    def choose(self, checkpoint):
        until(lambda: self.all("code"))
        self.click("input[aria-label=Checkpoint]")
        self.click(f"[role=option][aria-label='{checkpoint}']")
        until(lambda: self.all("code", checkpoint))

    def upload(self, file):
        self.click("button[aria-label=Clear]")
        until(lambda: self.all("input[type=file]"))
        self.find("input[type=file]").send_keys(str(file))

    def give(self, file, nfe=2):
        """Upload a photograph; the page takes it as degraded."""
        self.upload(file)
        until(lambda: not self.find("input[type=checkbox]").is_selected())
        number = self.find("input[type=number]")
        number.send_keys(Keys.CONTROL + "a")
        number.send_keys(str(nfe), Keys.TAB)

    def restore(self):
        """Press the button; what is said about the result."""
        before = self.shown()
        self.click("button.primary")
        until(lambda: self.shown() not in (before, []))
        return self.all(".prose", " pixels")[0].text

    def shown(self):
        return [image.get_attribute("src") for image in self.all("[data-testid=imageslider-image]")]

    def download(self, folder):
        """The file that the button gives."""
        self.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        self.click("button", "Download")
        until(lambda: [path for path in folder.glob("*") if path.suffix != ".crdownload"])
        (path,) = folder.glob("*")
        return path

    def message(self):
        """What the page says has gone wrong."""
        until(lambda: self.all(".toast-body") and self.all(".toast-body")[0].text)  # it fades in
        text = self.all(".toast-body")[0].text
        self.run("document.querySelector('.toast-close')?.click()")
        until(lambda: not self.all(".toast-body"))
        return text


@pytest.fixture(scope="module")
def address(place, tmp_path_factory):
    """The page of the bridges in `place`; the server asks for nothing beyond this machine, and leaves no file."""
    left = tmp_path_factory.mktemp("left")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        beyond = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environ = os.environ | {"TMPDIR": str(left), "http_proxy": beyond, "https_proxy": beyond}
        command = [sys.executable, str(ROOT / "scripts/demo.py"), "--port", "0", "--device", "cpu"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        server = subprocess.Popen(command, cwd=place, env=environ, **pipes)
        yield server.stdout.readline().partition(" ")[0]
        server.terminate()
        _, said = server.communicate(timeout=60)
        assert server.returncode == 130
        assert said.splitlines()[-1] == "demo.py: interrupted"
        assert list(left.iterdir()) == []
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.fixture
def page(driver, address, place, monkeypatch):
    """Whatever a test does: the browser asks for nothing beyond this machine."""
    monkeypatch.chdir(place)
    page = Page(driver, address)
    page.requests()
    yield page.open(DESKTOP)
    assert all(url.startswith((address, f"blob:{address}")) for url in page.requests())


def by_sample(file, output, *more):
    """The file that sample.py makes with jpeg-10."""
    argv = ["--ckpt", "jpeg-10", "--nfe", "2", "--device", "cpu", "--input", file, "--output", output, *more]
    assert sample.main(list(map(str, argv))) == 0
    (path,) = (output / "restored" if more else output).glob(f"{file.stem}.*")
    return path.read_bytes()


@needs_chromium
@needs_gradio
def test_a_photograph_is_restored_as_by_sample_py(page, place, tmp_path):
    file = place / "pictures/a.jpg"
    page.choose("jpeg-10")
    page.give(file)
    assert page.restore() == "70x50 pixels · NFE 2"
    assert page.download(tmp_path / "given").read_bytes() == by_sample(file, tmp_path / "a")
    box = page.find(".slider-wrap")
    before, edges = page.see(box)
    ActionChains(page.driver).drag_and_drop_by_offset(page.find("[data-testid=slider]"), -100, 0).perform()
    moved = (page.see(box)[0] != before).any(axis=(0, 2)).nonzero()[0]
    assert abs(np.median(moved) - edges["width"] / 2 + 50) < 20  # what lies between its two places
    page.click("input[type=checkbox]")
    said = r"70x50 pixels · PSNR: the JPEG itself \d+\.\d\d dB, restored \d+\.\d\d dB · NFE 2"
    assert re.fullmatch(said, page.restore())
    assert page.download(tmp_path / "clean").read_bytes() == by_sample(file, tmp_path / "b", "--degrade")


@needs_chromium
@needs_gradio
def test_two_users_at_once_get_their_own(page, place, tmp_path):
    files, windows = [place / "pictures/a.jpg", place / "pictures/sub/alpha.webp"], []
    for file in files:
        if windows:
            page.driver.switch_to.new_window("tab")
            page.open(DESKTOP)
        windows.append(page.driver.current_window_handle)
        page.choose("jpeg-10")
        page.give(file)
    for window in windows:
        page.driver.switch_to.window(window)
        page.click("button.primary")
    for file, window in zip(files, windows):
        page.driver.switch_to.window(window)
        until(page.shown)
        assert page.download(tmp_path / file.stem).read_bytes() == by_sample(file, tmp_path / f"{file.stem}-out")
    page.driver.close()
    page.driver.switch_to.window(windows[0])


@needs_chromium
@needs_gradio
def test_a_hole_is_painted_and_filled(page, tmp_path):
    clean = photograph(96, 64)
    clean.save(tmp_path / "clean.png")
    page.choose("inpaint-center")
    page.give(tmp_path / "clean.png")
    page.click("button.primary")
    assert "paint over what is missing first" in page.message()
    canvas = page.find("canvas")
    page.see(canvas)
    ActionChains(page.driver).move_to_element(canvas).click_and_hold().move_by_offset(20, 0).release().perform()
    page.restore()
    changed = (np.asarray(Image.open(page.download(tmp_path / "filled"))) != np.asarray(clean)).any(axis=2)
    assert 0.01 < changed.mean() < 0.7
    assert not changed[:, [0, 1, 2, -3, -2, -1]].any()


@needs_chromium
@needs_gradio
def test_8000_pixels_pass_in_tiles_and_what_cannot_be_restored_is_said(page, tmp_path):
    (tmp_path / "wrong.png").write_text("no picture")
    photograph(8000, 24).save(tmp_path / "long.jpg")
    Image.new("1", (8000, 3000)).save(tmp_path / "large.png")
    page.choose("jpeg-10")
    page.give(tmp_path / "long.jpg", nfe=1)
    assert page.restore() == "8000x24 pixels · NFE 1"
    page.upload(tmp_path / "wrong.png")
    assert "it is no picture that Pillow reads" in page.message()
    page.choose("sr4x-pool")
    page.upload(tmp_path / "large.png")
    until(lambda: page.all("button[aria-label=Clear]"))
    page.click("button.primary")
    until(lambda: any("32000x12000 pixels" in each.text for each in page.all(".toast-body")))


@needs_chromium
@needs_gradio
def test_on_a_phone_nothing_is_cut(page):
    page.open(PHONE)
    until(lambda: page.all("code"))
    assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert page.wide("[data-testid=status-tracker], .stem, .label-wrap") == []  # .stem: a file's name with an ellipsis


@pytest.mark.parametrize("missing", ["gradio", "checkpoint", "port", "address"])
def test_where_there_can_be_no_page_one_line_says_why(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "demos", dict)
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    sys.modules["gradio"].__spec__ = ModuleSpec("gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if missing == "port" else 0
        if missing == "gradio":
            monkeypatch.setitem(sys.modules, "gradio", None)
        host = "203.0.113.1" if missing == "address" else "127.0.0.1"
        assert demo.main(["--port", str(port), "--host", host, "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert {"gradio": "pip install", "checkpoint": "no checkpoint there", "port": "another program listens"}.get(
        missing, "cannot listen there"
    ) in line
