"""A training that was interrupted resumes as if it had not been; files of one training belong together."""

import functools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from small_runs import logged, refusal, sample_argv, train_argv
from torch.utils._pytree import tree_leaves
from warm import both_end_well, two_ranks

import sample
import train
from i2sb.loader import EpochOrder, rank_batches
from i2sb.runner import Runner


def state(name):
    return torch.load(f"results/{name}/latest.pt", weights_only=True)


def tensors(value):
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))


def assert_same_bits(one, other, keys=("net", "ema", "optimizer")):
    for key in keys:
        pairs = list(zip(tensors(one[key]), tensors(other[key]), strict=True))
        assert pairs
        assert all(torch.equal(a, b) for a, b in pairs), key


CASES = {
    "workers": ["--num-workers", "2"],
    "dropout": ["--dropout", "0.3"],
    "accumulation": ["--microbatch", "1", "--l2-norm", "0.01"],
    "conditioned": ["--cond-x1", "--add-x1-noise"],
    "bf16": ["--precision", "bf16"],
}


def run_in_parts(dataset, stops, flags, corrupt):
    """Run "straight" to the last of `stops`, and "parts" from each one to the next; all they save must agree.

    Only "parts" may have workers.
    """

    def run(name, num_itr, *extra):
        argv = train_argv(dataset, "--deterministic", "--num-itr", num_itr, *flags, "--name", name, *extra)
        assert train.main([*argv, "--corrupt", corrupt]) == 0

    run("straight", stops[-1], "--num-workers", "0")
    run("parts", stops[0])
    for stop in stops[1:]:
        run("parts", stop, "--ckpt", "parts")
    assert_same_bits(state("straight"), state("parts"))
    assert logged("straight") == logged("parts")
    for key in ("sched", "scaler"):
        assert state("straight")[key] == state("parts")[key]


@pytest.mark.parametrize(
    ("corrupt", "case"),
    [
        ("inpaint-freeform1020", "workers"),
        ("jpeg-10", "dropout"),
        ("mixture", "accumulation"),
        ("inpaint-freeform1020", "conditioned"),
        ("jpeg-10", "bf16"),
    ],
)
def test_in_one_go_or_interrupted_gives_the_same_bits(dataset, case, corrupt):
    run_in_parts(dataset, (3, 11, 12), ["--lr-step", "3", *CASES[case]], corrupt)


def test_the_scaling_of_fp16_resumes(dataset, monkeypatch):
    """The scale doubles after every second step, as it does now and then in a long run; one at a time: fp16 is slow."""
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, growth_interval=2))
    run_in_parts(dataset, (1, 2), ["--precision", "fp16", "--batch-size", "1", "--microbatch", "1"], "jpeg-10")
    assert state("parts")["scaler"]["scale"] == 2 * 2.0**16  # twice what torch begins with: no step was skipped


@pytest.mark.parametrize("lr", ["0.05", "1e-12"])
def test_the_best_evaluation_is_kept_across_resumes(dataset, lr):
    """Of scores that change, and of equal ones the first."""
    flags = ["--eval-every", "2", "--eval-nfe", "1", "--eval-images", "3", "--keep-best", "psnr", "--lr", lr]
    run_in_parts(dataset, (3, 4, 6), flags, "jpeg-10")
    for name in ("straight", "parts"):
        scores = logged(name, "psnr/restored")
        best = max((2, 4, 6), key=lambda step: scores[step])
        found = torch.load(f"results/{name}/best.pt", weights_only=True)
        assert found["resume"]["iteration"] == best
        assert state(name)["resume"]["best"] == {"metric": "psnr", "value": scores[best], "iteration": best}
        assert_same_bits(found, torch.load("results/straight/best.pt", weights_only=True))


def test_evaluations_change_no_number(dataset):
    for name, every in (("with", "2"), ("without", "0")):
        flags = ["--num-itr", "5", "--name", name, "--eval-every", every, "--eval-nfe", "2", "--dropout", "0.3"]
        assert train.main(train_argv(dataset, *flags, corrupt="inpaint-freeform2030")) == 0
    assert_same_bits(state("with"), state("without"))


def test_a_signal_during_an_evaluation_leaves_dropout_on(dataset, monkeypatch):
    flags = ["--dropout", "0.3", "--deterministic", "--eval-every", "2", "--eval-nfe", "2"]
    assert train.main(train_argv(dataset, *flags, "--name", "straight", "--num-itr", "3")) == 0
    predict, calls = Runner.compute_pred_x0, []

    def signalled(*args):
        calls.append(args)
        if len(calls) == 3:  # two for the evaluation at iteration 0
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(*args)

    monkeypatch.setattr(Runner, "compute_pred_x0", signalled)
    assert train.main(train_argv(dataset, *flags, "--name", "stopped", "--num-itr", "9")) == 0
    assert state("stopped")["resume"]["iteration"] == 2
    assert train.main(train_argv(dataset, *flags, "--ckpt", "stopped", "--num-itr", "3")) == 0
    assert_same_bits(state("straight"), state("stopped"))


def test_the_new_name_gets_the_results(dataset):
    assert train.main(train_argv(dataset, "--name", "old", "--num-itr", "2")) == 0
    before = state("old")
    assert train.main(train_argv(dataset, "--ckpt", "old", "--name", "new", "--num-itr", "3")) == 0
    assert state("new")["resume"]["iteration"] == 3
    assert_same_bits(before, state("old"))


def test_a_checkpoint_without_our_keys_resumes_and_says_so(dataset, capsys):
    assert train.main(train_argv(dataset, "--name", "old", "--num-itr", "3")) == 0
    kept = {key: value for key, value in state("old").items() if key in ("net", "ema", "optimizer", "sched")}
    torch.save(kept, "results/old/latest.pt")
    assert train.main(train_argv(dataset, "--ckpt", "old", "--num-itr", "5")) == 0
    assert "holds no data position and no random states" in capsys.readouterr().err
    assert state("old")["resume"]["iteration"] == 5


def test_changes_on_purpose_are_logged_and_kept(dataset, capsys):
    assert train.main(train_argv(dataset, "--name", "a", "--num-itr", "2", "--lr-gamma", "1")) == 0
    argv = train_argv(dataset, "--ckpt", "a", "--num-itr", "3", "--lr", "5e-4", "--batch-size", "8", "--lr-gamma", "1")
    assert train.main(argv) == 0
    said = capsys.readouterr().err
    assert "--lr is now 0.0005; a was trained with 0.001" in said
    assert "--batch-size is now 8; a was trained with 4" in said
    after = state("a")
    assert after["optimizer"]["param_groups"][0]["lr"] == 5e-4
    assert after["resume"]["num_images"] == 2 * 4 + 8


@pytest.mark.parametrize(("world_size", "microbatch"), [(1, 4), (2, 2), (4, 1)])
def test_all_ranks_together_see_a_permutation_per_epoch(world_size, microbatch):
    seen = []
    ranks = [rank_batches(EpochOrder(10, 3), microbatch, r, world_size, start=0) for r in range(world_size)]
    for _ in range(5):
        for rank in ranks:
            seen += next(rank)
    positions = [position for position, _ in seen]
    assert sorted(positions) == list(range(20))
    order = [index for _, index in sorted(seen)]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_another_number_of_ranks_skips_no_image():
    first = [rank_batches(EpochOrder(10, 0), 2, rank, 2, start=0) for rank in range(2)]
    then = rank_batches(EpochOrder(10, 0), 3, 0, 1, start=4)
    seen = [item for rank in first for item in next(rank)] + next(then) + next(then)
    assert sorted(index for _, index in seen) == list(range(10))


def test_two_ranks_resume_to_the_same_bits_and_agree_with_one(dataset, warm):
    def of_two(*flags):
        argv = train_argv(dataset, "--deterministic", "--microbatch", "1", *flags, corrupt="inpaint-freeform1020")
        both_end_well(*two_ranks(warm, "train", argv))

    # with dropout, for which every rank has its own random numbers
    each = ["--dropout", "0.3", "--eval-every", "2", "--eval-nfe", "1", "--keep-best", "ssim"]
    of_two("--num-itr", "6", "--name", "straight", *each)
    of_two("--num-itr", "4", "--name", "parts", "--num-workers", "1", *each)
    of_two("--num-itr", "6", "--ckpt", "parts", *each)
    assert_same_bits(state("straight"), state("parts"))
    assert logged("straight") == logged("parts")
    best = [torch.load(f"results/{name}/best.pt", weights_only=True) for name in ("straight", "parts")]
    assert best[0]["resume"]["best"] == best[1]["resume"]["best"] == state("parts")["resume"]["best"]
    assert_same_bits(*best)
    own = [random["cpu"] for random in state("straight")["resume"]["random_states"]]
    assert not torch.equal(*own)

    # and without it: from one rank to two and back the images and the noise continue
    def of_one(*flags):
        assert train.main(train_argv(dataset, *flags, corrupt="inpaint-freeform1020")) == 0

    of_one("--name", "one", "--num-itr", "6")
    of_one("--name", "mixed", "--num-itr", "2")
    of_two("--ckpt", "mixed", "--num-itr", "4")
    of_one("--ckpt", "mixed", "--num-itr", "6")
    pairs = [(logged("one")[i], logged("mixed")[i]) for i in range(1, 7)]
    print("largest relative difference of losses, 1 rank and 2:", max(abs(a / b - 1) for a, b in pairs))
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in pairs)


def test_the_network_is_the_checkpoint_s(dataset, capsys):
    assert train.main(train_argv(dataset, "--name", "a", "--num-itr", "1", "--dropout", "0.3")) == 0
    before = Path("results/a/options.json").read_bytes()
    for flags, message in (
        (["--num-head-channels", "8"], "--num-head-channels 8 (trained with num_head_channels 32)"),
        (["--channel-mult", "1,2"], "--channel-mult 1,2 (trained with channel_mult 1,1)"),
        (["--net", "small", "--attention-resolutions", ""], "--net small "),
    ):
        last = refusal(capsys, train, train_argv(dataset, "--num-itr", "2", "--ckpt", "a", *flags))
        assert "--ckpt a cannot be resumed with " in last
        assert message in last
    assert Path("results/a/options.json").read_bytes() == before

    def dropout():
        return json.loads(Path("results/a/options.json").read_text())["network"]["dropout"]

    assert train.main(train_argv(dataset, "--num-itr", "2", "--ckpt", "a")) == 0  # --net tiny, as in the first call
    assert dropout() == 0.3
    capsys.readouterr()
    assert train.main(train_argv(dataset, "--num-itr", "3", "--ckpt", "a", "--dropout", "0.1")) == 0
    assert "--dropout is now 0.1; a was trained with 0.3" in capsys.readouterr().err
    assert dropout() == 0.1


def test_evaluations_are_checked_against_the_checkpoint_s_bridge(dataset, capsys):
    flags = ["--interval", "2000", "--name", "a", "--num-itr", "1"]
    assert train.main(train_argv(dataset, *flags)) == 0
    argv = [word for word in train_argv(dataset, "--num-itr", "2", "--ckpt", "a") if word not in ("--interval", "10")]
    assert train.main([*argv, "--eval-nfe", "1500"]) == 0
    argv += ["--interval", "2000", "--eval-nfe", "2000"]
    assert refusal(capsys, train, argv) == "train.py: error: --eval-nfe 2000: must lie in 1..1999 (--interval - 1)"


# --- files of one training


def recon(name):
    return torch.load(f"results/{name}/samples_nfe2/recon.pt", weights_only=True)["arr"]


def test_options_of_another_training_are_refused_and_not_needed(dataset, capsys):
    assert train.main(train_argv(dataset, "--name", "a", "--num-itr", "1")) == 0
    assert train.main(train_argv(dataset, "--name", "b", "--num-itr", "1", "--beta-max", "1.0", "--ot-ode")) == 0
    assert sample.main(sample_argv(dataset, "a")) == 0
    before = recon("a")
    for name in ("options.pkl", "options.json"):
        beside = Path("results/a", name)
        shutil.copy(Path("results/b", name), beside)
        for module, argv in (
            (sample, [*sample_argv(dataset, "a"), "--overwrite"]),
            (train, train_argv(dataset, "--ckpt", "a", "--num-itr", "2")),
        ):
            last = refusal(capsys, module, argv)
            assert f"results/a/{name}: is not that of latest.pt (beta_max 1.0, not 0.3; ot_ode True, not False)" in last
            assert "remove it" in last
        beside.unlink()
        assert sample.main([*sample_argv(dataset, "a"), "--overwrite"]) == 0
        assert torch.equal(recon("a"), before)


def test_a_kill_between_the_two_renames_mixes_nothing(dataset, capsys, monkeypatch):
    """--overwrite with another bridge, ended after options.pkl has its new content and before latest.pt has."""
    assert train.main(train_argv(dataset, "--name", "a", "--num-itr", "1")) == 0
    replace = Path.replace

    def killed(self, target):
        if Path(target).name == "latest.pt":
            os._exit(9)
        return replace(self, target)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(Path, "replace", killed)
        train.main(train_argv(dataset, "--name", "a", "--num-itr", "1", "--overwrite", "--interval", "20"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    last = refusal(capsys, sample, sample_argv(dataset, "a"))
    assert "options.pkl: is not that of latest.pt (interval 20, not 10)" in last
