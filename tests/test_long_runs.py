"""Long runs and what befalls them: kills, full disks, two hosts, stopped ranks, little memory; see docs/measured.md."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import BIN, ROOT, free_port, is_alive, names, stand_in_for_ssh, two_hosts_fixture, until  # noqa: F401
from small_runs import NAME, images, iteration, logged, metrics_argv, photos, sample_argv, train_argv

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc, namespaces and tmpfs are Linux's"),
]
KILLS, SAMPLING_KILLS, JUDGE_KILLS = 10, 20, 10  # the first in each of eight phases
ITERATIONS = 2000
FOLDER = Path("results", NAME)
FOREVER = ("--num-itr", "100000", "--save-every", "1", "--ckpt", NAME)


@pytest.fixture(scope="module")
def place(tmp_path_factory, server):
    """A folder with a data set, the checkpoint results/sr4x-pool of four iterations, and judged samples_nfe2."""
    folder = tmp_path_factory.mktemp("place")
    photos(folder / "photos", train=20, val=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for script, argv in (("train", train_argv("photos")), ("sample", sampling()), ("compute_metrices", judging())):
            assert server(script, argv).wait()[0] == 0
    return folder


def sampling(*more):
    return sample_argv("photos", NAME, *more)


def judging(folder="samples_nfe2", *more):
    return metrics_argv("photos", NAME, folder, *more)


def ranks(pid: int) -> list[int]:
    """The ranks that a training has started."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- kills


# phase -> flags, what is said before the kill, seconds that may pass between; inside a save: see `sixty_kills`
PHASES = {
    "resuming": ([], "", 1),
    "steps": ([], "| loss", 0.5),
    "evaluation": (["--eval-every", "1"], "[Eval]", 0.5),
    "loaders": (["--num-workers", "2"], "| loss", 0.5),
    "two ranks": (["--n-gpu-per-node", "2", "--microbatch", "1"], "| loss", 0.5),
    "one of two ranks": (["--n-gpu-per-node", "2", "--microbatch", "1"], "| loss", 0.5),
}


@pytest.mark.parametrize("phase", PHASES)
def test_kills_of_trainings(here, warm, phase):
    """kill -9; what was said to be saved is saved, the next run resumes there, and nobody is left."""
    draw, last, (flags, words, seconds) = random.Random(phase), iteration(), PHASES[phase]
    for _ in range(KILLS):
        run = warm("train", train_argv("photos", *FOREVER, *flags))
        run.until(words)
        time.sleep(draw.uniform(0, seconds))
        os.kill(ranks(run.pid)[1] if phase == "one of two ranks" else run.pid, signal.SIGKILL)
        until(lambda run=run: not run.left())
        reached = iteration()  # a whole file, whatever the moment
        assert reached >= max([last, *map(int, re.findall(r"\[Save\].*iteration (\d+)", run.said()))])
        assert "Traceback" not in run.said()
        last = reached
    assert warm("train", train_argv("photos", "--ckpt", NAME, "--num-itr", last + 1)).wait()[0] == 0
    assert not list(FOLDER.glob(".*.tmp"))


def test_kills_of_trainings_that_start(here):
    """The libraries are not loaded yet: a real process, killed after a part of the CPU time that a start takes."""
    draw, said = random.Random(0), Path("said")
    for _ in range(KILLS):
        moment = draw.uniform(0, 4)
        command = [sys.executable, ROOT / "train.py", *train_argv("photos", *FOREVER)]
        process = subprocess.Popen(command, stderr=said.open("w"))
        until(lambda process=process, moment=moment: cpu_seconds(process.pid) > moment or "[Train]" in said.read_text())
        process.kill()
        process.wait()
        assert "Traceback" not in said.read_text()
        assert iteration() >= 4


def whole_run(warm, script, argv) -> float:
    """Seconds that an uninterrupted run takes."""
    begun = time.monotonic()
    assert warm(script, argv).wait()[0] == 0
    return time.monotonic() - begun


def kills(warm, script, argv, count, seconds, check):
    """kill -9 `count` runs at random moments; `check(whether it was killed)` after each."""
    draw, done = random.Random(0), 0
    while done < count:
        run = warm(script, argv)
        killed = run.kill(signal.SIGKILL, draw.uniform(0, seconds))
        until(lambda run=run: not run.left())
        assert "Traceback" not in run.said()
        done += killed
        check(killed)


def test_kills_while_an_lmdb_is_built(here, warm):
    for number in range(100):  # of 20 images each
        shutil.copytree("photos/train", f"many/{number}", copy_function=os.link)
    argv, verify = ["many", "many.lmdb"], ["--verify", "many.lmdb"]

    def check(_):
        if Path("many.lmdb").exists():
            assert warm("build_lmdb", verify).wait() == (0, "many.lmdb: 2000 images read, 0 faults")
            remove()

    def remove():
        shutil.rmtree("many.lmdb")
        Path("many.lmdb.pt").unlink()

    seconds = whole_run(warm, "build_lmdb", argv)
    remove()
    kills(warm, "build_lmdb", argv, KILLS, seconds, check)
    whole_run(warm, "build_lmdb", argv)
    check(False)
    assert not [name for name in names(here) if "partial" in name]


def test_kills_of_sampling(here, warm):
    argv = sampling("--nfe", "9", "--batch-size", "2", "--save-images", "png")
    seconds, recon = whole_run(warm, "sample", argv), FOLDER / "samples_nfe9/recon.pt"
    expected = recon.read_bytes()

    def check(killed):
        if recon.exists():
            assert recon.read_bytes() == expected
            shutil.rmtree(recon.parent)

    check(False)
    kills(warm, "sample", argv, SAMPLING_KILLS, seconds, check)
    whole_run(warm, "sample", argv)
    assert recon.read_bytes() == expected
    assert len(list(recon.parent.rglob("*.png"))) == 24
    assert not [*recon.parent.rglob("*.tmp"), *recon.parent.glob(".recon.parts")]


def test_kills_of_judging(here, warm):
    argv, scores = judging("samples_nfe2", "--report"), ("metrics.json", "metrics_per_image.csv", "report.html")
    seconds, folder = whole_run(warm, "compute_metrices", argv), FOLDER / "samples_nfe2"
    expected = {name: (folder / name).read_bytes() for name in scores}

    def check(killed):
        for name in set(scores) & set(names(folder)):  # whole, or not there
            assert (folder / name).read_bytes() == expected[name]
            (folder / name).unlink()

    check(False)
    kills(warm, "compute_metrices", argv, JUDGE_KILLS, seconds, check)
    whole_run(warm, "compute_metrices", argv)
    assert {name: (folder / name).read_bytes() for name in scores} == expected
    assert not list(folder.glob(".*.tmp"))


# --- full disks


@pytest.fixture
def disk(place, tmp_path, monkeypatch):
    """The current folder: a copy of `place` on a disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr}")
    shutil.copytree(place, folder / "run")
    monkeypatch.chdir(folder / "run")
    yield folder
    monkeypatch.undo()
    subprocess.run(["umount", "--lazy", folder], check=True)


# script, arguments, KiB that are free: latest.pt has 4944 of them, what is restored 288, recon.pt 292
TRAINING = train_argv("photos", "--ckpt", NAME, "--num-itr", "6")
MOMENTS = [
    *(("train", TRAINING, free) for free in (0, 16, 500, 2500, 4940, 4948)),
    ("train", [*TRAINING, "--log-writer", "tensorboard"], 40),
    *(("sample", sampling("--nfe", "3", "--batch-size", "4"), free) for free in (0, 20, 150, 400)),
    ("compute_metrices", judging(), 0),
    ("report", ["--ckpt", NAME, "--dataset-dir", "photos", "--sample-dir", "samples_nfe2"], 40),
    ("sweep_nfe", sampling("--nfe", "2", "--metrics", "psnr", "ssim"), 8),
    ("build_lmdb", ["photos/train", "photos/x.lmdb"], 8),
]


@pytest.mark.parametrize(("script", "argv", "free"), MOMENTS)
def test_full_disks(disk, warm, script, argv, free):
    before, filler = {path: path.read_bytes() for path in FOLDER.glob("*.*") if path.is_file()}, disk / "filler"
    space = os.statvfs(disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - free * 1024))
    code, line = warm(script, argv).wait()
    assert code == 2, line
    assert line.startswith(f"{script}.py: error: ")
    assert re.search("No space left|ENOSPC|are free", line)
    assert {path: path.read_bytes() for path in before} == before
    filler.unlink()
    assert warm(script, argv).wait()[0] == 0
    assert not list(disk.rglob(".*.tmp"))


# --- ranks and hosts


def test_two_hosts_under_mpirun(here, two_hosts, tmp_path, warm):
    flags = ["--num-itr", "6", "--microbatch", "2"]
    (tmp_path / "hosts").write_text("10.7.0.1 slots=1\n10.7.0.2 slots=1\n")
    agent = stand_in_for_ssh(tmp_path, two_hosts[1])
    mpi = {"PRTE_MCA_plm_ssh_agent": str(agent), "PRTE_MCA_prte_default_hostfile": str(tmp_path / "hosts")}
    place = ["--num-proc-node", "2", "--master-address", "10.7.0.1", "--master-port", str(free_port())]
    command = [sys.executable, str(ROOT / "train.py"), *train_argv("photos", *flags, "--name", "hosts"), *place]
    mpirun = [*two_hosts[0], str(BIN / "mpirun"), "--allow-run-as-root", "-np", "2", "-x", "GLOO_SOCKET_IFNAME=here"]
    environ = {**os.environ, **mpi, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [*mpirun, "bash", "-c", f"cat /proc/net/fib_trie > net.$OMPI_COMM_WORLD_RANK; exec {shlex.join(command)}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [f"10.7.0.{host}" in Path(f"net.{host - 1}").read_text() for host in (1, 2)] == [True, True]
    assert warm("train", train_argv("photos", *flags, "--name", "one", "--microbatch", "4")).wait()[0] == 0
    assert logged("hosts") == pytest.approx(logged("one"), rel=1e-4)


def test_a_rank_that_is_stopped_for_a_while(here, warm):
    flags = ["--n-gpu-per-node", "2", "--microbatch", "1", "--num-itr", "40"]
    assert warm("train", train_argv("photos", "--name", "alone", *flags)).wait()[0] == 0
    run = warm("train", train_argv("photos", "--name", "stopped", *flags))
    run.until("| loss")
    stopped = ranks(run.pid)[1]
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(15)
    assert is_alive(run.pid)  # the other waits
    os.kill(stopped, signal.SIGCONT)
    assert run.wait()[0] == 0
    assert logged("stopped") == logged("alone")
    run = warm("train", train_argv("photos", *FOREVER, *flags[:4]))
    run.until("| loss")
    os.kill(ranks(run.pid)[1], signal.SIGSTOP)
    for _ in range(2):
        run.kill(signal.SIGINT, seconds=2)
    assert run.wait() == (130, "interrupted twice: all processes are killed")
    until(lambda: not run.left())
    assert iteration() >= 4


def test_four_ranks_on_two_cores(here, warm):
    flags = ["--num-itr", "20", "--batch-size", "8"]
    for name, more in (("one", ["--microbatch", "4"]), ("four", ["--microbatch", "1", "--n-gpu-per-node", "4"])):
        assert warm("train", train_argv("photos", *flags, "--name", name, *more)).wait()[0] == 0
        assert warm("sample", sampling("--overwrite", "--batch-size", "3", *more[2:])).wait()[0] == 0
        (FOLDER / "samples_nfe2").rename(FOLDER / name)
    assert logged("four") == pytest.approx(logged("one"), rel=1e-4)
    assert torch.equal(images(FOLDER / "four"), images(FOLDER / "one"))


def test_the_memory_of_a_long_training_is_constant(here, warm):
    flags = ["--num-itr", ITERATIONS, "--log-every", "100", "--eval-every", "250", "--save-every", "100"]
    assert warm("train", train_argv("photos", "--name", "long", *flags, "--num-workers", "2")).wait()[0] == 0
    peaks = logged("long", "peak_memory_gib")
    growth = 1024 * (peaks[ITERATIONS] - peaks[600])
    print(f"peak memory after {ITERATIONS} iterations: {growth:.1f} MiB more than after 600")
    assert growth < 12


# --- places that are not as they should be


SHM = "unshared('mount -t tmpfs -o size=4k none /dev/shm')"
READONLY = "mount --bind $PWD $PWD && mount -o remount,bind,ro $PWD && mount -o remount,bind,ro /"
READONLY = f"unshared('{READONLY} && mount -o remount,bind,ro /dev/shm')"
# what the fork runs first, and the exit codes it may have; those of scripts without loaders last
PLACES = {
    "/dev/shm of 4 kB": (SHM, {2}, {0}),
    "read-only": (READONLY, {2}, {2}),
    "no home": ("os.environ.update(HOME='/proc/nowhere'); os.environ.pop('XDG_STATE_HOME', 0)", {0}, {0}),
    "closed stdout": ("os.close(1); sys.stdout = None", {0}, {0}),
    # 60: two ranks run out of it while SciPy loads, whose OpenBLAS then tries again for ever, or exits with 127.
    **{f"ulimit -v: {more} MiB more": (f"limited({more})", {0, 2}, {0, 2}) for more in (0, 20, 200)},
}
LOADERS = ["--num-workers", "2", "--batch-size", "4"]
SCRIPTS = [
    ("train", [*TRAINING, *LOADERS]),
    ("train", [*TRAINING, "--n-gpu-per-node", "2", "--microbatch", "1"]),
    ("sample", sampling("--nfe", "3", *LOADERS)),
    ("compute_metrices", judging("samples_nfe2", *LOADERS)),
    ("sweep_nfe", sampling("--nfe", "4", "--metrics", "psnr", *LOADERS)),
    ("report", ["--ckpt", NAME, "--dataset-dir", "photos", "--sample-dir", "samples_nfe2"]),
    ("build_lmdb", ["photos/train", "photos/x.lmdb"]),
]


@pytest.mark.parametrize(("script", "argv"), SCRIPTS)
@pytest.mark.parametrize("place_is", PLACES)
def test_places_that_are_not_as_they_should_be(place, warm, monkeypatch, tmp_path_factory, script, argv, place_is):
    before, with_loaders, without = PLACES[place_is]
    folder = tmp_path_factory.mktemp("open") / "run"
    shutil.copytree(place, folder)
    for parent in [folder, *folder.rglob("*")]:
        parent.chmod(0o777)
    monkeypatch.chdir(folder)
    run = warm(script, argv, before)
    code, line = run.wait()
    if "unshare" in line:
        pytest.skip("no namespaces here")
    assert code in (without if script in ("report", "build_lmdb") else with_loaders), line
    assert "Traceback" not in run.said()
    assert bool(re.search(r"^\w+\.py: error: ", run.said(), re.MULTILINE)) == (code != 0)  # a rank's; others may log on
