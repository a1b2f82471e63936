"""`Runner` as scripts of the original and its forks use it: their data sets, their options, their expectations."""

import dataclasses
import importlib
import logging
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from i2sb import Runner
from i2sb.ckpt_util import build_ckpt_option
from i2sb.errors import UserError
from i2sb.network import Image256Net
from i2sb.runner import make_beta_schedule
from i2sb.schedule import make_betas
from i2sb.util import space_indices, unsqueeze_xdim

LOG = logging.getLogger("test")
SHAPE = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1}
NETWORK = {**SHAPE, "channel_mult": "1,1", "attention_resolutions": ""}
TABLES = (Path(__file__).parents[2] / "docs/from-the-original.md").read_text()
SAME, MOVED = TABLES.split("## Commands")[0].split("## Names that moved")
HERE = r"`((?:i2sb|corruption|dataset|evaluation|guided_diffusion)(?:\.\w+)+)`"
ROWS = [row.split("|")[2] for row in MOVED.splitlines() if row.startswith("|")]
NAMES = re.findall(HERE, SAME) + re.findall(HERE, " ".join(ROWS))


def options(**changes) -> Namespace:
    """What the original's own options carry, and a small network."""
    published = {
        **{"image_size": 32, "corrupt": "jpeg-10", "interval": 10, "batch_size": 4, "microbatch": 2, "cond_x1": False},
        **{"t0": 1e-4, "T": 1.0, "beta_max": 0.3, "ot_ode": False, "num_itr": 2, "lr": 1e-3, "lr_gamma": 0.99},
        **{"lr_step": 1000, "ema": 0.99, "l2_norm": 0.0, "device": "cpu", "ckpt_path": Path("results/a"), "load": None},
        **{"num_workers": 0, "log_every": 1, "eval_every": 0, "seed": 0, "name": "a", "add_x1_noise": False},
        **{"log_writer": None, "log_dir": Path(".log"), "network": NETWORK, "wandb_user": None},
    }
    return Namespace(**{**published, **changes})


def pictures(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def refuse(x0):
    raise AssertionError("an operator was called for images that come in pairs")


def seen_by_the_network(runner, dataset, operator, **changes) -> list[torch.Tensor]:
    inputs = []
    runner.net.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    assert runner.train(options(**changes), dataset, dataset, operator)
    return inputs


@pytest.mark.parametrize("labelled", [True, False])
def test_pairs_are_used_as_they_are(labelled):
    """Also with corrupt="mixture", the recipe that people use to train on pairs of their own."""
    clean, degraded = pictures(), torch.full((4, 3, 32, 32), 0.25)
    pairs = [(a, b, 7) if labelled else (a, b) for a, b in zip(clean, degraded)]
    opt = options(corrupt="mixture", ot_ode=True, interval=2)
    runner = Runner(opt, LOG, save_opt=False)
    inputs = seen_by_the_network(runner, pairs, refuse, corrupt="mixture", ot_ode=True, interval=2)
    tables = runner.diffusion.mu_x0, runner.diffusion.mu_x1
    for xt in torch.cat(inputs):  # the mean of Eq. 11 at one of the two steps, between some clean image and 0.25
        means = [(m0 * a + m1 * 0.25 - xt).abs().max() for m0, m1 in zip(*tables) for a in (*clean, *clean.flip(-1))]
        assert min(means) < 1e-5


def test_images_without_labels():
    runner = Runner(options(), LOG, save_opt=False)
    assert runner.train(options(), list(pictures()), None, lambda x0: x0 * 0.5)


def test_images_with_masks_keep_the_known_pixels():
    masks = torch.zeros(4, 1, 32, 32, dtype=torch.uint8)
    masks[..., 8:24, 8:24] = 1
    items = [(image, 0, mask) for image, mask in zip(pictures(), masks)]
    runner = Runner(options(ot_ode=True), LOG, save_opt=False)
    for xt in torch.cat(seen_by_the_network(runner, items, refuse, ot_ode=True)):
        known = [(image - xt)[:, :8].abs().max() for image in pictures()]
        assert min(known) < 1e-6


class ByKey(dict):
    """Options as some configuration libraries hand them on: attributes that `vars` does not show."""

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


KINDS = {
    "by key": ByKey,
    "class": lambda values: type("Options", (), values),
    "object of a class": lambda values: type("Options", (), values)(),
    "frozen": lambda values: dataclasses.make_dataclass("Options", values, frozen=True)(**values),
}


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_anything_with_attributes(kind):
    opt = KINDS[kind](vars(options()))
    assert Runner(opt, LOG).train(opt, list(pictures()), None, lambda x0: x0 * 0.5)
    saved = build_ckpt_option(opt, LOG, "results/a")
    assert (saved.interval, saved.corrupt, saved.lr) == (10, "jpeg-10", 1e-3)
    assert Runner(saved, LOG, save_opt=False).loaded_iteration() == 2


def test_evaluations_need_a_validation_set():
    runner = Runner(options(), LOG, save_opt=False)
    with pytest.raises(UserError, match=r"^evaluations every 3000 iterations need a validation set"):
        runner.train(options(eval_every=3000), list(pictures()), None, lambda x0: x0)


def test_the_log_writer_of_the_options_is_used():
    runner = Runner(options(log_writer="tensorboard"), LOG, save_opt=False)
    runner.train(options(log_writer="tensorboard"), list(pictures()), None, lambda x0: x0)
    assert list(Path(".log/a").glob("events.out.tfevents.*"))


def test_the_hole_is_filled_also_beside_a_cond():
    runner = Runner(options(cond_x1=True), LOG, save_opt=False)
    inputs = []
    runner.net.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    mask = torch.zeros(4, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    x1 = pictures()
    runner.ddpm_sampling(options(cond_x1=True), x1, mask=mask, cond=x1, nfe=1, verbose=False)
    assert torch.equal(inputs[0] * (1 - mask), x1 * (1 - mask))
    assert not torch.isclose(inputs[0], x1).all()


def test_published_names():
    half = make_beta_schedule(10, 1e-4, 0.3 / 10)[:5]
    assert make_betas(10, 0.3)[:5].tolist() == half.tolist()
    import pickle

    Path("data").mkdir()
    Path("data/256x256_diffusion_cond_fixedsigma.pkl").write_bytes(pickle.dumps(NETWORK))
    net = Image256Net(LOG, torch.linspace(0.1, 10, 10), cond=True, pretrained_adm=False)
    x = pictures(1)
    assert net(x, torch.tensor([3]), cond=x).shape == x.shape
    assert net.diffusion_model.in_channels == 6


# --- names


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_name_what_is_there(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_util():
    assert space_indices(1000, 3) == [0, 500, 999]
    assert unsqueeze_xdim(torch.arange(4), (3, 8, 8)).shape == (4, 1, 1, 1)
    assert unsqueeze_xdim(torch.tensor(2.0), (3, 8)).shape == (1, 1)
