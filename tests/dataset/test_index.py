"""The `.lmdb.pt` index as the original writes it and as torchvision reads it; the look-up of images by their path."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from dataset.index import read_index, write_index
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop"
ORIGINAL = INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt"
CLASSES = ["n01440764", "n01443537", "n01484850"]


def small_index(**changes):
    good = {
        "root": "/d/val",
        "classes": ["a", "b"],
        "class_to_idx": {"a": 0, "b": 1},
        "samples": [("/d/val/a/1.png", 0)],
    }
    return argparse.Namespace(**{**good, **changes})


def test_ours_is_what_the_original_wrote(tmp_path):
    path = tmp_path / "ours.lmdb.pt"
    write_index(read_index(ORIGINAL), path)
    original = vars(torch.load(ORIGINAL, weights_only=False))  # a file of our own, known to be harmless
    with torch.serialization.safe_globals([ImageFolder]):
        ours = vars(torch.load(path, weights_only=True))
    assert list(ours) == list(original)
    assert {**ours, "extensions": ()} == {**original, "extensions": ()}  # ours lists what this Pillow reads
    assert set(ours["extensions"]) >= set(original["extensions"])
    assert ours["samples"] is ours["imgs"]


def test_names_that_are_not_utf8_survive(tmp_path):
    odd = os.fsdecode(b"/d/val/a/\xff.png")
    write_index(small_index(samples=[(odd, 0)]), tmp_path / "x.lmdb.pt")
    assert read_index(tmp_path / "x.lmdb.pt").samples == [(odd, 0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": []},
        {"samples": [("a/1.png", 2)]},
        {"samples": [("a/1.png", -1)]},
        {"classes": ["a", "a"]},
        {"classes": None},
        {"class_to_idx": {"a": 1, "b": 0}},
    ],
    ids=ascii,
)
def test_indices_that_contradict_themselves_are_refused(tmp_path, changes):
    write_index(small_index(**changes), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: refused: ") as caught:
        read_index(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
