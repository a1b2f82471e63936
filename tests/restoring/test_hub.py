"""Bridges by ORG/NAME, from a hub that this process serves."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from bridges import make_bridge
from webserver import Site, closed_address, serving

from i2sb import Bridge
from i2sb.errors import UserError

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the repository org/name; the bridge in it."""
    make_bridge(tmp_path / "elsewhere", "jpeg-10")
    file = tmp_path / "elsewhere/results/jpeg-10/ema.safetensors"
    content, bridge = file.read_bytes(), Bridge.from_pretrained(file, device="cpu")

    def answer(handler):
        found = handler.path == "/org/name/resolve/main/ema.safetensors"
        headers = {"ETag": '"one"', "X-Repo-Commit": "0" * 40} if found else {"X-Error-Code": "RepoNotFound"}
        handler.send_page(content if found else b"", 200 if found else 404, headers)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Site(answer=answer)) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site, bridge


def test_a_bridge_is_fetched_where_nothing_here_has_its_name(hub, monkeypatch):
    site, bridge = hub
    fetched = Bridge.from_pretrained("org/name", device="cpu")
    assert {path for path, _ in site.requests} == {"/org/name/resolve/main/ema.safetensors"}
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(fetched.restore(x, nfe=1), bridge.restore(x, nfe=1))
    site.requests.clear()
    for place in ("results/org/name", "org/name"):
        shutil.copytree("elsewhere/results/jpeg-10", place)
        Bridge.from_pretrained("org/name", device="cpu")
        shutil.rmtree(Path(place).parents[-2])
    assert not site.requests
    monkeypatch.setenv("HF_ENDPOINT", closed_address())
    Bridge.from_pretrained("org/name", device="cpu")  # from the cache
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its tries
    for name, why in (("org/other", "no ema.safetensors came from the Hugging Face hub: "), ("org/a/b", "there is no")):
        with pytest.raises(UserError, match=why) as caught:
            Bridge.from_pretrained(name, device="cpu")
        assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    with pytest.raises(UserError, match=r"no ema.safetensors came from the Hugging Face hub: .*404"):
        Bridge.from_pretrained("org/other", device="cpu")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"org/name: is neither .* pip install huggingface_hub"):
        Bridge.from_pretrained("org/name", device="cpu")
