"""Well-formed files with senseless content: every option, network argument and part of a checkpoint replaced.

What the scripts cannot use they refuse in one line that names the file; what has no weight they take.
"""

import argparse
import copy
import math
import pickle
import random
import shutil

import pytest
import torch
from small_runs import metrics_argv, photos, sample_argv, train_argv

import compute_metrices
import sample
import train

ODD = [None, True, -1, 0, 3, 2**62, 0.5, math.nan, math.inf, 1e300, "", "x", "../x", b"x", [], [1], (), {}, {"a": 1}]
ODD_PARTS = [None, -1, 2**60, 0.5, math.nan, "x", [], {}, [1], torch.zeros(3), torch.zeros(2, 2).long(), "removed"]
SCALER = {"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 0}
RESUME = ["--ckpt", "a", "--corrupt", "sr4x-pool", "--num-itr", "2", "--device", "cpu", "--num-workers", "0"]
RESUME += ["--eval-every", "0", "--batch-size", "4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    dataset = photos(folder / "photos", train=11, val=1, size=16)
    flags = ["--name", "a", "--image-size", "16", "--interval", "4", "--num-itr", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(train_argv(dataset, *flags)) == 0
        assert sample.main(sample_argv(dataset, "a")) == 0
        shutil.copytree("results", "good")
        yield folder


def run(place, capsys, module, **files) -> tuple[int, str]:
    """Exit code and last line of a script, with `files` in place of results/a/FILE.pkl or FILE.pt."""
    shutil.rmtree(place / "results")
    shutil.copytree(place / "good", place / "results")
    if "options" in files:
        (place / "results/a/options.pkl").write_bytes(pickle.dumps(argparse.Namespace(**files["options"]), protocol=4))
    if "latest" in files:
        torch.save(files["latest"], place / "results/a/latest.pt")
    argv = {
        sample: sample_argv(place / "photos", "a", "--overwrite"),
        compute_metrices: metrics_argv(place / "photos", "a", "samples_nfe2"),
        train: [*RESUME, "--dataset-dir", str(place / "photos")],
    }[module]
    capsys.readouterr()
    code = module.main(argv)
    lines = capsys.readouterr().err.strip().splitlines()
    if code:
        assert code == 2, lines[-1]
        assert lines[-1].startswith(f"{module.__name__}.py: error: "), lines[-1]
        assert len(lines[-1]) < 900
    return code, lines[-1] if lines else ""


def good_options(place) -> dict:
    return vars(pickle.loads((place / "good/a/options.pkl").read_bytes()))


def options_cases(place):
    good = good_options(place)
    for key in good:
        yield from (({**good, key: odd}, key, odd) for odd in ODD)
    for key in good["network"]:
        yield from (({**good, "network": {**good["network"], key: odd}}, key, odd) for odd in ODD)


def places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in list(items)[: 3 if at else None]:
        yield from places(item, (*at, key))


def replaced(value, at, odd):
    """A copy of nested `value` with `odd` at the keys `at`; "removed": without that entry."""
    if not at:
        return odd
    new = copy.copy(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and odd == "removed":
        del new[at[0]]
    else:
        new[at[0]] = replaced(value[at[0]], at[1:], odd)
    return new


def latest_cases(place):
    good = torch.load(place / "good/a/latest.pt", weights_only=True)
    for at in places(good):
        yield from ((replaced(good, at, odd), at, odd) for odd in ODD_PARTS if not isinstance(odd, str) or at)


def try_all(place, capsys, cases, scripts, file) -> tuple[int, int]:
    counts = [0, 0]
    for content, _, _ in cases:
        for module in scripts:
            code, _ = run(place, capsys, module, **{file: content})
            counts[code == 0] += 1
    return tuple(counts)


def some(cases, count):
    return random.Random(0).sample(list(cases), count)


def test_odd_options(place, capsys):
    refused, _ = try_all(place, capsys, some(options_cases(place), 40), [sample, train], "options")
    assert refused > 10


def test_odd_checkpoints(place, capsys):
    refused, _ = try_all(place, capsys, some(latest_cases(place), 60), [train], "latest")
    assert refused > 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interval": None}, "options.pkl: refused: its option interval is None"),
        ({"interval": 2**40}, "options.pkl: refused: its option interval is 1099511627776"),
        ({"seed": 2**62}, "options.pkl: refused: its option seed is"),
        ({"corrupt": "rain"}, "options.pkl: refused: its option corrupt is 'rain'"),
        ({"t0": 2.0}, "options.pkl: refused: its option t0 is 2, which is not below T, 1"),
        ({"network": "x"}, "options.pkl: refused: its network is 'x', not named arguments"),
    ],
)
def test_the_line_names_the_option(place, capsys, change, message):
    for module in (sample, compute_metrices, train):
        code, last = run(place, capsys, module, options={**good_options(place), **change})
        assert code == 2
        assert message in last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_channels": 4096}, "its network does not fit"),
        ({"num_channels": 2**14}, "results/a: the network cannot be built: it would have 78922465283 parameters"),
        ({"num_res_blocks": 2**62}, "num_res_blocks is 4611686018427387904, which is not legal"),
        ({"channel_mult": "1," * 40 + "1"}, "channel_mult has 41 levels"),
        ({"learn_sigma": True}, "learn_sigma is for other models"),
        ({"channel_mult": True}, "channel_mult is True, which is not legal"),
        ({"channel_mult": 3}, "channel_mult is 3, which is not legal"),
        ({"channel_mult": [None]}, "channel_mult is [None], which is not legal"),
        ({"attention_resolutions": False}, "attention_resolutions is False, which is not legal"),
        ({"num_head_channels": 0.5}, "num_head_channels is 0.5, which is not legal"),
    ],
)
def test_the_line_names_the_network(place, capsys, change, message):
    good = good_options(place)
    code, last = run(place, capsys, sample, options={**good, "network": {**good["network"], **change}})
    assert code == 2
    assert message in last


@pytest.mark.parametrize(
    ("at", "odd", "message"),
    [
        (("ema", "decay"), "x", "its average of weights has the decay 'x'"),
        (("ema", "shadow_params", 0), torch.zeros(3), "its average of weights does not fit the network"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(3), "no sound state of parameter 0"),
        (("optimizer", "param_groups", 0, "lr"), math.nan, "its optimizer has the lr nan"),
        (("optimizer", "param_groups", 0, "lr"), 1e300, "its optimizer has the lr 1e+300"),
        (("optimizer", "param_groups", 0, "weight_decay"), 1e300, "its optimizer has the weight_decay 1e+300"),
        (("optimizer", "param_groups", 0, "betas"), (1.0, 1.0), "its optimizer has the betas (1.0, 1.0)"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(1).expand(9), "latest.pt: refused: it calls torch._utils"),
        (("sched", "base_lrs"), [1e300], "its sched has base_lrs [1e+300]"),
        (("scaler",), {**SCALER, "scale": 1e300}, "its scaler has no sound scale"),
        (("scaler",), {**SCALER, "_growth_tracker": 2**40}, "its scaler has no sound _growth_tracker"),
        (("sched", "step"), 3, "its sched is not the state of a StepLR"),
        (("sched", "step_size"), 0, "its sched has step_size 0"),
        (("resume", "iteration"), -1, "its resume has iteration -1"),
        (("resume", "random_states", 0, "cpu"), torch.zeros(9, dtype=torch.uint8), "its random_states are none"),
    ],
)
def test_the_line_names_the_part(place, capsys, at, odd, message):
    good = torch.load(place / "good/a/latest.pt", weights_only=True)
    if at == ("sched", "step"):
        good["sched"]["step"] = None
    code, last = run(place, capsys, train, latest=replaced(good, at, odd))
    assert code == 2
    assert f"results/a/latest.pt: refused: {message}" in last or message in last


@pytest.mark.parametrize("metadata", [[1], {"": 5}, {"diffusion_model": {"version": "x"}}])
def test_what_a_state_dict_says_of_itself_has_no_weight(place, capsys, metadata):
    good = torch.load(place / "good/a/latest.pt", weights_only=True)
    good["net"]._metadata = metadata
    for module in (sample, train):
        code, last = run(place, capsys, module, latest=good)
        assert code == 0, last


@pytest.mark.slow
def test_thousands_of_odd_values(place, capsys):
    scripts = [sample, compute_metrices, train]
    of_options = try_all(place, capsys, options_cases(place), scripts, "options")
    of_parts = try_all(place, capsys, latest_cases(place), [sample, train], "latest")
    with capsys.disabled():
        print(f"options: {of_options}, checkpoints: {of_parts} (refused, taken)")
    assert sum(of_options) > 2000
    assert sum(of_parts) > 500
