"""Published files: kept, checked, fetched, and asked for in one line if out of reach."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from webserver import Site, closed_address, serving

from evaluation import inception, reference, weights
from evaluation.metrics import MetricUnavailable
from i2sb import addresses
from i2sb.addresses import Remote


def assert_one_line(caught, remote: Remote, path: Path) -> None:
    """The message names the address and where the file belongs."""
    message = str(caught.value)
    assert remote.url in message
    assert str(path) in message
    assert "\n" not in message


def test_fetched_once_into_torch_hubs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save({"a": torch.ones(3)}, tmp_path / "made")
    with serving(Site((tmp_path / "made").read_bytes())) as site:
        remote = Remote("weights.pth", "some weights", site.url)
        for _ in range(2):
            assert weights.load(remote)["a"].tolist() == [1, 1, 1]
        assert len(site.requests) == 1
    assert (tmp_path / "hub" / "checkpoints" / "weights.pth").is_file()


def test_a_file_of_another_hash_is_refused_though_it_is_there(tmp_path):
    (tmp_path / addresses.RESNET50.name).write_bytes(b"another file")
    with pytest.raises(MetricUnavailable, match="0676ba61 is expected; remove it") as caught:
        weights.find(addresses.RESNET50, tmp_path)
    assert_one_line(caught, addresses.RESNET50, tmp_path / addresses.RESNET50.name)


@pytest.mark.parametrize("mode", inception.MODES)
def test_inception_says_where_its_weights_belong(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(inception, "TORCHSCRIPT_FOLDER", tmp_path)
    name = "INCEPTION_PYTORCH" if mode == "legacy_pytorch" else "INCEPTION_TORCHSCRIPT"
    remote = replace(getattr(addresses, name), url=closed_address())
    monkeypatch.setattr(addresses, name, remote)
    with pytest.raises(MetricUnavailable, match="the Inception weights: could not fetch") as caught:
        inception.build_inception(mode)
    folder = tmp_path / "home/hub/checkpoints" if mode == "legacy_pytorch" else tmp_path
    assert_one_line(caught, remote, folder / remote.name)


def test_training_statistics_say_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remote = replace(addresses.FID_TRAIN_STATISTICS, url=closed_address())
    monkeypatch.setattr(addresses, "FID_TRAIN_STATISTICS", remote)
    with pytest.raises(MetricUnavailable, match="the FID statistics of ImageNet's training set") as caught:
        reference.build_reference(Namespace(fid_ref=None), Namespace(corrupt="sr4x-pool"), True, None, None)
    assert_one_line(caught, remote, tmp_path / "data" / remote.name)
