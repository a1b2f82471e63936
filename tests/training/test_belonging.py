"""Files of one training belong together: latest.pt holds its own description, whatever lies beside it."""

import os
import shutil
from pathlib import Path

import torch
from small_runs import sample_argv, train_argv

import sample
import train


def last_line(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


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
        capsys.readouterr()
        for script, argv in (
            (sample, [*sample_argv(dataset, "a"), "--overwrite"]),
            (train, train_argv(dataset, "--ckpt", "a", "--num-itr", "2")),
        ):
            assert script.main(argv) == 2
            last = last_line(capsys)
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
    assert sample.main(sample_argv(dataset, "a")) == 2
    assert "options.pkl: is not that of latest.pt (interval 20, not 10)" in last_line(capsys)
