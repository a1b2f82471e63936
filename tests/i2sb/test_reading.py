"""Files from anywhere: what good ones hold, that no other one runs code, and that damage is found and named."""

import argparse
import io
import json
import pickle
import pickletools
import struct
import sys
import tarfile
import zipfile
from pathlib import Path, PosixPath, PurePosixPath

import bad_files
import numpy as np
import pytest
import torch
from processes import as_child

from i2sb.errors import UserError
from i2sb.runtime.pickles import dump_options
from i2sb.runtime.reading import (
    check_tensors,
    load_image_folder,
    load_npz,
    load_options,
    load_plain_dict,
    load_torch,
    read_json,
)

INTEROP = Path(__file__).parent.parent / "interop"
OPTIONS = [INTEROP / "options_cuda.pkl", *sorted(INTEROP.glob("results/*/options.pkl"))]
DICTS = sorted((INTEROP / "data").glob("*_fixedsigma.pkl"))
FROM_PYTHONS = sorted((INTEROP / "pickles").glob("python3.*.pkl"))
IMAGE_FOLDERS = sorted((INTEROP / "dataset").glob("*.lmdb.pt"))


@pytest.fixture
def trap(tmp_path):
    """A folder that stays empty as long as nothing is executed."""
    folder = tmp_path / "trap"
    folder.mkdir()
    yield folder
    assert not list(folder.iterdir())


def put(folder: Path, data: bytes) -> Path:
    path = folder / "latest.pt"
    path.unlink(missing_ok=True)  # several times faster than writing over it
    path.write_bytes(data)
    return path


def refusal(path: Path, load=load_torch) -> str:
    """The one line that a bad file is refused with."""
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 2 * len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


def read_or_refuse(path: Path, load) -> None:
    """If a file is refused, then in one line that names it."""
    try:
        load(path)
    except UserError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert message.isprintable()


def arrays(path: Path) -> dict:
    return load_npz(path, [], optional=["a", "mu", "sigma"])


def saved(value: object, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def checkpoint() -> dict:
    """A latest.pt as the original writes it, of a network with three numbers."""
    net = torch.nn.ModuleDict({"diffusion_model": torch.nn.Linear(2, 1)})
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-5)
    net["diffusion_model"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    shadow = [parameter.detach().clone() for parameter in net.parameters()]
    ema = {"decay": 0.99, "num_updates": 1, "shadow_params": shadow, "collected_params": None}
    return {"net": net.state_dict(), "ema": ema, "optimizer": optimizer.state_dict(), "sched": None}


# --- good files


def test_options_and_networks_of_the_original():
    assert [len(files) for files in (OPTIONS, DICTS, FROM_PYTHONS, IMAGE_FOLDERS)] == [3, 2, 12, 2]
    for path in OPTIONS:
        options = load_options(path)
        assert len(vars(options)) == 39
        assert options == pickle.loads(path.read_bytes())  # a concrete path equals the pure one
        assert type(options.dataset_dir) is PurePosixPath
    for path in DICTS:
        assert load_plain_dict(path) == pickle.loads(path.read_bytes())


@pytest.mark.parametrize("path", FROM_PYTHONS, ids=lambda path: path.stem)
def test_options_of_other_pythons_and_protocols(path):
    assert vars(load_options(path)) == {
        **{"name": "jpeg-10", "image_size": 256, "interval": 1000, "beta_max": 0.3, "big": 2**40, "ot_ode": False},
        **{"cond_x1": True, "ckpt": None, "log_dir": PurePosixPath(".log"), "levels": [1, 2.5, "x"]},
        **{"dataset_dir": PurePosixPath("/data sets/imagenet"), "pair": (1, (2, 3)), "table": {"a": {"b": 1}}},
        **{"kinds": {"x", "y"}, "note": "Bild é 中"},
    }


def test_paths_of_windows_and_paths_that_are_not_utf8(tmp_path):
    for module in (b"pathlib", b"pathlib._local"):
        path = b"c" + module + b"\nWindowsPath\n(" + bad_files.text("data") + bad_files.text("x") + b"tR"
        assert load_options(put(tmp_path, bad_files.option(path))).seed == PurePosixPath("data/x")
    options = argparse.Namespace(dataset_dir=PosixPath("/m\udcfcsli"))
    dump_options(options, tmp_path / "options.pkl")
    assert load_options(tmp_path / "options.pkl") == options


def test_written_options_are_those_of_the_original(tmp_path):
    """The globals, the protocol and the attributes, in order: what the original's loader needs."""
    for source in OPTIONS:
        original = pickle.loads(source.read_bytes())
        path = tmp_path / "options.pkl"
        dump_options(original, path)
        written = pickle.loads(path.read_bytes())
        assert list(vars(written).items()) == list(vars(original).items())
        assert type(written.dataset_dir) is PosixPath
        texts = [arg for opcode, arg, _ in pickletools.genops(path.read_bytes()) if opcode.name == "SHORT_BINUNICODE"]
        assert {"argparse", "Namespace", "pathlib", "PosixPath"} <= set(texts)
        assert "pathlib._local" not in texts
        assert path.read_bytes()[:2] == b"\x80\x04"


def test_what_is_no_plain_value_is_left_out(tmp_path):
    itself = []
    itself.append(itself)
    options = argparse.Namespace(seed=1, bank=lambda: None, _private=1, kind=PosixPath, itself=itself)
    dump_options(options, tmp_path / "o.pkl")
    assert load_options(tmp_path / "o.pkl") == argparse.Namespace(seed=1)


# --- nothing runs


def rebuilt(data: bytes, data_pkl: bytes) -> bytes:
    """A torch archive with another data.pkl."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            new.writestr(f"archive/{name}", data_pkl if name == "data.pkl" else old.read(entry))
    return file.getvalue()


def legacy_file(object_pickle: bytes) -> bytes:
    header = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001})
    return b"".join(pickle.dumps(part, protocol=2) for part in header) + object_pickle + pickle.dumps([], 2)


def test_no_attack_runs(trap, tmp_path):
    good = saved(checkpoint())
    attacks = bad_files.attacks(trap)
    assert len(attacks) > 100
    for name, data in attacks.items():
        for load in (load_options, load_plain_dict, load_torch):
            assert refusal(put(tmp_path, data), load), name
        for load in (load_torch, load_image_folder):
            assert refusal(put(tmp_path, rebuilt(good, data)), load), name
            assert refusal(put(tmp_path, legacy_file(data)), load), name


def test_the_attacks_are_real(tmp_path):
    attack = next(iter(bad_files.attacks(tmp_path).values()))
    torch.load(put(tmp_path, legacy_file(attack)), weights_only=False)
    assert (tmp_path / "executed").exists()


def test_stand_ins_are_no_way_to_run_code_or_to_change_later_readings(tmp_path):
    """The allowed names themselves: what they may be called with, filled with, and have attributes set on."""
    before = load_options(OPTIONS[0])
    names = [b"cargparse\nNamespace\n", b"cpathlib\nPosixPath\n", b"cbuiltins\nset\n", b"ccollections\nOrderedDict\n"]
    names += [b"ccopyreg\n_reconstructor\n", b"cbuiltins\nobject\n"]
    for name in names:
        for attribute in ("__setstate__", "__new__", "__init__", "__class__", "__reduce__", "__str__", "parts", "seed"):
            for value in (*names, b"N"):
                slots = b"N}" + bad_files.text(attribute) + value + b"s\x86b"  # BUILD with (None, {attribute: value})
                for made in (b"", b")R", b")\x81"):
                    read_or_refuse(put(tmp_path, bad_files.option(name + made + slots + b"}b")), load_options)
    assert load_options(OPTIONS[0]) == before
    assert str(PosixPath("a")) == "a"


def test_archives_that_torch_would_run(tmp_path):
    module = torch.nn.Linear(1, 1)
    with pytest.warns((DeprecationWarning, FutureWarning)):
        torch.jit.script(module).save(tmp_path / "script.pt")
    for load in (load_torch, load_image_folder):
        assert refusal(tmp_path / "script.pt", load)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    for data in (tar.getvalue(), b"<!DOCTYPE html><html>", pickle.dumps({"net": 1}), bytes(1000), b""):
        assert refusal(put(tmp_path, data)) in ("refused: it is not a torch file", "refused: the file is empty")
    np.savez(tmp_path / "o.npz", a=np.array([print]))
    assert "pickle" in refusal(tmp_path / "o.npz", arrays)


def test_what_is_no_options_file_read_or_refuse(tmp_path):
    for name, data in bad_files.oddities().items():
        assert refusal(put(tmp_path, data), load_options), name
    for path in (tmp_path / "missing.pkl", tmp_path, tmp_path / ("x" * 300)):
        for load in (load_options, load_torch, load_image_folder, arrays, read_json):
            refusal(path, load)
    assert "asks for builtins.print" in refusal(put(tmp_path, pickle.dumps(bad_files.Call(print, "x"))), load_options)
    assert "asks for ?[2Jxxx" in refusal(put(tmp_path, b"c\x1b[2J" + b"x" * 5000 + b"\nsystem\n."), load_options)
    for content in (b"", b"{", b"\xff\xfe", b"[" * 10**6):
        assert "is not JSON" in refusal(put(tmp_path, content), read_json)


# --- damage


def flipped(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 4
    path.write_bytes(data)


def record(path: Path, name: str) -> int:
    """Where the bytes of a record of a zip archive begin."""
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith(name))
        start = path.read_bytes()[entry.header_offset : entry.header_offset + 30]
        return entry.header_offset + 30 + sum(struct.unpack("<HH", start[26:]))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_file_that_memory_has_no_room_for_is_not_called_damaged(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(torch.zeros(12 << 18), path)
    assert as_child(lambda: load_torch(path), memory=6).startswith(f"MemoryError: {path}: unable to mmap")


def test_one_flipped_bit_is_found(tmp_path):
    """In the numbers of a tensor, in the pickle beside them, and in the directory."""
    good = saved({"arr": torch.rand(100, 3, 2), "label_arr": torch.arange(100)})
    damaged = "damaged (its bytes do not match their checksum): copy it again"

    path = put(tmp_path, good)
    flipped(path, record(path, "data/0") + 1000)
    assert refusal(path, lambda path: check_tensors(path, load_torch(path))) == damaged
    check_tensors(path, [load_torch(path)["label_arr"]])  # not what is used
    path = put(tmp_path, good)
    flipped(path, record(path, "data.pkl") + 20)
    assert "damaged" in refusal(path)
    directory = good.find(b"PK\x01\x02")
    for where in range(directory, len(good), 3):
        path = put(tmp_path, good)
        flipped(path, where)
        read_or_refuse(path, lambda path: check_tensors(path, load_torch(path)))


def test_a_file_without_checksums_is_identified(tmp_path):
    value = {"arr": torch.rand(100, 3), "label_arr": torch.arange(100)}
    identity = check_tensors(put(tmp_path, saved(value)), value)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = put(tmp_path, saved(value))
    finally:
        torch.serialization.set_crc32_options(before)
    assert check_tensors(path, load_torch(path)) == identity
    flipped(path, record(path, "data/0") + 10)
    assert check_tensors(path, load_torch(path)) != identity  # it tells what is in the file


def test_views_of_shared_storage_are_checked_too(tmp_path):
    base = torch.arange(40.0).view(10, 4)
    path = put(tmp_path, saved({"arr": base[2:8], "turned": base.T, "half": base.half()}))
    check_tensors(path, load_torch(path))
    flipped(path, record(path, "data/0") + 4 * 39)
    for key in ("arr", "turned"):
        assert "damaged" in refusal(path, lambda path, key=key: check_tensors(path, load_torch(path)[key]))


def test_every_truncation_is_refused_and_no_flipped_bit_ends_in_a_traceback(tmp_path):
    state, npz = {"net": torch.nn.Linear(2, 1).state_dict()}, io.BytesIO()
    np.savez_compressed(npz, mu=np.zeros(4), sigma=np.eye(4))
    files = [(OPTIONS[0], load_options), (DICTS[0], load_plain_dict), (IMAGE_FOLDERS[0], load_image_folder)]
    kinds = [(path.read_bytes(), load) for path, load in files]
    kinds += [(saved(state), load_torch), (saved(state, legacy=True), load_torch)]
    kinds += [(npz.getvalue(), arrays), (json.dumps({"a": [1, {"b": "x"}]}).encode(), read_json)]
    for data, load in kinds:
        for where in range(0, len(data), 3):
            refusal(put(tmp_path, data[:where]), load)
            path = put(tmp_path, data)
            flipped(path, where)
            read_or_refuse(path, load)
