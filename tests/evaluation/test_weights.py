"""Published files: kept, fetched from a server on this machine, and asked for in one line if out of reach."""

import functools
import http.server
import socket
import threading

import pytest

from evaluation import WeightsUnavailable, fid, inception, resnet
from evaluation.weights import fetch


@pytest.fixture
def closed_url():
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/weights.pth"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """(address, the folder it serves)."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_a_file_that_is_here_is_not_fetched(tmp_path, closed_url):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"mine")
    assert fetch(closed_url, path, "some weights") == path


def test_fetches_into_a_new_folder(tmp_path, server):
    url, folder = server
    (folder / "weights.pth").write_bytes(b"x" * 100_000)
    path = fetch(f"{url}/weights.pth", tmp_path / "new" / "weights.pth", "some weights")
    assert path.read_bytes() == b"x" * 100_000


def check_message(caught, url, path):
    message = str(caught.value)
    assert url in message
    assert str(path) in message
    assert "\n" not in message
    assert not path.exists()


def test_out_of_reach(tmp_path, closed_url):
    path = tmp_path / "hub" / "weights.pth"
    with pytest.raises(WeightsUnavailable, match="some weights: could not fetch") as caught:
        fetch(closed_url, path, "some weights")
    check_message(caught, closed_url, path)


def test_not_on_the_server(tmp_path, server):
    url, path = f"{server[0]}/gone.pth", tmp_path / "gone.pth"
    with pytest.raises(WeightsUnavailable, match="404") as caught:
        fetch(url, path, "some weights")
    check_message(caught, url, path)


@pytest.mark.parametrize("mode", inception.MODES)
def test_inception_says_where_its_weights_belong(tmp_path, monkeypatch, closed_url, mode):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(inception, "TORCHSCRIPT_FOLDER", tmp_path)
    monkeypatch.setattr(inception, "PYTORCH_URL", closed_url)
    monkeypatch.setattr(inception, "TORCHSCRIPT_URL", closed_url)
    path = tmp_path / "weights.pth"
    if mode == "legacy_pytorch":  # where clean-fid will look for it, whatever our address is called
        path = tmp_path / "home" / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    with pytest.raises(WeightsUnavailable, match="Inception weights") as caught:
        inception.build_inception(mode)
    check_message(caught, closed_url, path)


def test_resnet_says_where_its_weights_belong(tmp_path, monkeypatch, closed_url):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(resnet, "WEIGHTS_URL", closed_url)
    with pytest.raises(WeightsUnavailable, match="ResNet-50 weights") as caught:
        resnet.build_resnet50()
    check_message(caught, closed_url, tmp_path / "hub" / "checkpoints" / "weights.pth")


def test_training_statistics_say_where_they_belong(tmp_path, monkeypatch, closed_url):
    monkeypatch.setattr(fid, "TRAINING_STATISTICS_URL", closed_url)
    with pytest.raises(WeightsUnavailable, match="FID training statistics") as caught:
        fid.training_statistics(tmp_path)
    check_message(caught, closed_url, tmp_path / "weights.pth")
