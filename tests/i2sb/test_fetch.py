"""Files on Google Drive, published checkpoints and the script that fetches them."""

import argparse
import io
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import ROOT, names
from webserver import Site, closed_address, serving_as_google

from i2sb import addresses, fetch
from i2sb.errors import UserError
from i2sb.runtime.download import download

DATA = random.Random(0).randbytes(1_000_000)
ATTACHED = {"Content-Disposition": 'attachment; filename="masks.npz"', "Content-Type": "application/octet-stream"}
ID = "1-5YRGsekjiRKQWqo0BV5RVQu0bagc12w"
URL = f"https://drive.google.com/file/d/{ID}/view"
WARNING = (
    b'<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title><form id="download-form" '
    b'action="https://drive.usercontent.google.com/download" method="get"><input type="hidden" name="id" value="x">'
    b'<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1-2"></form></html>'
)
DENIED = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Access Denied</title></head>"
    b"<body>You need permission</body></html>"
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, closed_address())


# --- Google Drive, through gdown itself


def test_a_drive_file_behind_the_warning(tmp_path):
    def answer(handler):
        if "uuid=1-2" in handler.path:
            handler.send_page(DATA, 200, ATTACHED)
        else:
            handler.send_page(WARNING)

    with serving_as_google(Site(answer=answer)):
        assert download(URL, tmp_path / "masks.npz").read_bytes() == DATA
    assert names(tmp_path) == ["masks.npz"]


def test_a_drive_file_is_resumed_by_a_later_call(tmp_path):
    def answer(handler):
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        range_ = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
        body = DATA[start:] if len(site.requests) > 1 else DATA[:600_000]
        if start == len(DATA):
            handler.send_page(b"", 416)
        else:
            handler.send_page(body, 206 if start else 200, ATTACHED | range_, len(DATA) - start)

    with serving_as_google(Site(answer=answer)) as site:
        with pytest.raises(UserError, match="could not fetch"):
            download(URL, tmp_path / "masks.npz", retries=0)
        assert download(URL, tmp_path / "masks.npz").read_bytes() == DATA
        assert re.fullmatch(r"bytes=[1-9]\d+-", site.requests[-1][1])
        assert names(tmp_path) == ["masks.npz"]


@pytest.mark.parametrize("status", [200, 403])
def test_a_drive_file_without_permission(tmp_path, status):
    path = tmp_path / "masks.npz"
    site = Site(answer=lambda handler: handler.send_page(DENIED, status))
    with serving_as_google(site), pytest.raises(UserError) as caught:
        download(URL, path, what="the masks")
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"the masks: could not fetch {URL} (")
    assert "Google Drive asks for a permission for some files, and limits how often" in message
    assert message.endswith(f"fetch it by hand from {URL} and put it at {path}")
    assert names(tmp_path) == []


# --- published checkpoints


def checkpoint_files() -> dict[str, bytes]:
    weights = io.BytesIO()
    torch.save({"net": {"a": torch.full((100,), 1.5)}, "ema": None, "optimizer": None, "sched": None}, weights)
    options = pickle.dumps(argparse.Namespace(name="jpeg-5"), protocol=4)
    return {"latest.pt": weights.getvalue(), "options.pkl": options, "more.txt": b"x"}


def drive(files: dict[str, bytes]) -> Site:
    """A shared folder with these files, as Google shows it."""
    ids = {f"{number:030d}": name for number, name in enumerate(files)}
    links = [f'<a href="https://drive.google.com/file/d/{id_}/view">{name}</a>' for id_, name in ids.items()]

    def answer(handler):
        if "embeddedfolderview" in handler.path:
            handler.send_page(f"<html><title>jpeg-5</title>{''.join(links)}</html>".encode())
        else:
            handler.send_page(files[ids[re.search(r"id=(\w+)", handler.path)[1]]], 200, ATTACHED)

    return Site(answer=answer)


def test_a_published_checkpoint():
    files = checkpoint_files()
    with serving_as_google(drive(files)) as site:
        folder = fetch.fetch_checkpoint("jpeg-5")
        assert addresses.CHECKPOINT_FOLDERS["jpeg-5"] in site.requests[0][0]
        assert folder == Path("results/jpeg-5")
        assert names(folder) == ["latest.pt", "options.pkl"]
        assert (folder / "latest.pt").read_bytes() == files["latest.pt"]
        assert len(site.requests) == 3
        fetch.fetch_checkpoint("jpeg-5")
        (folder / "options.pkl").write_bytes(b"by hand")
        (folder / "latest.pt").unlink()
        fetch.fetch_checkpoint("jpeg-5")
        assert (folder / "options.pkl").read_bytes() == b"by hand"
        assert len(site.requests) == 5


def test_a_damaged_or_incomplete_checkpoint_is_refused():
    files = checkpoint_files()
    files["latest.pt"] = files["latest.pt"].replace(b"\xc0\x3f", b"\xc1\x3f", 1)
    with serving_as_google(drive(files)), pytest.raises(UserError, match=r"latest.pt: .*; remove it to have it"):
        fetch.fetch_checkpoint("jpeg-5")
    files["options.pkl"] = b"cos\nsystem\n."
    with serving_as_google(drive(files)), pytest.raises(UserError, match=r"options.pkl: .*os.*system.*; remove it to"):
        fetch.fetch_checkpoint("jpeg-10")
    del files["latest.pt"]
    with serving_as_google(drive(files)), pytest.raises(UserError, match=r"holds no latest.* by hand from there"):
        fetch.fetch_checkpoint("blur-uni")


# --- other published files


@pytest.mark.parametrize("kind", ["uncond", "cond"])
def test_the_adm_weights_are_not_fetched_where_they_or_the_originals_pair_are(tmp_path, kind):
    for suffix in ("pkl", "pt"):
        (tmp_path / f"256x256_diffusion_{kind}_fixedsigma.{suffix}").write_bytes(b"x")
    assert fetch.download_ckpt(ckpt_dir=tmp_path) == tmp_path / f"256x256_diffusion_{kind}_fixedsigma.pt"
    Path("data").mkdir()
    Path("data/256x256_diffusion_uncond.pt").write_bytes(b"x")
    assert fetch.download_ckpt() == Path("data/256x256_diffusion_uncond.pt")


def test_the_table_of_addresses():
    from corruption.names import PUBLISHED

    assert set(addresses.CHECKPOINT_FOLDERS) == set(PUBLISHED) - {"mixture"}
    assert len({*addresses.CHECKPOINT_FOLDERS.values()}) == 9
    for remote in vars(addresses).values():
        if isinstance(remote, addresses.Remote):
            assert remote.url.startswith("https://")
            assert remote.url.endswith(remote.name) or "drive.google.com" in remote.url


# --- the script


def test_the_script_offline(tmp_path):
    def script(name: str) -> subprocess.CompletedProcess:
        command = [str(ROOT / "scripts/download_checkpoint.sh"), name]
        environment = os.environ | {"PYTHON": sys.executable}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    (tmp_path / "results/jpeg-5").mkdir(parents=True)
    for name in ("latest.pt", "options.pkl"):
        (tmp_path / "results/jpeg-5" / name).write_bytes(b"by hand")
    done = script("jpeg-5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "results/jpeg-5 is ready\n", "")
    assert "error: jpeg-7: no published checkpoint has this name; did you mean jpeg-5? " in script("jpeg-7").stderr
    done = script("jpeg-10")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is this machine offline?" in done.stderr
    folder = addresses.CHECKPOINT_FOLDERS["jpeg-10"]
    assert f"could not fetch https://drive.google.com/drive/folders/{folder} " in done.stderr
    assert done.stderr.endswith("options.pkl and latest.pt by hand from there and put them into results/jpeg-10\n")
