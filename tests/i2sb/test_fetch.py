"""Files on Google Drive, published checkpoints and the script that fetches them."""

import argparse
import io
import os
import pickle
import random
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import ROOT, names
from webserver import PERMISSION_PAGE, Site, closed_address, serving

from i2sb import addresses, fetch
from i2sb.errors import UserError
from i2sb.runtime.download import download
from i2sb.runtime.drive import download_drive_file, download_drive_folder

DATA = random.Random(0).randbytes(1_000_000)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def site():
    with serving(Site(DATA)) as site:
        yield site


# --- Google Drive


def test_a_drive_file(site, tmp_path):
    path = download_drive_file("abc", tmp_path / "masks.npz", base=site.url, what="the masks")
    assert path.read_bytes() == DATA
    assert site.requests == [("/download?id=abc&export=download&confirm=t", None)]


def test_a_drive_file_behind_the_page_about_viruses(site, tmp_path):
    page = (
        b'<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title><form id="download-form" '
        b'action="https://elsewhere.example/download" method="get"><input type="submit" value="Download"/>'
        b'<input type="hidden" name="id" value="abc"><input type="hidden" name="confirm" value="t&amp;1">'
        b'<input type="hidden" name="uuid" value="1-2"></form></html>'
    )
    site.answer = lambda handler: (
        handler.send_part(site) if "uuid=1-2" in handler.path else handler.send_page(page)
    )
    path = download_drive_file("abc", tmp_path / "masks.npz", base=site.url)
    assert path.read_bytes() == DATA
    assert site.requests[1][0] == "/download?id=abc&confirm=t%261&uuid=1-2"


@pytest.mark.parametrize("status", [200, 403])
def test_a_drive_file_without_permission(site, tmp_path, status):
    site.answer = lambda handler: handler.send_page(PERMISSION_PAGE, status)
    path = tmp_path / "masks.npz"
    with pytest.raises(UserError) as caught:
        download_drive_file("abc", path, base=site.url, what="the masks")
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("the masks: could not fetch ")
    assert "(Google Drive - Access Denied)" in message
    assert " (Google Drive asks for a permission for some files, and limits how often" in message
    assert f"fetch it by hand from https://drive.google.com/file/d/abc/view and put it at {path}" in message
    assert names(tmp_path) == []


def test_a_drive_folder(site, tmp_path):
    ids = {"latest.pt": "one", "options.pkl": "two", "more.txt": "three"}
    (tmp_path / "options.pkl").write_bytes(b"by hand")
    wanted = ("options.pkl", "latest.pt")
    fetched = download_drive_folder("F", tmp_path, wanted, list_folder=lambda _: ids, base=site.url)
    assert fetched == [tmp_path / "latest.pt"]
    assert (tmp_path / "latest.pt").read_bytes() == DATA
    assert (tmp_path / "options.pkl").read_bytes() == b"by hand"
    assert site.requests == [("/download?id=one&export=download&confirm=t", None)]
    assert download_drive_folder("F", tmp_path, wanted, list_folder=lambda _: pytest.fail("asked")) == []


def test_a_drive_folder_that_lacks_a_file(site, tmp_path):
    with pytest.raises(
        UserError, match=r"drive.google.com/drive/folders/F \(it holds no latest.pt; "
    ) as caught:
        download_drive_folder("F", tmp_path, ["latest.pt"], list_folder=lambda _: {}, base=site.url)
    assert str(caught.value).endswith(f"fetch latest.pt by hand from there and put them into {tmp_path}")


def test_a_drive_folder_offline(tmp_path, monkeypatch):
    """Through gdown itself, kept off the network by a proxy that is not there."""
    pytest.importorskip("gdown")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, closed_address())
    with pytest.raises(UserError) as caught:
        download_drive_folder("F", tmp_path, ["latest.pt"], what="jpeg-5")
    message = str(caught.value)
    assert message.startswith(
        "jpeg-5: could not fetch https://drive.google.com/drive/folders/F (its list of files"
    )
    assert "is this machine offline?" in message
    assert "\n" not in message


# --- published files


def checkpoint_site() -> tuple[Site, dict[str, bytes]]:
    weights = io.BytesIO()
    torch.save(
        {"net": {"a": torch.full((100,), 1.5)}, "ema": None, "optimizer": None, "sched": None}, weights
    )
    files = {"one": weights.getvalue(), "two": pickle.dumps(argparse.Namespace(name="jpeg-5"), protocol=4)}

    def answer(handler):
        handler.send_page(files[handler.path.split("id=")[1][:3]], 200, {"ETag": '"x"'})

    return Site(answer=answer), files


def fetch_jpeg5(site: Site, results: Path) -> Path:
    def list_folder(folder_id: str) -> dict[str, str]:
        assert folder_id == addresses.CHECKPOINT_FOLDERS["jpeg-5"]
        return {"latest.pt": "one", "options.pkl": "two"}

    return fetch.fetch_checkpoint("jpeg-5", results, list_folder=list_folder, base=site.url)


def test_a_published_checkpoint(tmp_path):
    site, files = checkpoint_site()
    with serving(site):
        folder = fetch_jpeg5(site, tmp_path / "results")
        assert folder == tmp_path / "results" / "jpeg-5"
        assert names(folder) == ["latest.pt", "options.pkl"]
        assert (folder / "latest.pt").read_bytes() == files["one"]
        fetch_jpeg5(site, tmp_path / "results")
        assert len(site.requests) == 2


def test_a_damaged_checkpoint_is_told(tmp_path):
    site, files = checkpoint_site()
    files["one"] = files["one"].replace(b"\xc0\x3f", b"\xc1\x3f", 1)
    with (
        serving(site),
        pytest.raises(UserError, match=r"latest.pt: refused: it is damaged.*; remove it to have it"),
    ):
        fetch_jpeg5(site, tmp_path)
    site, files = checkpoint_site()
    files["two"] = b"cos\nsystem\n."
    with serving(site), pytest.raises(UserError, match=r"options.pkl: refused: it asks for os.system"):
        fetch_jpeg5(site, tmp_path / "x")


def test_the_10k_list_is_checked(tmp_path):
    """Its address, size and hash are known; another file in its place is refused."""
    remote = addresses.VAL_10K_LIST
    with serving(Site(bytes(remote.size))) as site:
        local = addresses.Remote(remote.name, remote.what, site.url, size=remote.size, sha256=remote.sha256)
        with pytest.raises(UserError, match=r"3aaa918ba6.* is expected"):
            fetch.fetch(local, tmp_path)
    (tmp_path / remote.name).write_bytes(bytes(remote.size))
    assert fetch.fetch(remote, tmp_path) == tmp_path / remote.name


def test_the_adm_weights_go_to_data(tmp_path, monkeypatch):
    """`download_ckpt` uses what is there and asks for nothing then."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/256x256_diffusion_uncond.pt").write_bytes(b"x")
    assert fetch.download_ckpt() == Path("data/256x256_diffusion_uncond.pt")
    assert fetch.download_ckpt(ckpt_dir="data/") == Path("data/256x256_diffusion_uncond.pt")


def test_the_table_of_addresses():
    from corruption.names import TASKS

    assert set(addresses.CHECKPOINT_FOLDERS) == set(TASKS) - {"mixture"}
    assert len({*addresses.CHECKPOINT_FOLDERS.values()}) == 9
    for remote in (addresses.ADM_WEIGHTS, addresses.FID_TRAIN_STATISTICS, addresses.VAL_10K_LIST):
        assert remote.url.startswith("https://")
        assert remote.url.endswith("/" + remote.name)
    assert addresses.FREEFORM_BANK.drive_id


# --- pages are told from files


def real_files() -> dict[str, bytes]:
    """What is downloaded, with a page's tags inside wherever that is possible."""
    tags = "<!DOCTYPE html><html>"
    written = {}
    for name, save in {
        "new.pt": lambda file: torch.save({tags: torch.ones(3)}, file),
        "old.pt": lambda file: torch.save({tags: torch.ones(3)}, file, _use_new_zipfile_serialization=False),
        "masks.npz": lambda file: np.savez(file, masks=np.ones(3), html=np.array(tags)),
    }.items():
        save(file := io.BytesIO())
        written[name] = file.getvalue()
    pickles = {f"{protocol}.pkl": pickle.dumps(tags, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}
    return written | pickles | {"list.txt": f"n01/a.JPEG\n{tags}.JPEG\n".encode(), "comment.txt": b"<!-- a -->b\n"}


@pytest.mark.parametrize(("name", "content"), real_files().items(), ids=real_files())
def test_real_files_are_no_pages(site, tmp_path, name, content):
    site.data = content
    assert download(site.url, tmp_path / name).read_bytes() == content


# --- the script


def script(folder: Path, *arguments: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": str(python), "HTTPS_PROXY": closed_address()}
    command = [str(ROOT / "scripts/download_checkpoint.sh"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_script_names_the_nine(tmp_path):
    done = script(tmp_path, "jpeg-7")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "jpeg-7: no published checkpoint has this name; there are jpeg-5, jpeg-10, blur-uni,"
    )
    assert names(tmp_path) == []
    assert "jpeg-5" in script(tmp_path, "--help").stdout


def test_the_script_uses_the_current_folder(tmp_path):
    folder = tmp_path / "results" / "jpeg-10"
    folder.mkdir(parents=True)
    for name in ("latest.pt", "options.pkl"):
        (folder / name).write_bytes(b"by hand")
    done = script(tmp_path, "jpeg-10")
    assert (done.returncode, done.stdout, done.stderr) == (0, "results/jpeg-10 is ready\n", "")


def test_the_script_without_gdown(tmp_path):
    """In a Python that has no packages at all: what is missing is named, and Google Drive is not blamed."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    python.chmod(0o755)
    done = script(tmp_path, "jpeg-10", python=python)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "(its list of files cannot be had: the package gdown is missing or too old: pip install -r" in done.stderr
    assert "permission" not in done.stderr
    assert names(tmp_path) == ["python"]


def test_the_script_offline(tmp_path):
    pytest.importorskip("gdown")
    done = script(tmp_path, "jpeg-10")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    folder = addresses.CHECKPOINT_FOLDERS["jpeg-10"]
    assert f"could not fetch https://drive.google.com/drive/folders/{folder} " in done.stderr
    assert done.stderr.endswith(
        "fetch options.pkl and latest.pt by hand from there and put them into results/jpeg-10\n"
    )
