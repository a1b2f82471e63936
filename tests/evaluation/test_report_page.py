"""The report as a document: what is in it, what it may load, what hostile names do, and its curves."""

import base64
import io
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report_sample import HOSTILE, colours, plain, sample_report

from evaluation.report import Report, render
from evaluation.sweep import Point, draw_curves
from evaluation.table import Score


class Page(HTMLParser):
    """Tags with their attributes, and the text inside each kind of tag, as a browser's parser sees them."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.texts, self._inside = [], {}, []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, text):
        for tag in self._inside:
            self.texts[tag][-1] += text

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def images(self, kinds="png|jpeg"):
        """(kind, bytes) of the images in order."""
        found = [re.fullmatch(r"data:image/([^;]+);base64,(.+)", attributes["src"]) for attributes in self.all("img")]
        return [(f[1], base64.b64decode(f[2], validate=True)) for f in found if re.fullmatch(kinds, f[1])]


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def squeezed(text):
    return re.sub(r"\s+", " ", text).strip()


@pytest.fixture(scope="module")
def document():
    return render(sample_report())


@pytest.fixture(scope="module")
def page(document):
    return Page(document)


def test_every_image_is_there_pixel_by_pixel(page):
    report = sample_report()
    cases = [*report.gallery, *report.worst, *report.best]
    expected = [image for case in cases for image in (case.degraded, case.baseline, case.restored, case.clean)]
    expected += [frame for _, frames in report.trajectories for frame in frames]
    found = page.images()
    assert len(found) == len(expected)
    for (kind, content), truth in zip(found, expected):
        assert kind == "png"
        np.testing.assert_array_equal(pixels(content), truth)
    assert all(attributes["alt"] for attributes in page.all("img"))


def test_nothing_outside_is_named(document, page):
    links = {value for _, each in page.tags for name, value in each.items() if name in ("src", "href")}
    assert all(re.match(r"#[a-z0-9-]+$|data:(image/|,)", value) for value in links)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'; img-src data:" in policy
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|eval\(", document)


def test_hostile_texts_stay_texts(page):
    report = Report(
        HOSTILE,
        {HOSTILE: HOSTILE, "list": [HOSTILE]},
        {HOSTILE: {HOSTILE: Score(1.0, HOSTILE)}},
        curves=[Point(1, 0.5, {HOSTILE: Score(1.0)}), Point(2, 0.7, {HOSTILE: Score(2.0)})],
        gallery=[colours(HOSTILE, **{HOSTILE: (3.0, 2.0)})],
        worst=[colours(HOSTILE)],
        trajectories=[(HOSTILE, [plain(0)])],
        ranked_by=HOSTILE,
        baseline=HOSTILE,
    )
    usual, page = page, Page(render(report))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 4 + 4 + 1 + 1
    assert {name for _, a in page.tags for name in a} <= {name for _, a in usual.tags for name in a}
    assert page.texts["title"] == page.texts["h1"] == [HOSTILE]
    assert page.texts["h3"] == [HOSTILE] * 3
    assert HOSTILE in page.texts["dt"]
    assert f"{HOSTILE} ({HOSTILE}): {HOSTILE}" in page.texts["li"]
    assert f"degraded: {HOSTILE}" in [a.get("alt") for a in page.all("img")]


def test_names_that_are_not_text_are_written_all_the_same():
    page = Page(render(Report("bytes", gallery=[colours(os.fsdecode(b"photo-\xff.png"))])))
    assert page.texts["h3"] == ["photo-\\udcff.png"]


def test_scores_have_gains_intervals_notes_and_the_published_values(page):
    assert [squeezed(text) for text in page.texts["tr"]] == [
        "degradedbaseline the JPEG itselfrestoredcleanpublished",
        "PSNR [dB] ↑ 22.10 24.46 [23.90, 25.10] 25.91 +1.46 [25.10, 26.70] – –",
        "SSIM ↑ 0.6100 0.7123 0.7000 −0.0123 [0.6000, 0.8000] – –",
        "Accuracy [%] ↑ – – – 76.1 67.9",
        "FID ↓ – 33.40 8.31 −25.09 – 4.60",
    ]
    gains = [a["class"] for a in page.all("span") if a.get("class") in ("better", "worse", "same")]
    assert gains[:3] == ["better", "worse", "better"]  # a lower FID is better
    assert page.texts["li"] == [
        "FID (baseline, restored): from 3 images: FID needs thousands",
        "Accuracy (restored): ResNet-50 weights: could not be fetched",
        "FID (published): Liu et al. 2023",
        "Accuracy (published): Liu et al. 2023",
    ]
    first, infinite = [squeezed(text) for text in page.texts["figcaption"]][2:4]  # behind those of two curves
    assert first == "colours PSNR 24.00 +2.00 Enlarge"
    assert "PSNR ∞" in infinite
    assert [text.strip() for text in page.texts["dd"]][:4] == ["jpeg-5", "no", "0.0001", "–"]


def test_what_is_empty_has_no_section_and_every_link_leads_somewhere(page):
    empty = Page(render(Report("empty")))
    assert empty.all("section") == empty.all("a") == empty.all("img") == []
    targets = [a["href"][1:] for a in page.all("a")]
    assert targets == ["settings", "scores", "curves", "gallery", "worst", "best", "trajectories"]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)


def test_curves_have_a_picture_without_fonts_and_their_numbers_beside_it(page):
    pictures = page.images(r"svg\+xml")
    assert len(pictures) == 2
    for _, content in pictures:
        root = ElementTree.fromstring(content)
        assert not [element for element in root.iter() if element.tag.endswith("}text")]
    assert squeezed(page.texts["figcaption"][1]) == "NFE 1: 21.20 NFE 2: 15.20 NFE 5: 10.10 NFE 10: 8.30 NFE 100: 6.10"
    points = sample_report().curves
    assert draw_curves(points, ["psnr"], "svg") == pictures[0][1]  # equal points, equal bytes
    assert draw_curves(points[:1], ["psnr"], "svg")  # a single point is drawn too


def test_a_sweep_has_its_title_and_the_baseline_whatever_they_are_called():
    named = [
        point._replace(baseline={"psnr": Score(24.0)}, made=({}, {"baseline": "$x_"}))
        for point in sample_report().curves
    ]
    with_line, without = (pixels(draw_curves(p, ["psnr"], "png", "$x_")) for p in (named, sample_report().curves))
    dashes = [
        np.all(np.abs(image[..., :3].astype(int) - (87, 83, 78)) < 9, axis=2).sum() for image in (with_line, without)
    ]
    assert dashes[0] > dashes[1] + 200
