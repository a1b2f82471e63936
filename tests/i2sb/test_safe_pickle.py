"""options.pkl and the fixedsigma dictionaries: what good files hold, and that no other file does anything."""

import argparse
import contextlib
import pickle
import pickletools
import sys
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2sb.errors import UserError
from i2sb.safe_pickle import MAX_BYTES, dump_namespace, is_secret, load_namespace, load_plain_dict

INTEROP = Path(__file__).parent.parent / "interop"
OPTIONS = [
    INTEROP / "options_cuda.pkl",
    INTEROP / "results/jpeg-10/options.pkl",
    INTEROP / "results/jpeg-5-cond/options.pkl",
]
DICTS = sorted((INTEROP / "data").glob("*_fixedsigma.pkl"))
FROM_PYTHONS = sorted((INTEROP / "pickles").glob("python3.*.pkl"))


@pytest.fixture
def trap(tmp_path):
    """A folder that stays empty as long as nothing is executed."""
    folder = tmp_path / "trap"
    folder.mkdir()
    yield folder
    assert not list(folder.iterdir())


def refusal(path: Path, load=load_namespace) -> str:
    """The one line that a bad file is refused with."""
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: refused: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    return message


def put(folder: Path, data: bytes) -> Path:
    path = folder / "options.pkl"
    path.unlink(missing_ok=True)  # several times faster than writing over it
    path.write_bytes(data)
    return path


# --- good files


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.parent.name)
def test_options_of_the_original(path):
    options = load_namespace(path)
    assert len(vars(options)) == 39
    assert options == pickle.loads(path.read_bytes())  # a concrete path equals the pure one
    assert type(options.dataset_dir) is PurePosixPath
    assert options.device == ("cuda" if "cuda" in path.name else "cpu")


@pytest.mark.parametrize("path", DICTS, ids=lambda path: path.stem)
def test_network_files_of_the_original(path):
    assert load_plain_dict(path) == pickle.loads(path.read_bytes())


def test_there_are_files_to_test():
    assert len(OPTIONS) + len(DICTS) + len(FROM_PYTHONS) == 3 + 2 + 12


@pytest.mark.parametrize("path", FROM_PYTHONS, ids=lambda path: path.stem)
def test_files_of_other_pythons_and_protocols(path):
    assert vars(load_namespace(path)) == {
        "name": "jpeg-10",
        "image_size": 256,
        "interval": 1000,
        "beta_max": 0.3,
        "big": 2**40,
        "ot_ode": False,
        "cond_x1": True,
        "ckpt": None,
        "dataset_dir": PurePosixPath("/data sets/imagenet"),
        "log_dir": PurePosixPath(".log"),
        "levels": [1, 2.5, "x"],
        "pair": (1, (2, 3)),
        "table": {"a": {"b": 1}},
        "kinds": {"x", "y"},
        "note": "Bild é 中",
    }


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_options_written_on_windows(tmp_path, module):
    windows_path = (
        f"c{module}\nWindowsPath\n".encode() + b"(" + hostile.text("C:\\") + hostile.text("data") + b"tR"
    )
    options = load_namespace(put(tmp_path, hostile.option(windows_path)))
    assert options.seed == PureWindowsPath("C:/data")
    assert type(options.seed) is PureWindowsPath


def test_text_that_is_no_unicode_becomes_printable(tmp_path):
    path = put(tmp_path, pickle.dumps(argparse.Namespace(dataset_dir=PosixPath("/m\udcfcsli")), protocol=4))
    assert load_namespace(path).dataset_dir == PurePosixPath("/m?sli")


# --- what we write


def test_written_options_are_those_of_the_original(tmp_path):
    """The globals, the protocol and the attributes, in order: what the original's loader needs."""
    for source in OPTIONS:
        original = pickle.loads(source.read_bytes())
        path = tmp_path / "options.pkl"
        assert dump_namespace(original, path) == []
        written = pickle.loads(path.read_bytes())
        assert list(vars(written).items()) == list(vars(original).items())
        assert type(written) is argparse.Namespace
        assert type(written.dataset_dir) is PosixPath
        assert globals_of(path.read_bytes()) == {"argparse Namespace", "pathlib PosixPath"}
        assert path.read_bytes()[:2] == b"\x80\x04"


def globals_of(data: bytes) -> set[str]:
    names, recent, memo = set(), [], []
    for opcode, arg, _ in pickletools.genops(data):
        if opcode.name == "SHORT_BINUNICODE":
            recent.append(arg)
        elif opcode.name == "MEMOIZE":
            memo.append(recent[-1] if recent else None)
        elif opcode.name == "BINGET":
            recent.append(memo[arg])
        elif opcode.name == "STACK_GLOBAL":
            names.add(" ".join(recent[-2:]))
        assert opcode.name not in ("GLOBAL", "INST")
    return names


def test_secrets_are_never_written(tmp_path):
    options = argparse.Namespace(wandb_api_key="5ec12e7", hf_token="5ec12e7", name="x", num_itr=3)
    path = tmp_path / "options.pkl"
    dump_namespace(options, path)
    assert b"5ec12e7" not in path.read_bytes()
    assert vars(load_namespace(path)) == {"wandb_api_key": None, "hf_token": None, "name": "x", "num_itr": 3}
    assert options.wandb_api_key == "5ec12e7"
    assert is_secret("wandb_api_key")
    assert not is_secret("wandb_user")


def test_what_is_no_plain_value_is_left_out_and_named(tmp_path):
    itself = []
    itself.append(itself)
    options = argparse.Namespace(seed=1, bank=lambda: None, _private=1, kind=PosixPath, itself=itself)
    assert dump_namespace(options, tmp_path / "o.pkl") == ["bank", "_private", "kind", "itself"]
    assert load_namespace(tmp_path / "o.pkl") == argparse.Namespace(seed=1)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False) | st.binary(max_size=9)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
    | st.sampled_from([PurePosixPath("/a/b"), PurePosixPath("."), PurePosixPath("x y/z")]),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    | st.frozensets(st.text("abc", max_size=3), max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not is_secret(name))
quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@quick
@given(st.dictionaries(names, plain, max_size=6))
def test_plain_options_come_back(tmp_path, attributes):
    path = tmp_path / "options.pkl"
    options = argparse.Namespace(**attributes)
    assert dump_namespace(options, path) == []
    assert load_namespace(path) == options
    assert pickle.loads(path.read_bytes()) == options


@quick
@given(st.dictionaries(names, plain, max_size=6), st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_pythons_own_pickles_are_read_alike(tmp_path, attributes, protocol):
    """Above protocol 2; below it bytes are calls of a codec, which no options file holds."""
    options = argparse.Namespace(**attributes)
    assert load_namespace(put(tmp_path, pickle.dumps(options, protocol=protocol))) == options


# --- bad files


def test_no_attack_runs(trap, tmp_path):
    attacks = hostile.attacks(trap)
    assert len(attacks) > 100
    for name, data in attacks.items():
        path = put(tmp_path, data)
        for load in (load_namespace, load_plain_dict):
            assert refusal(path, load), name


def test_the_trap_springs_when_python_reads_the_attacks(tmp_path):
    """The attacks are real: Python's own reader runs them."""
    name, data = next(iter(hostile.attacks(tmp_path).items()))
    assert name.startswith("os.system")
    pickle.loads(data)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [*hostile.oddities(), *hostile.bombs()])
def test_what_is_no_options_file_is_refused(tmp_path, name):
    refusal(put(tmp_path, (hostile.oddities() | hostile.bombs())[name]))


@pytest.mark.parametrize("name", hostile.bombs())
def test_no_bomb_passes_as_a_plain_dictionary(tmp_path, name):
    refusal(put(tmp_path, hostile.bombs()[name]), load_plain_dict)


def test_the_reason_is_named(tmp_path):
    cases = {
        pickle.dumps(hostile.Call(print, "x"), protocol=4): "asks for builtins.print",
        hostile.namespace(b"}" + hostile.text("__class__") + b"Ns"): "'__class__' is no name of an option",
        hostile.bombs()["a deep tuple"]: "nests more than",
        hostile.bombs()["doubling tuples"]: "unfolds to more than",
        hostile.bombs()["a doubling tuple as a key"]: "other than text or a small integer as a key",
        b"": "the file is empty",
        OPTIONS[0].read_bytes()[:300]: "not a whole pickle",
        bytes(MAX_BYTES + 1): "larger than",
        b"].": "not an argparse.Namespace",
    }
    for data, reason in cases.items():
        path = put(tmp_path, data)
        with pytest.raises(UserError, match=reason):
            load_namespace(path)


def test_hostile_names_cannot_write_to_the_terminal(tmp_path):
    message = refusal(put(tmp_path, b"c\x1b[2J" + b"x" * 5000 + b"\nsystem\n."))
    assert "\x1b" not in message


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing.pkl", tmp_path, Path("/dev/zero"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError) as caught:
            load_namespace(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [OPTIONS[0], DICTS[0]], ids=["options", "dict"])
def test_every_truncation_is_refused(tmp_path, path):
    data = path.read_bytes()
    load = load_namespace if path is OPTIONS[0] else load_plain_dict
    for length in range(len(data)):
        refusal(put(tmp_path, data[:length]), load)


def try_damaged(folder: Path, load, good: list[bytes], count: int, seed: int) -> int:
    """Load damaged copies; the number refused. Whatever loads is plain, whatever fails is one line."""
    refused = 0
    for data in hostile.damaged(good, count, seed):
        path = put(folder, data)
        try:
            loaded = load(path)
        except UserError as error:
            message = str(error)
            assert message.startswith(f"{path}: refused: "), message
            assert message.isprintable(), message
            refused += 1
        else:
            assert_plain(loaded if isinstance(loaded, dict) else vars(loaded))
    return refused


def assert_plain(value) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, (str, int))
            assert_plain(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            assert_plain(item)
    else:
        kinds = (str, int, float, bool, bytes, type(None), PurePosixPath, PureWindowsPath, argparse.Namespace)
        assert type(value) in kinds
        if isinstance(value, argparse.Namespace):
            assert_plain(vars(value))
        repr(value).encode()


def seeds_of_options() -> list[bytes]:
    return [path.read_bytes() for path in [*OPTIONS, *FROM_PYTHONS]]


def test_damaged_files_do_nothing(trap, tmp_path):
    attacks = list(hostile.attacks(trap).values())
    assert try_damaged(tmp_path, load_namespace, seeds_of_options(), 2000, seed=1) > 1000
    assert try_damaged(tmp_path, load_namespace, seeds_of_options() + attacks, 1000, seed=2) > 500
    assert try_damaged(tmp_path, load_plain_dict, [path.read_bytes() for path in DICTS], 1000, seed=3) > 500


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_files_do_nothing(trap, tmp_path):
    attacks = list(hostile.attacks(trap).values())
    dicts = [path.read_bytes() for path in DICTS]
    assert try_damaged(tmp_path, load_namespace, seeds_of_options(), 40_000, seed=11) > 20_000
    assert try_damaged(tmp_path, load_namespace, seeds_of_options() + attacks, 40_000, seed=12) > 20_000
    assert try_damaged(tmp_path, load_plain_dict, dicts + attacks, 20_000, seed=13) > 10_000


@quick
@given(st.lists(st.sampled_from(pickletools.opcodes), max_size=30), st.binary(max_size=60))
def test_random_instructions_do_nothing(tmp_path, opcodes, args):
    code = b"".join(op.code.encode("latin-1") + args[i : i + 4] for i, op in enumerate(opcodes))
    for data in (code + b".", hostile.option(code), args):
        with contextlib.suppress(UserError):
            assert_plain(vars(load_namespace(put(tmp_path, data))))


def test_reading_imports_nothing(tmp_path):
    """A global is a name: not even an allowed one is looked up."""
    before = set(sys.modules)
    for data in (
        b"cturtledemo\nmain\n.",
        b"cthis\ns\n.",
        b"\x80\x04" + hostile.text("antigravity") + hostile.text("x") + b"\x93.",
    ):
        refusal(put(tmp_path, data))
    assert set(sys.modules) == before
