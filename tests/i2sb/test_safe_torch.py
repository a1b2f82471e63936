"""torch files: good ones load as torch loads them; others are refused in one line and do nothing."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import hostile
import pytest
import torch

from i2sb.errors import UserError
from i2sb.runtime.safe_torch import check_state, check_torch, load_object, load_torch

INTEROP = Path(__file__).parent.parent / "interop"
RECON = INTEROP / "results/jpeg-10/samples_nfe3_clip/recon_0_4.pt"
IMAGE_FOLDERS = sorted((INTEROP / "dataset").glob("*.lmdb.pt"))
IMAGE_FOLDER = "torchvision.datasets.folder.ImageFolder"


@pytest.fixture
def trap(tmp_path):
    """A folder that stays empty as long as nothing is executed."""
    folder = tmp_path / "trap"
    folder.mkdir()
    yield folder
    assert not list(folder.iterdir())


def checkpoint() -> dict:
    """A latest.pt as the original writes it, of a network with five numbers."""
    net = torch.nn.ModuleDict({"diffusion_model": torch.nn.Linear(2, 1)})
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-5)
    sched = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1000, gamma=0.99)
    net["diffusion_model"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    sched.step()
    shadow = [parameter.detach().clone() for parameter in net.parameters()]
    ema = {"decay": 0.99, "num_updates": 1, "shadow_params": shadow, "collected_params": None}
    return {
        "net": net.state_dict(),
        "ema": ema,
        "optimizer": optimizer.state_dict(),
        "sched": sched.state_dict(),
    }


def saved(value: object, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def put(folder: Path, data: bytes) -> Path:
    path = folder / "latest.pt"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def rebuilt(data: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes | None) -> bytes:
    """A torch archive with some records (data_pkl for data.pkl) replaced, added, or (None) removed."""
    changes = {name.replace("_pkl", ".pkl"): record for name, record in records.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            record = changes.pop(name, old.read(entry))
            if record is not None:
                new.writestr(f"archive/{name}", record)
        for name, record in changes.items():
            new.writestr(f"archive/{name}", record)
    return file.getvalue()


def data_pickle(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def refusal(path: Path, load=load_torch) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


def assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b


# --- good files


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_checkpoint_loads(tmp_path, legacy, mmap):
    value = checkpoint()
    loaded = load_torch(put(tmp_path, saved(value, legacy=legacy)), mmap=mmap, verify=True)
    assert_same(loaded, value)
    assert loaded["net"]._metadata == value["net"]._metadata


def test_reconstructions_of_the_original_load():
    loaded = load_torch(RECON)
    assert {name: (tuple(t.shape), t.dtype) for name, t in loaded.items()} == {
        "arr": ((6, 3, 64, 64), torch.float32),
        "label_arr": ((6,), torch.int64),
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_all_that_a_checkpoint_may_hold(tmp_path, legacy):
    base = torch.arange(12.0)
    value = {
        "half": torch.ones(3).half(),
        "brain": torch.ones(3).bfloat16(),
        "double": torch.ones(3).double(),
        "bytes": torch.get_rng_state(),
        "bools": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "view": base[2:8].view(2, 3).T,
        "same": base,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "plain": [None, True, 2**70, -1, 0.5, "text", (1, (2,)), {3: 4}, {5, 6}],
    }
    loaded = load_torch(put(tmp_path, saved(value, legacy=legacy)))
    assert loaded["view"].data_ptr() == loaded["same"].data_ptr() + 8
    assert_same(loaded, value)


class Extra:
    """A class that a caller allows."""

    def __init__(self) -> None:
        self.value = 3


def test_only_allowed_classes_load(tmp_path):
    path = put(tmp_path, saved({"extra": Extra()}))
    assert f"asks for {__name__}.Extra" in refusal(path)
    assert load_torch(path, allow=[Extra])["extra"].value == 3
    assert f"asks for {__name__}.Extra" in refusal(path)


@pytest.mark.parametrize("path", IMAGE_FOLDERS, ids=lambda path: path.stem)
def test_image_folders_of_the_original(path):
    split = path.name.partition("_")[0]
    found = load_object(path, IMAGE_FOLDER)
    assert found["root"] == f"/dataset/{split}"
    assert found["classes"] == ["n01440764", "n01443537", "n01484850"]
    assert found["class_to_idx"] == {"n01440764": 0, "n01443537": 1, "n01484850": 2}
    assert len(found["samples"]) == 24
    assert found["samples"] == found["imgs"]
    assert found["samples"][0][0].startswith(f"/dataset/{split}/n01440764/")
    assert found["targets"] == [label for _, label in found["samples"]]


def test_there_are_image_folders_to_test():
    assert len(IMAGE_FOLDERS) == 2


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_objects_by_any_protocol(tmp_path, protocol, legacy):
    path = tmp_path / "object.pt"
    extra = Extra()
    extra.function = print
    torch.save(extra, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    kind = f"{__name__}.Extra"
    opaque = ["builtins.print", "__builtin__.print"]
    assert load_object(path, kind, opaque) == {"value": 3, "function": None}
    assert "print" in refusal(path, lambda path: load_object(path, kind))
    assert kind in refusal(path, lambda path: load_object(path, IMAGE_FOLDER))


# --- shapes


def test_a_state_that_fits_or_not():
    expected = {"a": torch.zeros(2, 3), "b": (4,), "c": (1,), "d": (1,), "e": (1,), "f": (1,)}
    good = {name: torch.zeros(getattr(shape, "shape", shape)) for name, shape in expected.items()}
    check_state("latest.pt", good, expected)
    cases = [
        (
            {"a": torch.zeros(3, 3)},
            "latest.pt: its network does not fit: it has a of shape [3, 3] instead of [2, 3]",
        ),
        ({"b": "text"}, "latest.pt: its network does not fit: it has no tensor at b"),
        ({"x": torch.zeros(1)}, "latest.pt: its network does not fit: it has the unknown x"),
    ]
    for change, message in cases:
        with pytest.raises(UserError) as caught:
            check_state("latest.pt", good | change, expected)
        assert str(caught.value) == message
    with pytest.raises(UserError, match=r"it lacks a, b, c and 3 more; has the unknown z$"):
        check_state("latest.pt", {"z": torch.zeros(1)}, expected)
    with pytest.raises(UserError, match="its EMA is no state dict but list"):
        check_state("latest.pt", [1], expected, "its EMA")


# --- bad files


@pytest.mark.parametrize("legacy", [False, True])
def test_no_attack_runs(trap, tmp_path, legacy):
    good = saved(checkpoint(), legacy=legacy)
    for name, data in hostile.attacks(trap).items():
        whole = legacy_file(data) if legacy else rebuilt(good, data_pkl=data)
        path = put(tmp_path, whole)
        assert refusal(path), name
        assert refusal(path, lambda path: load_object(path, IMAGE_FOLDER)), name
        assert refusal(put(tmp_path, data)), name


def legacy_file(object_pickle: bytes) -> bytes:
    header = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001})
    return b"".join(pickle.dumps(part, protocol=2) for part in header) + object_pickle + pickle.dumps([], 2)


def test_the_attacks_are_real(tmp_path):
    attack = next(iter(hostile.attacks(tmp_path).values()))
    torch.load(put(tmp_path, legacy_file(attack)), weights_only=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [*hostile.bombs(), *hostile.oddities()])
def test_no_bomb_goes_off(tmp_path, name):
    bad = (hostile.bombs() | hostile.oddities())[name]
    for data in (rebuilt(saved({}), data_pkl=bad), legacy_file(bad)):
        path = put(tmp_path, data)
        if load_torch_or_refuse(path) is not None:  # some are oddities as options, but plain values here
            assert name in ("a list instead of options", "a number instead of options")
        refusal(path, lambda path: load_object(path, IMAGE_FOLDER))


def load_torch_or_refuse(path: Path):
    try:
        return load_torch(path)
    except UserError:
        refusal(path)
        return None


def storage(kind: str, key: str, numel: int) -> bytes:
    """The instructions that refer to stored numbers."""
    size = b"\x8a\x08" + numel.to_bytes(8, "little", signed=True)
    return (
        b"("
        + hostile.text("storage")
        + f"ctorch\n{kind}\n".encode()
        + hostile.text(key)
        + hostile.text("cpu")
        + size
        + b"tQ"
    )


def tensor(numbers: bytes, offset: int, size: list[int], stride: list[int]) -> bytes:
    def row(values: list[int]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + v.to_bytes(8, "little", signed=True) for v in values) + b"t"

    start = b"\x8a\x08" + offset.to_bytes(8, "little", signed=True)
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + numbers
        + start
        + row(size)
        + row(stride)
        + b"\x89"
        + hooks
        + b"tR."
    )


FOUR = ("FloatStorage", "0", 4)
BAD_TENSORS = {
    "larger than its numbers": tensor(storage(*FOUR), 0, [5], [1]),
    "a terabyte": tensor(storage(*FOUR), 0, [2**38], [1]),
    "an offset beyond its numbers": tensor(storage(*FOUR), 4, [1], [1]),
    "a negative offset": tensor(storage(*FOUR), -1, [1], [1]),
    "a negative stride": tensor(storage(*FOUR), 3, [4], [-1]),
    "a negative size": tensor(storage(*FOUR), 0, [-4], [1]),
    "expanded": tensor(storage(*FOUR), 0, [2**34, 3], [0, 0]),
    "expanded within its numbers": tensor(storage(*FOUR), 0, [2, 2], [0, 1]),
    "numbers that overlap": tensor(storage(*FOUR), 0, [2, 2], [1, 1]),
    "a stride beyond its numbers": tensor(storage(*FOUR), 0, [2, 2], [3, 1]),
    "fewer strides than sizes": tensor(storage(*FOUR), 0, [2, 2], [1]),
    "more numbers than stored": tensor(storage("FloatStorage", "0", 5), 0, [5], [1]),
    "fewer numbers than stored": tensor(storage("FloatStorage", "0", 3), 0, [3], [1]),
    "numbers of another width": tensor(storage("DoubleStorage", "0", 4), 0, [4], [1]),
    "2^61 numbers": tensor(storage("FloatStorage", "0", 2**61), 0, [1], [1]),
    "less than no numbers": tensor(storage("FloatStorage", "0", -1), 0, [0], [1]),
    "numbers that are not there": tensor(storage("FloatStorage", "7", 4), 0, [4], [1]),
    "numbers from another folder": tensor(storage("FloatStorage", "../data.pkl", 4), 0, [4], [1]),
    "an unknown kind of numbers": tensor(storage("QUInt8Storage", "0", 4), 0, [4], [1]),
    "an attribute of a state dict": (
        b"\x80\x02ccollections\nOrderedDict\n)R}" + hostile.text("items") + b"K\x01sb."
    ),
    "a state dict from a list": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "a set of a tuple": b"\x80\x02c__builtin__\nset\n])a\x85R.",
    "a parameter of text": (
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n(" + hostile.text("x") + b"\x88NtR."
    ),
    "a device of numbers": b"\x80\x02ctorch\ndevice\nK\x01\x85R.",
    "a function of torch": b"\x80\x02ctorch\nload\n" + hostile.text("x") + b"\x85R.",
    "a call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name):
    good = saved({"x": torch.arange(4.0)})
    refusal(put(tmp_path, rebuilt(good, data_pkl=BAD_TENSORS[name])))
    refusal(put(tmp_path, legacy_file(BAD_TENSORS[name])))


def test_the_handmade_tensor_is_sound(tmp_path):
    """What the bad tensors are made from loads when its numbers fit."""
    good = rebuilt(saved({"x": torch.arange(4.0)}), data_pkl=tensor(storage(*FOUR), 1, [3], [1]))
    assert load_torch(put(tmp_path, good)).tolist() == [1, 2, 3]


def test_archives_that_torch_did_not_write(tmp_path):
    good = saved(checkpoint())
    pickled = data_pickle(good)
    nothing = io.BytesIO()
    zipfile.ZipFile(nothing, "w").close()
    twice = io.BytesIO(good)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", pickled)
    declared = bytearray(good)
    where = declared.find(b"PK\x01\x02")  # the first entry of the directory: its two sizes
    declared[where + 20 : where + 28] = b"\xf0\xff\xff\x7f" * 2
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    cases = {
        "no weights": rebuilt(good, data_pkl=None),
        "no zip": b"PK\x03\x04" + bytes(1000),
        "empty zip": nothing.getvalue(),
        "two pickles": twice.getvalue(),
        "TorchScript": rebuilt(good, constants_pkl=pickled),
        "compressed": rebuilt(good, zipfile.ZIP_DEFLATED),
        "a zip bomb": rebuilt(good, zipfile.ZIP_DEFLATED, bomb=bytes(10**7)),
        "declared sizes": bytes(declared),
        "a large pickle": rebuilt(good, data_pkl=b"]" * (9 * 2**20)),
        "many objects": rebuilt(good, data_pkl=b"\x8f" * (7 * 2**20)),
        "a tar archive": tar.getvalue(),
        "a web page": b"<!DOCTYPE html><html><title>Sign in</title></html>",
        "a pickle": pickle.dumps({"net": 1}),
        "zeros": bytes(10_000),
        "an unknown byte order": rebuilt(good, byteorder=b"sideways"),
        "an unknown version": rebuilt(good, version=b"999\n"),
        "nothing": b"",
    }
    reasons = {name: refusal(put(tmp_path, data)) for name, data in cases.items()}
    assert reasons["nothing"] == "refused: the file is empty"
    assert "torch never does" in reasons["a zip bomb"]
    assert "no torch file" in reasons["a web page"]
    assert "more objects than a file of its size" in reasons["many objects"]
    assert "more bytes than the file has" in reasons["declared sizes"]


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing.pt", tmp_path, Path("/dev/zero")):
        assert refusal(path) == "there is no such file"


def test_nobody_is_advised_to_load_without_protection(tmp_path):
    """Where torch itself refuses (here an instruction that it does not know), its advice is left out."""
    data = rebuilt(saved({}), data_pkl=pickle.dumps({"a": 1}, protocol=4))
    assert refusal(put(tmp_path, data)) == "cannot be loaded: Unsupported operand 149"


def test_a_device_that_is_not_here(tmp_path):
    path = put(tmp_path, saved({"x": torch.ones(1)}))
    assert refusal(path, lambda path: load_torch(path, map_location="cuda:99")).startswith(
        "cannot be loaded: "
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_every_truncation_is_refused(tmp_path, legacy):
    data = saved({"net": torch.nn.Linear(2, 1).state_dict()}, legacy=legacy)
    step = 1 if legacy else 7
    for length in range(0, len(data), step):
        refusal(put(tmp_path, data[:length]))


def test_changed_numbers_are_found_on_request(tmp_path):
    """Reading all of a large file takes time, so it is done after a download and not at every start."""
    data = bytearray(saved({"x": torch.full((100,), 1.5)}))
    data[data.find(b"\x00\x00\xc0\x3f") + 2] ^= 1
    path = put(tmp_path, bytes(data))
    check_torch(path)
    assert "damaged" in refusal(path, lambda path: check_torch(path, verify=True))
    assert "damaged" in refusal(path, lambda path: load_torch(path, verify=True))


def try_damaged(folder: Path, datas, load=load_torch) -> tuple[int, int]:
    """(number refused, number loaded) of the files; whatever fails is one line."""
    refused = loaded = 0
    for data in datas:
        path = put(folder, data)
        try:
            load(path)
            loaded += 1
        except UserError as error:
            message = str(error)
            assert message.startswith(f"{path}: "), message
            assert message.isprintable(), message
            refused += 1
    return refused, loaded


def damage_everywhere(folder: Path, trap: Path, count: int, seed: int) -> None:
    """`count` damaged files of each of five kinds."""
    value = checkpoint()
    archives = [saved(value), saved({"x": torch.ones(2)}), saved([torch.zeros(1)])]
    legacies = [saved(value, legacy=True), saved({"x": torch.ones(2)}, legacy=True)]
    attacks = list(hostile.attacks(trap).values())
    pickles = [data_pickle(archive) for archive in archives]
    objects = [data_pickle(path.read_bytes()) for path in IMAGE_FOLDERS]
    image_folder = IMAGE_FOLDERS[0].read_bytes()

    def in_archive(archive: bytes, pickles, count: int, seed: int):
        return (rebuilt(archive, data_pkl=data) for data in hostile.damaged(pickles, count, seed))

    kinds = {
        "archives": (hostile.damaged(archives, count, seed), load_torch),
        "legacy files": (hostile.damaged(legacies, count, seed + 1), load_torch),
        "pickles in archives": (in_archive(archives[0], pickles[:1], count, seed + 2), load_torch),
        "attacks in archives": (in_archive(archives[0], pickles + attacks, count, seed + 4), load_torch),
        "image folders": (
            in_archive(image_folder, objects, count, seed + 3),
            lambda path: load_object(path, IMAGE_FOLDER),
        ),
    }
    for name, (datas, load) in kinds.items():
        refused, loaded = try_damaged(folder, datas, load)
        assert refused + loaded == count
        assert refused > count / 4, (name, refused)
        assert loaded > 0 or name == "attacks in archives", name


def test_damaged_files_do_nothing(trap, tmp_path):
    damage_everywhere(tmp_path, trap, 400, seed=1)


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_files_do_nothing(trap, tmp_path):
    damage_everywhere(tmp_path, trap, 10_000, seed=100)
