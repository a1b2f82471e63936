"""The report as a document: what is in it, what it may load, what hostile names do, and its charts' geometry."""

import base64
import hashlib
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_sample import HOSTILE, colours, plain, sample_report
from skimage import data

from evaluation.report_curves import Curve, charts
from evaluation.report_page import Case, ReportData, Trajectory, render, write_report
from evaluation.table import Score
from i2sb.errors import UserError

EMPTY = ReportData("empty", {}, {})


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

    def classes(self):
        return {each for _, attributes in self.tags for each in (attributes.get("class") or "").split()}

    def images(self):
        """The decoded images in order: (format, array)."""
        for attributes in self.all("img"):
            if "src" in attributes:  # the zoom's is filled by the script
                kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", attributes["src"]).groups()
                yield kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


@pytest.fixture(scope="module")
def document():
    return render(sample_report())


@pytest.fixture(scope="module")
def page(document):
    return Page(document)


def test_every_image_is_there_pixel_by_pixel(page):
    report = sample_report()
    expected = [
        image
        for case in [*report.gallery, *report.worst, *report.best]
        for image in (case.degraded, case.restored, case.clean)
    ]
    expected += [frame for trajectory in report.trajectories for frame in trajectory.frames]
    found = list(page.images())
    assert len(found) == len(expected)
    for (kind, image), truth in zip(found, expected):
        assert kind == "png"
        np.testing.assert_array_equal(image, truth)
    assert all(attributes["alt"] for attributes in page.all("img") if "src" in attributes)
    assert f"{len(expected)} images are stored without loss (PNG)" in page.texts["footer"][0]


def test_large_images_are_jpeg_close_to_the_original_and_the_page_says_so():
    astronaut = data.astronaut()  # 512 x 512, the largest that is kept without loss
    large = np.asarray(Image.fromarray(astronaut).resize((513, 512)))
    gallery = [Case("large", large, large, large), Case("at the limit", astronaut, astronaut, astronaut)]
    page = Page(render(replace(EMPTY, gallery=gallery)))
    found = list(page.images())
    assert [kind for kind, _ in found] == ["jpeg"] * 3 + ["png"] * 3
    assert np.sqrt(np.mean((found[0][1].astype(float) - large) ** 2)) < 2.55  # 40 dB
    np.testing.assert_array_equal(found[3][1], astronaut)
    assert "3 images larger than" in page.texts["footer"][0]
    assert "quality 95" in page.texts["footer"][0]


def test_the_page_weighs_what_its_images_weigh(document, page):
    images = sum(len(attributes["src"]) for attributes in page.all("img") if "src" in attributes)
    assert len(document) - images < 80_000
    assert len(document) < 2_500_000


def test_nothing_outside_is_named(document, page):
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"a handler in <{tag}>"
            assert name not in ("style", "srcset", "background", "action", "ping"), f"{name} in <{tag}>"
            if name in ("src", "href", "data", "poster", "xlink:href"):
                assert re.match(r"#[a-z0-9-]+$|data:(image/|,)", value), value[:80]
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "form", "video", "audio"}
    assert "url(" not in page.texts["style"][0]
    assert "@import" not in page.texts["style"][0]
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|innerHTML|eval\(", document)


def test_policy_allows_our_script_and_style_only(page):
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("script", "style"):
        (text,) = page.texts[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_hostile_texts_stay_texts(page):
    report = ReportData(
        HOSTILE,
        {HOSTILE: HOSTILE, "list": [HOSTILE]},
        {HOSTILE: {HOSTILE: Score(1.0, HOSTILE)}},
        published={HOSTILE: 2.0},
        published_note=HOSTILE,
        curves=[Curve(1, 0.5, {HOSTILE: 1.0}), Curve(2, 0.7, {HOSTILE: 2.0})],
        gallery=[colours(HOSTILE, **{HOSTILE: 3.0})],
        worst=[colours(HOSTILE)],
        trajectories=[Trajectory(HOSTILE, [plain(0)])],
        ranked_by=HOSTILE,
    )
    usual, page = page, Page(render(report))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 3 + 3 + 1 + 1
    assert {name for _, a in page.tags for name in a} <= {name for _, a in usual.tags for name in a}
    assert page.texts["title"][0] == HOSTILE  # the others are the points' of the charts
    assert page.texts["title"][1] == f"NFE 1: {HOSTILE} 1.0000, 0.5 s per image"
    assert page.texts["h1"] == [HOSTILE]
    assert page.texts["h3"].count(HOSTILE) == 2
    assert page.texts["dt"].count(HOSTILE) == 2
    assert f"{HOSTILE}: {HOSTILE}" in page.texts["li"]
    assert f"degraded: {HOSTILE}" in [a.get("alt") for a in page.all("img")]


def test_names_that_are_no_text_are_written_all_the_same(tmp_path):
    name = os.fsdecode(b"photo-\xff.png")
    write_report(tmp_path / "report.html", replace(EMPTY, title=name, gallery=[colours(name)]))
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.texts["h3"] == ["photo-\\udcff.png"]


def test_report_is_the_rendered_page_and_unwritable_places_are_told(tmp_path, document):
    write_report(tmp_path / "new" / "report.html", sample_report())
    assert (tmp_path / "new" / "report.html").read_bytes() == document.encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "file" / "report.html"))):
        write_report(tmp_path / "file" / "report.html", EMPTY)


def test_scores_have_gains_intervals_notes_and_the_published_row(page):
    rows = [re.sub(r"\s+", " ", text).strip() for text in page.texts["tr"]]
    assert rows[0] == "images PSNR [dB] ↑ SSIM ↑ Accuracy [%] ↑ FID ↓"
    assert rows[1] == "degraded 3 images 24.46 0.7123 – 33.401"  # the last digit is the note's number
    assert rows[2] == "restored 3 images 25.91 [25.10, 26.70] +1.46 0.7000 [0.6000, 0.8000] −0.0123 –2 8.311 −25.09"
    assert rows[3] == "published – – 67.9 4.60"
    gains = [a["class"] for a in page.all("small") if "gain" in (a.get("class") or "")]
    assert gains == ["gain better", "gain worse", "gain better"]  # a lower FID is better
    notes = [text for text in page.texts["li"] if ": " in text]
    assert notes[:2] == ["FID: from 3 images: FID needs thousands", "Accuracy: ResNet-50 weights: could not be fetched"]
    assert {"note-1", "note-2"} <= {a["id"] for _, a in page.tags if "id" in a}


def test_case_metrics_show_gain_and_infinity(page):
    first, hostile = page.texts["figcaption"][4], page.texts["figcaption"][8]  # behind those of four charts
    assert re.sub(r"\s+", " ", first).strip() == "colours Enlarge PSNR24.00 dB +2.00"
    assert "∞" in hostile


def test_settings_hide_secrets_and_fold_when_long():
    text = Page(render(replace(EMPTY, settings={"wandb_api_key": "abc123", "on": True, "off": None})))
    assert [each.strip() for each in text.texts["dd"]] == ["***", "yes", "–"]
    assert "open" in text.all("details")[0]
    long = Page(render(replace(EMPTY, settings={f"option_{i}": i for i in range(40)})))
    assert "open" not in long.all("details")[0]


def test_what_is_empty_has_no_section_and_every_link_leads_somewhere(page):
    empty = Page(render(EMPTY))
    assert empty.all("section") == []
    assert empty.all("a") == []
    targets = {a["href"][1:] for a in page.all("a")}
    assert {"settings", "scores", "curves", "gallery", "worst", "best", "trajectories"} <= targets
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert targets <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"gallery": [Case("x", plain(0), plain(0), plain(0, 32, 64))]}, r"case 'x'.*32x64, 64x64"),
        ({"best": [Case("x", plain(0) / 255, plain(0), plain(0))]}, r"float64 \[64, 64, 3\]"),
        ({"worst": [Case("x", plain(0)[..., 0], plain(0), plain(0))]}, r"uint8 \[64, 64\]"),
        ({"trajectories": [Trajectory("t", [])]}, r"trajectory 't'.*none"),
        ({"trajectories": [Trajectory("t", [plain(0), plain(0, 8, 8)])]}, r"8x8, 64x64"),
    ],
)
def test_wrong_images_are_named(bad, match):
    with pytest.raises(ValueError, match=match):
        render(replace(EMPTY, **bad))


# --- charts: read back as a person would, with the ticks as the ruler -----------------------------------


def read_off(ticks, at, logarithmic=False):
    scale = np.log if logarithmic else np.asarray
    places, values = np.array([t.at for t in ticks]), scale(np.array([float(t.label) for t in ticks]))
    slope, offset = np.polyfit(places, values, 1)
    result = slope * np.asarray(at) + offset
    return np.exp(result) if logarithmic else result


@pytest.mark.parametrize("values", [[27.1, 26.0, 25.1, 24.9], [0.31, 0.305, 0.304, 0.3035], [6.0, 60.0, 400.0, 999.0]])
def test_values_can_be_read_off_the_axes(values):
    nfes, seconds = [1, 5, 20, 100], [0.05, 0.2, 0.9, 4.1]
    against_nfe, against_seconds = charts([Curve(n, s, {"fid": v}) for n, s, v in zip(nfes, seconds, values)])
    for chart, xs in ((against_nfe, nfes), (against_seconds, seconds)):
        assert len(chart.y_ticks) >= 2
        span = max(values) - min(values)
        np.testing.assert_allclose(read_off(chart.y_ticks, [p.y for p in chart.points]), values, atol=0.01 * span)
        np.testing.assert_allclose(read_off(chart.x_ticks, [p.x for p in chart.points], True), xs, rtol=0.02)
        assert all(50 <= p.x <= 344 and 14 <= p.y <= 188 for p in chart.points)
    assert against_nfe.points[0].title.startswith("NFE 1: FID ")


def test_narrow_ranges_are_linear_and_labels_do_not_touch():
    curves = [Curve(n, None, {"psnr": 25 + 0.01 * n}) for n in range(10, 60)]
    (chart,) = charts(curves)  # no times, no second chart
    np.testing.assert_allclose(read_off(chart.x_ticks, [p.x for p in chart.points]), range(10, 60), rtol=0.01)
    labelled = [p.label for p in chart.points if p.label]
    assert 3 <= len(labelled) < 20
    assert labelled[-1].text == "25.59"
    assert np.diff([t.at for t in chart.x_ticks]).min() >= 20


def test_missing_values_are_left_out_and_single_points_drawn():
    found = charts([Curve(1, 0.1, {"psnr": 25.0, "fid": float("nan")}), Curve(2, None, {"ssim": 0.3})])
    assert [(chart.title, len(chart.points)) for chart in found] == [
        ("PSNR [dB] ↑ against NFE", 1),
        ("PSNR [dB] ↑ against seconds", 1),
        ("SSIM ↑ against NFE", 1),
    ]
    assert charts([]) == []
