"""One small trained bridge for all tests of sampling; each test works in a copy of its folder."""

import logging
import shutil
from argparse import Namespace

import pytest
from small_runs import photos, train_argv

import train
from dataset.imagenet import build_lmdb_dataset


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a data set of 24 validation images and the checkpoint results/sr4x-pool."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = photos(folder / "photos", train=20, val=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(dataset)) == 0
    build_lmdb_dataset(Namespace(dataset_dir=dataset, image_size=32), logging.getLogger("test"), train=False)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of `trained` as the current folder."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"
