"""A report made of the photographs inside scikit-image and of plain colours, whose pixels a test can name."""

import functools
import io

import numpy as np
from PIL import Image, ImageFilter
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.report_page import Case, Curve, ReportData, Trajectory
from evaluation.table import Score

RED, GREEN, BLUE = (200, 30, 30), (20, 160, 60), (30, 60, 200)
HOSTILE = """</script><script>alert(1)</script> "' onerror=alert(2) <img src=x> {{ 7*7 }} &amp;"""
LONG = "n01440764/" + "a_very_long_file_name_without_any_space_" * 5 + ".JPEG"


def plain(colour, height=64, width=64):
    return np.full((height, width, 3), colour, np.uint8)


def colours(name="colours", **metrics):
    return Case(name, degraded=plain(RED), restored=plain(GREEN), clean=plain(BLUE), metrics=metrics)


def photo_cases():
    """Three real photographs [192, 192], as JPEG of quality 5 and smoothed a little."""
    for name, cut in {
        "astronaut": data.astronaut()[:300, 80:380],
        "chelsea": data.chelsea()[:300, 80:380],
        "coffee": data.coffee()[20:400, 120:500],
    }.items():
        image = Image.fromarray(cut).resize((192, 192), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "jpeg", quality=5)
        degraded = Image.open(file)
        versions = [np.asarray(each) for each in (degraded, degraded.filter(ImageFilter.GaussianBlur(1.2)), image)]
        yield Case(f"{name}.png", *versions, metrics=_measured(*versions))


def _measured(degraded, restored, clean):
    metrics = {}
    for suffix, image in {"": restored, "_degraded": degraded}.items():
        metrics[f"psnr{suffix}"] = float(peak_signal_noise_ratio(clean, image))
        metrics[f"ssim{suffix}"] = float(structural_similarity(clean, image, channel_axis=2))
    return metrics


@functools.cache
def sample_report():
    photos = list(photo_cases())
    ranked = sorted(photos, key=lambda case: case.metrics["psnr"])
    hostile = colours(HOSTILE, psnr=float("inf"), psnr_degraded=20.0)
    few = "from 3 images: FID needs thousands"
    return ReportData(
        title="JPEG restoration (quality 5), NFE 10",
        settings={"ckpt": "jpeg-5", "nfe": 10, "clip_denoise": False, "t0": 1e-4, "sample_dir": LONG, "note": HOSTILE},
        scores={
            "degraded": {"psnr": Score(24.456, num_images=3), "ssim": Score(0.7123), "fid": Score(33.4, few)},
            "restored": {
                "psnr": Score(25.912, num_images=3, interval=(25.1, 26.7)),
                "ssim": Score(0.7, interval=(0.6, 0.8)),
                "fid": Score(8.31, few),
                "accuracy": Score(None, "ResNet-50 weights: could not be fetched"),
            },
        },
        published={"fid": 4.6, "accuracy": 67.9},
        published_note="Liu et al. 2023, arXiv 2302.05872: NFE 999, 10,000 images; this run: NFE 10, 3 images.",
        curves=[
            Curve(nfe, 0.021 * nfe + 0.05, {"psnr": psnr, "fid": fid})
            for nfe, psnr, fid in [(1, 27.1, 21.2), (2, 26.7, 15.2), (5, 26.2, 10.1), (10, 25.9, 8.3), (100, 25.0, 6.1)]
        ],
        gallery=[colours(psnr=24.0, psnr_degraded=22.0), *photos, hostile, colours(LONG)],
        worst=ranked[:2],
        best=ranked[:0:-1],
        trajectories=[
            Trajectory("colours", [plain(RED), plain(GREEN), plain(BLUE)]),
            Trajectory(
                "coffee.png",
                [np.uint8((1 - t) * photos[2].degraded + t * photos[2].restored) for t in np.linspace(0, 1, 6)],
            ),
        ],
    )
