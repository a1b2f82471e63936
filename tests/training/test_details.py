"""Numbered checkpoints, evaluations, averages, W&B, and two ranks that agree on all of it."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from small_runs import logged, photos, refusal, script, train_argv
from test_resume import state
from warm import two_ranks

import train
from i2sb import ckpt_util
from i2sb.ckpt_util import load_checkpoint
from i2sb.meter import Meter
from i2sb.noise import TrainingDraws

GRIDS = {
    *(f"image/{kind}" for kind in ("degraded", "restored", "clean", "degraded_restored_clean")),
    "trajectory/restored",
    "trajectory/predicted_clean",
}


def test_numbered_checkpoints_need_not_fall_on_saves(dataset):
    flags = ["--num-itr", "7", "--save-every", "1000", "--keep-every", "3", "--name", "a"]
    assert train.main(train_argv(dataset, *flags)) == 0
    saved = {path.name: load_checkpoint(path)["resume"]["iteration"] for path in Path("results/a").glob("*.pt")}
    assert saved == {"iteration_0000003.pt": 3, "iteration_0000006.pt": 6, "latest.pt": 7}


@pytest.mark.parametrize(("flag", "layout"), [("--channels-last", True), ("--no-channels-last", False)])
def test_a_resumed_training_keeps_its_layout(dataset, flag, layout):
    assert train.main(train_argv(dataset, "--num-itr", "1", "--name", "a", flag)) == 0
    assert train.main(train_argv(dataset, "--num-itr", "2", "--ckpt", "a")) == 0
    assert load_checkpoint("results/a/latest.pt")["options"]["channels_last"] is layout


def test_what_the_former_training_leaves_is_named(dataset, capsys):
    argv = train_argv(dataset, "--num-itr", "1", "--name", "a")
    assert train.main([*argv, "--keep-every", "1"]) == 0
    assert train.main([*argv, "--overwrite"]) == 0
    assert "results/a: has files of another training: iteration_0000001.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "capabilities", "slow"),
    [
        ("bf16", {"avx512_bf16": True}, False),
        ("bf16", {"avx512_bf16": False, "avx512_fp16": True}, True),
        ("bf16", {}, False),  # older torch says nothing
        ("fp32", {"avx512_bf16": False}, False),
    ],
)
def test_half_precision_without_instructions_for_it_is_called_slow(
    dataset, capsys, monkeypatch, asked, capabilities, slow
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert train.main(train_argv(dataset, "--num-itr", "1", "--precision", asked)) == 0
    assert ("no instructions for it; fp32 is faster" in capsys.readouterr().err) is slow


def test_a_numbered_checkpoint_is_there_whenever_the_run_was_killed(dataset, monkeypatch):
    argv = train_argv(dataset, "--keep-every", "3", "--name", "a")
    assert train.main([*argv, "--num-itr", "3"]) == 0
    kept = Path("results/a/iteration_0000003.pt")
    kept.unlink()  # killed after latest.pt
    assert train.main([*argv, "--ckpt", "a", "--num-itr", "4"]) == 0
    before = kept.read_bytes()
    assert load_checkpoint(kept)["resume"]["iteration"] == 3

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ckpt_util.os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        ckpt_util.keep_checkpoint(Path("results/a/latest.pt"), "iteration_0000003.pt")
    assert kept.read_bytes() == before


def test_a_file_system_without_links_gets_copies(dataset, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ckpt_util.os, "link", no_links)
    assert train.main(train_argv(dataset, "--num-itr", "2", "--keep-every", "1", "--name", "a")) == 0
    folder = Path("results/a")
    assert (folder / "iteration_0000002.pt").read_bytes() == (folder / "latest.pt").read_bytes()
    assert (folder / "iteration_0000001.pt").stat().st_ino != (folder / "latest.pt").stat().st_ino


def test_the_loss_is_the_mean_over_micro_batches_and_iterations(dataset, monkeypatch):
    from i2sb.runner import Runner

    losses, compute = [], Runner.training_loss

    def noted(*args):
        losses.append(compute(*args))
        return losses[-1]

    monkeypatch.setattr(Runner, "training_loss", noted)
    flags = ["--num-itr", "5", "--batch-size", "6", "--microbatch", "2", "--log-every", "3", "--name", "a"]
    assert train.main(train_argv(dataset, *flags)) == 0
    values = [loss.item() for loss in losses]
    assert len(values) == 15
    expected = {3: sum(values[:9]) / 9, 5: sum(values[9:]) / 6}
    assert logged("a", "loss") == pytest.approx(expected, rel=1e-5)


def test_a_new_training_starts_from_what_fits_of_another(dataset, capsys):
    """--init-from with other channels, levels and bridge; the steps of the new training are too small to matter."""
    assert train.main(train_argv(dataset, "--name", "rgb", "--num-itr", "2")) == 0
    before = state("rgb")
    trained = dict(zip(before["net"], before["ema"]["shadow_params"], strict=True))
    flags = ["--lr", "1e-12", "--num-itr", "1", "--interval", "20", "--channels", "1", "--channel-mult", "1,1,2"]
    for name, source in (("by-name", "rgb"), ("by-file", "results/rgb/latest.pt")):
        capsys.readouterr()
        argv = train_argv(dataset, *flags, "--init-from", source, "--name", name, corrupt="denoise-25")
        assert train.main(argv) == 0
        said = capsys.readouterr().err
        assert "of RGB, adapted to 1 channel; of 1" in said
        assert " stay random: input_blocks.4.0.op, " in " ".join(said.split())
        after = state(name)
        assert (after["resume"]["iteration"], after["options"]["interval"]) == (1, 20)
        fitting = [key for key, value in after["net"].items() if key in trained and value.shape == trained[key].shape]
        assert "diffusion_model.middle_block.0.in_layers.2.weight" not in fitting  # twice as wide
        assert len(fitting) > 40
        for key in fitting:
            torch.testing.assert_close(after["net"][key], trained[key], rtol=0, atol=1e-8)
        first = "diffusion_model.input_blocks.0.0.weight"
        torch.testing.assert_close(after["net"][first], trained[first].sum(1, keepdim=True))
    last = refusal(capsys, train, train_argv(dataset, "--init-from", "rgb", "--name", "b", "--num-channels", "64"))
    assert "--init-from: nothing of results/rgb/latest.pt fits the network of the options" in last


def test_the_speed_is_that_of_training_alone(monkeypatch):
    now = 0.0
    monkeypatch.setattr("i2sb.meter.time.perf_counter", lambda: now)
    meter = Meter(torch.device("cpu"), batch_size=10)
    for now in (1.0, 4.0):  # training from 0 to 1 and from 3 to 4, evaluation in between
        meter.add(torch.tensor(1.0), torch.tensor(1.0))
        if now == 1.0:
            with meter.paused():
                now = 3.0
    assert meter.read()["images_per_second"] == 20 / 2


def test_evaluations_at_0_and_500_and_in_between(dataset):
    argv = train_argv(dataset, "--eval-every", "499", "--eval-nfe", "1")
    assert train.main([*argv, "--name", "a", "--num-itr", "2"]) == 0
    state = torch.load("results/a/latest.pt", weights_only=True)
    state["resume"]["iteration"] = 497
    torch.save(state, "results/a/latest.pt")
    assert train.main([*argv, "--ckpt", "a", "--num-itr", "502"]) == 0
    assert list(logged("a", "psnr/restored")) == [0, 499, 500]
    assert set(logged("a", "psnr/restored")) == set(logged("a", "psnr/degraded"))


def test_another_data_set_is_logged(dataset, tmp_path, capsys):
    assert train.main(train_argv(dataset, "--num-itr", "2", "--name", "a")) == 0
    more = photos(tmp_path / "more", train=44)
    assert train.main(train_argv(more, "--num-itr", "3", "--ckpt", "a")) == 0
    said = capsys.readouterr().err
    assert said.count("images and had 40: the order differs") == 1
    assert train.main(train_argv(more, "--num-itr", "4", "--ckpt", "a")) == 0
    assert "not those of before" not in capsys.readouterr().err
    same_names = photos(tmp_path / "same names", train=44)
    next((same_names / "train").rglob("*.png")).write_bytes(next((same_names / "val").rglob("*.png")).read_bytes())
    assert train.main(train_argv(same_names, "--num-itr", "5", "--ckpt", "a")) == 0
    assert "the training images are not those of before" in capsys.readouterr().err


def test_noise_of_a_gpu_run_continues_as_far_as_a_cpu_can():
    one, other = (TrainingDraws(0, 2, "cpu", seed=seed) for seed in (0, 1))
    state = {**one.state_dict(), "device": torch.zeros(16, dtype=torch.uint8)}  # what a CUDA generator's looks like
    other.load_state_dict(state)
    assert torch.equal(one.integers(1000, 8), other.integers(1000, 8))


def test_two_ranks_evaluate_like_one_and_stop_together(dataset, warm, capsys):
    argv = train_argv(dataset, "--num-itr", "40", "--eval-every", "1000", "--eval-nfe", "2", "--lr", "1e30")
    argv += ["--max-nonfinite", "3", "--save-every", "1", "--keep-best", "loss", "--eval-images", "8"]
    alone = refusal(capsys, train, [*argv, "--microbatch", "4", "--name", "one"])
    ranks = two_ranks(warm, "train", [*argv, "--microbatch", "2", "--name", "two"])
    # the first step spoils the weights: no finite gradients
    assert "--max-nonfinite 3: as many consecutive steps had NaN or inf in loss or gradients" in alone
    assert [rank.wait() for rank in ranks] == [(2, alone.replace("/one/", "/two/"))] * 2
    assert logged("one", "skipped_steps") == logged("two", "skipped_steps")
    for key in ("psnr/degraded", "psnr/restored", "loss/restored"):
        assert logged("two", key)[0] == pytest.approx(logged("one", key)[0], rel=1e-5)


def test_wandb_offline_has_scalars_grids_and_options(dataset, tmp_path):
    secret = "0123456789abcdef" * 2 + "feedbeef"
    flags = ["--num-itr", "3", "--eval-every", "2", "--eval-nfe", "2", "--log-writer", "wandb", "--name", "a"]
    variables = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = script("train", train_argv(dataset, *flags, "--wandb-api-key", secret), tmp_path, env=variables)
    assert done.returncode == 0, done.stderr
    assert "[Log] offline, send it by: wandb sync " in done.stderr
    (run,) = Path(".log/wandb").glob("offline-run-*")
    pictures = {"/".join(path.relative_to(run / "files/media/images").parts) for path in run.rglob("*.png")}
    assert {name.rsplit("_", 2)[0] for name in pictures} == GRIDS
    assert len(pictures) == 2 * len(GRIDS)  # iterations 0 and 2
    rows = history(next(run.glob("*.wandb")))
    assert [rows[step]["loss"] for step in (1, 2, 3)] == pytest.approx(list(logged("a", "loss").values()))
    assert [rows[step]["psnr/restored"] for step in (0, 2)] == pytest.approx(
        list(logged("a", "psnr/restored").values())
    )
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert secret.encode() not in path.read_bytes(), path


def history(path: Path) -> dict[int, dict]:
    """step -> values of an offline run."""
    rows = {}
    for record in records_of(path):
        if record.HasField("history"):
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            rows.setdefault(int(row["_step"]), {}).update(row)
    return rows


def records_of(path: Path) -> list:
    """The records of a run-ID.wandb file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, pieces, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if position % 32768 > 32768 - 7:  # no room for a header at the end of a block
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        pieces += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole one, or the last piece of one
            records.append(Record.FromString(pieces))
            pieces = b""
    return records
