"""One small trained bridge, and its samples, for all tests of sampling; each test works in a copy."""

import logging
import shutil
from argparse import Namespace

import pytest
from small_runs import NAME, photos, sample_argv, train_argv

import sample
import train
from dataset.imagenet import build_lmdb_dataset


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a data set of 24 validation images and the checkpoint results/sr4x-pool."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = photos(folder / "photos", train=20, val=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(dataset)) == 0
    build_lmdb_dataset(Namespace(dataset_dir=dataset, image_size=32), logging.getLogger("test"), train=False)
    return folder


@pytest.fixture(scope="session")
def sampled(place, tmp_path_factory):
    """The same with samples_nfe2 of all images."""
    folder = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(place, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert sample.main(sample_argv(folder / "photos", NAME)) == 0
    return folder


@pytest.fixture
def restored(sampled, tmp_path, monkeypatch):
    """A copy of `sampled` as the current folder."""
    shutil.copytree(sampled, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"
