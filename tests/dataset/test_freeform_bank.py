"""The published bank of free-form masks is fetched for the runs that need it."""

import argparse
import logging

import numpy as np
import pytest

from corruption.mask_bank import PUBLISHED_FILE
from dataset.freeform import bank_for, fetch_bank
from i2sb.errors import UserError

LOG = logging.getLogger("dataset")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What would have been fetched; the address cannot be reached."""
    monkeypatch.chdir(tmp_path)
    remotes = []

    def fetch(remote, folder, log):
        remotes.append(remote)
        raise UserError("out of reach")

    monkeypatch.setattr("i2sb.fetch.fetch", fetch)
    return remotes


def bank(task="inpaint-freeform1020", image_size=256, imagenet=True):
    return bank_for(argparse.Namespace(corrupt=task, image_size=image_size), imagenet, LOG)


def test_it_is_fetched_for_imagenet_at_its_size_only(asked, caplog):
    for task in ("inpaint-freeform1020", "inpaint-freeform2030", "mixture"):
        assert bank(task)("freeform1020") is None
    assert len(asked) == 3
    assert "1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w" in asked[0].url
    assert "out of reach; until then brush strokes" in caplog.text
    bank(image_size=64)
    bank(imagenet=False)
    assert bank("jpeg-5") is None
    assert len(asked) == 3
    with pytest.raises(UserError, match="out of reach"):
        fetch_bank(LOG)


def test_masks_in_data_are_used_for_any_images(asked, tmp_path):
    masks = np.zeros((4, 256, 256), np.uint8)
    masks[:, :38] = 1
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data/imagenet_freeform1020_masks.npz", mask=masks)
    bits = bank(image_size=64, imagenet=False)("freeform1020")
    assert np.array_equal(np.unpackbits(bits).reshape(masks.shape), masks)
    assert not asked


def test_a_damaged_file_is_one_line(asked, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / PUBLISHED_FILE).write_bytes(b"<html>")
    with pytest.raises(UserError, match=rf"{PUBLISHED_FILE}: not a whole npz file .* copy or fetch it again") as caught:
        bank(imagenet=False)("freeform1020")
    assert "\n" not in str(caught.value)
