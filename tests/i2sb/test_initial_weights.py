"""Starting from ADM's weights: 6 to 3 output channels, 3 to 6 input channels; on a small stand-in and at full size."""

import json
import logging
import socket
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from small_runs import photos, train_argv

import train
from guided_diffusion import presets
from guided_diffusion.script_util import create_model
from i2sb.errors import UserError
from i2sb.initial_weights import is_adm_256, load_initial, load_initial_weights
from i2sb.network import BridgeNet, build_network
from i2sb.schedule import noise_levels

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = presets.resolve("tiny", channel_mult="1,1")
LOG = logging.getLogger("test")
LEVELS = noise_levels(1e-4, 1.0, 10)


def adm_file(path: Path) -> dict[str, torch.Tensor]:
    """A small network's weights as ADM publishes them: bare names, means and variances (6 output channels)."""
    torch.manual_seed(1)
    model = create_model(**{**SMALL, "learn_sigma": True})
    state = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save(state, path)
    return state


def test_wrapped_weights_are_unwrapped(tmp_path):
    state = adm_file(tmp_path / "adm.pt")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "wrapped.pt")
    nets = [BridgeNet({**SMALL, "in_channels": 3}, LEVELS, False) for _ in range(2)]
    assert load_initial_weights(nets[0], tmp_path / "adm.pt") == ""
    assert load_initial_weights(nets[1], tmp_path / "wrapped.pt") == "prefixes of its names left out"
    for mine, theirs in zip(*(net.parameters() for net in nets)):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("in_channels", [3, 6])
def test_published_weights_are_taken_over(tmp_path, in_channels):
    published = adm_file(tmp_path / "adm.pt")
    net = BridgeNet({**SMALL, "in_channels": in_channels}, LEVELS, in_channels == 6)
    fresh = {key: value.clone() for key, value in net.diffusion_model.state_dict().items()}
    load_initial_weights(net, tmp_path / "adm.pt")
    for key, value in net.diffusion_model.state_dict().items():
        if key.startswith("out.2"):
            assert torch.equal(value, published[key][:3])
        elif key == "input_blocks.0.0.weight":
            assert torch.equal(value[:, :3], published[key])
            assert torch.equal(value[:, 3:], fresh[key][:, 3:])  # the new channels stay as they were initialised
            assert value.shape[1] == in_channels
        else:
            assert torch.equal(value, published[key])


@pytest.mark.parametrize(("cond", "file_sees_x1"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_rgb_weights_are_adapted_to_other_channels(tmp_path, channels, cond, file_sees_x1):
    """What the adapted network answers is what the RGB one answers to the same image."""
    rgb = create_model(**{**SMALL, "in_channels": 6 if file_sees_x1 else 3})
    for value in rgb.state_dict().values():
        value.normal_()
    torch.save(rgb.state_dict(), tmp_path / "adm.pt")
    net = BridgeNet({**SMALL, "in_channels": channels * (1 + cond), "out_channels": channels}, LEVELS, cond)
    fresh = net.diffusion_model.input_blocks[0][0].weight[:, channels:].clone()
    said = load_initial_weights(net, tmp_path / "adm.pt")
    assert said.startswith(f"first and last convolution, of RGB, adapted to {channels} channel")
    colours = 1 if channels < 3 else 3
    images, others = torch.randn(1 + cond, 1, colours, 8, 8), torch.randn(1 + cond, 1, channels - colours, 8, 8)
    with torch.no_grad():
        if cond and not file_sees_x1:
            first = net.diffusion_model.input_blocks[0][0].weight
            assert torch.equal(first[:, channels:], fresh)  # as it was initialised
            first[:, channels:] = 0
        as_rgb = images.expand(-1, -1, 3, -1, -1)[: 1 + file_sees_x1]
        expected = rgb(torch.cat([*as_rgb], dim=1), torch.tensor([0.5]))
        mine = torch.cat([images, others], dim=2)
        answer = net.diffusion_model(torch.cat([*mine], dim=1), torch.tensor([0.5]))
    expected = expected.mean(dim=1, keepdim=True) if colours == 1 else expected
    torch.testing.assert_close(answer[:, :colours], expected, rtol=1e-4, atol=1e-4)
    assert not answer[:, colours:].any()


def test_grey_weights_are_adapted_to_rgb(tmp_path):
    """The other direction: three equal channels give what grey gave, in each of them."""
    grey = create_model(**{**SMALL, "in_channels": 1, "out_channels": 1})
    for value in grey.state_dict().values():
        value.normal_()
    torch.save(grey.state_dict(), tmp_path / "grey.pt")
    net, image = BridgeNet(SMALL, LEVELS), torch.randn(1, 1, 8, 8)
    said = load_initial_weights(net, tmp_path / "grey.pt")
    assert said == "first and last convolution, of 1 channel, adapted to 3 channels"
    with torch.no_grad():
        expected = grey(image, torch.tensor([0.5])).expand(1, 3, 8, 8)
        answer = net.diffusion_model(image.expand(1, 3, 8, 8), torch.tensor([0.5]))
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)


def test_which_networks_adm_has_weights_for():
    golden = json.loads((GOLDEN / "adm256_uncond_keys.json").read_text())
    assert is_adm_256(golden["create_model_kwargs"])
    assert is_adm_256(presets.resolve("adm-256", in_channels=6, dropout=0.1))
    assert is_adm_256(presets.resolve("adm-256", in_channels=1, out_channels=1))
    for name in ("adm-64", "adm-128", "adm-512", "tiny", "small", "medium"):
        assert not is_adm_256(presets.resolve(name))
    assert not is_adm_256(presets.resolve("adm-256", num_channels=128))
    assert not is_adm_256(presets.resolve("adm-256", use_scale_shift_norm=False))


def options(**changes) -> Namespace:
    return Namespace(**{"cond_x1": False, "t0": 1e-4, "T": 1.0, "interval": 10, **changes})


def test_the_originals_own_files_come_first(tmp_path):
    (tmp_path / "data").mkdir()
    import pickle

    kwargs = {key: value for key, value in SMALL.items() if key not in ("in_channels",)}
    (tmp_path / "data/256x256_diffusion_uncond_fixedsigma.pkl").write_bytes(pickle.dumps(kwargs))
    state = create_model(**SMALL).state_dict()
    torch.save(state, tmp_path / "data/256x256_diffusion_uncond_fixedsigma.pt")
    opt = options()
    net = build_network(opt, LOG)
    load_initial(net, named=False, log=LOG)
    assert all(torch.equal(value, state[key]) for key, value in net.diffusion_model.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"input_blocks.0.0.weight": torch.zeros(2)}, tmp_path / "adm.pt")
    with pytest.raises(UserError, match=r"adm.pt: its weights do not fit the network of the options: Missing key"):
        load_initial_weights(BridgeNet(SMALL, LEVELS), tmp_path / "adm.pt")
    torch.save([1, 2], tmp_path / "adm.pt")
    with pytest.raises(UserError, match=r"adm.pt: holds no state dict of a U-Net"):
        load_initial_weights(BridgeNet(SMALL, LEVELS), tmp_path / "adm.pt")


def test_a_small_network_fetches_nothing(tmp_path, monkeypatch):
    """Also with free-form holes, on images of one's own: no connection is tried."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: asked.append(args) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    argv = train_argv(photos(tmp_path / "photos"), "--num-itr", "1", corrupt="inpaint-freeform1020")
    assert train.main([*argv, "--eval-every", "1", "--eval-nfe", "1"]) == 0
    assert not asked


def test_adm_is_asked_for_by_default_and_missed_in_one_line(monkeypatch):
    from webserver import closed_address

    from i2sb import addresses

    there = addresses.Remote(name="adm.pt", what="the pretrained ADM weights", url=f"{closed_address()}/adm.pt")
    monkeypatch.setattr(addresses, "ADM_WEIGHTS", there)
    with torch.device("meta"):
        net = BridgeNet(presets.resolve("adm-256"), LEVELS)
    with pytest.raises(UserError, match=r"the pretrained ADM weights: could not fetch .*put it at data/adm.pt"):
        load_initial(net, named=True, log=LOG)
