"""A report made of plain colours, whose pixels a test can name, and of hostile and long names."""

import functools

import numpy as np

from evaluation.report import Report
from evaluation.scored_images import Case
from evaluation.sweep import Point
from evaluation.table import Score

RED, GREEN, BLUE, YELLOW = (200, 30, 30), (20, 160, 60), (30, 60, 200), (230, 200, 20)
HOSTILE = """</script><script>alert(1)</script> "' onerror=alert(2) <img src=x> {{ 7*7 }} &amp;"""
LONG = "n01440764/" + "a_very_long_file_name_without_any_space_" * 5 + ".JPEG"


def plain(colour, height=64, width=64):
    return np.full((height, width, 3), colour, np.uint8)


def colours(name="colours", **metrics):
    return Case(name, plain(RED), plain(GREEN), plain(BLUE), baseline=plain(YELLOW), metrics=metrics)


@functools.cache
def sample_report():
    few = "from 3 images: FID needs thousands"
    return Report(
        title="JPEG restoration (quality 5), NFE 10",
        settings={"ckpt": "jpeg-5", "clip_denoise": False, "t0": 1e-4, "val_list": None, "path": LONG, "note": HOSTILE},
        scores={
            "degraded": {"psnr": Score(22.1), "ssim": Score(0.61)},
            "baseline": {"psnr": Score(24.456, interval=(23.9, 25.1)), "ssim": Score(0.7123), "fid": Score(33.4, few)},
            "restored": {
                "psnr": Score(25.912, num_images=3, interval=(25.1, 26.7)),
                "ssim": Score(0.7, interval=(0.6, 0.8)),
                "fid": Score(8.31, few),
                "accuracy": Score(None, "ResNet-50 weights: could not be fetched"),
            },
            "clean": {"accuracy": Score(76.1)},
            "published": {"fid": Score(4.6, "Liu et al. 2023"), "accuracy": Score(67.9, "Liu et al. 2023")},
        },
        curves=[
            Point(nfe, 0.021 * nfe + 0.05, {"psnr": Score(psnr, interval=(psnr - 1, psnr + 1)), "fid": Score(fid)})
            for nfe, psnr, fid in [(1, 27.1, 21.2), (2, 26.7, 15.2), (5, 26.2, 10.1), (10, 25.9, 8.3), (100, 25.0, 6.1)]
        ],
        gallery=[colours(psnr=(24.0, 22.0)), colours(HOSTILE, psnr=(float("inf"), 20.0)), colours(LONG)],
        worst=[colours("noise", ssim=(0.91, 0.75))],
        best=[colours()],
        baseline="the JPEG itself",
        trajectories=[("colours", [plain(RED), plain(GREEN), plain(BLUE)])],
    )
