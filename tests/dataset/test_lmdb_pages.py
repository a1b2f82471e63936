"""Our reader of LMDB files against the lmdb library, and with files that would end the library's process."""

import os
import random
import shutil
import struct
import subprocess
import sys
from itertools import islice
from pathlib import Path

import lmdb
import pytest
from hostile_lmdb import PAGE, damaged_lmdb
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.lmdb_check import check_whole
from dataset.lmdb_pages import LmdbError, LmdbFile

TESTS = Path(__file__).parents[1]
VAL = TESTS / "interop" / "dataset" / "val_faster_imagefolder.lmdb"


def write(path, transactions):
    """An LMDB after transactions of (key, value), where None deletes."""
    with lmdb.open(os.fspath(path), map_size=1 << 30, sync=False) as environment:
        for transaction in transactions:
            with environment.begin(write=True) as writing:
                for key, value in transaction:
                    if value is None:
                        writing.delete(key)
                    else:
                        writing.put(key, value)
    return path


def by_library(path):
    with lmdb.open(os.fspath(path), readonly=True, lock=False) as environment, environment.begin() as reading:
        return dict(reading.cursor())


def by_us(path):
    file = LmdbFile(path)
    content = {key: file.get(key) for key in file}
    assert list(content) == sorted(content)
    assert len(content) == len(file)
    return content


KEYS = st.one_of(
    st.binary(min_size=1, max_size=3), st.integers(0, 400).map(lambda n: b"class/%03d" % n + b"x" * (n % 7 * 70))
)
VALUES = st.one_of(
    st.none(), st.binary(max_size=20), st.sampled_from([0, 1999, 2000, 2030, 2046, 4079, 4080, 4081, 20_000]).map(bytes)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(KEYS, VALUES), max_size=60), max_size=8))
def test_it_reads_what_the_library_reads(tmp_path_factory, transactions):
    path = write(tmp_path_factory.mktemp("any") / "x.lmdb", transactions)
    expected = by_library(path)
    assert by_us(path) == expected
    file = LmdbFile(path)
    check_whole(file)
    for transaction in transactions:
        for key, _ in transaction:
            for asked in (key, key[:-1], key + b"\0"):
                assert file.get(asked) == expected.get(asked)
    shutil.rmtree(path.parent)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Three levels of pages, many long values, and a list of free pages that needs pages of its own."""
    path = tmp_path_factory.mktemp("deep") / "x.lmdb"
    keys = [b"/data/n%08d/" % (number % 97) + b"%0150d" % number for number in range(3000)]
    first = [(key, bytes(len(key) + number % 13 * 700)) for number, key in enumerate(keys)]
    return write(path, [first, [(key, None) for key in keys[::2]], [(b"last", b"1")], [(keys[0], b"2")]])


def test_many_levels(deep):
    file = LmdbFile(deep)
    assert file.tree.depth >= 3
    assert file.free.entries > 0
    assert by_us(deep) == by_library(deep)
    check_whole(file)


def puts_and_deletes(draw):
    """Random transactions in which most of what is put is deleted again."""
    live = []
    for _ in range(draw.randint(1, 5)):
        transaction = []
        for _ in range(draw.choice([50, 400])):
            if live and draw.random() < draw.choice([0.1, 0.6, 0.9]):
                transaction.append((live.pop(draw.randrange(len(live))), None))
            else:
                live.append(draw.randbytes(draw.choice([3, 20, 200, 511])))
                transaction.append((live[-1], bytes(draw.choice([0, 100, 1500, 2030, 5000, 9000]))))
        if draw.random() < 0.3:
            live.sort()
            transaction += [(key, None) for key in live[len(live) // 3 :]]
            live = live[: len(live) // 3]
        yield transaction


def test_files_that_end_before_pages_that_were_counted_but_never_written(tmp_path):
    """Pages that were taken and given back within one transaction may be the last ones: the file is whole."""
    num_early = 0
    for seed in range(60):
        path = write(tmp_path / f"{seed}.lmdb", puts_and_deletes(random.Random(seed)))
        file = LmdbFile(path)
        num_early += file.num_pages <= file.last
        assert by_us(path) == by_library(path)
        check_whole(file)
    assert num_early > 3


def test_a_file_without_its_last_pages(tmp_path):
    path = write(tmp_path / "x.lmdb", [[(b"%03d" % number, bytes(5000)) for number in range(40)]])
    size = (path / "data.mdb").stat().st_size
    for missing in range(1, size // PAGE - 2):
        os.truncate(path / "data.mdb", size - missing * PAGE)
        with pytest.raises(LmdbError, match="cut short"):
            LmdbFile(path)


def test_one_page_full_of_endless_keys(two_levels):
    path, _, _ = two_levels
    content = (path / "data.mdb").read_bytes()
    leaf = next(page for page in range(2 * PAGE, len(content), PAGE) if content[page + 10] == 2)
    put(path, leaf + 12, "<H", 16 + 2 * 900)
    put(path, leaf + 16, "<900H", *range(1900, 2800))  # nodes that lie upon each other
    with pytest.raises(LmdbError, match=r"beyond it|overlap"):
        list(LmdbFile(path))


def test_an_empty_one(tmp_path):
    file = LmdbFile(write(tmp_path / "x.lmdb", []))
    assert len(file) == 0
    assert list(file) == []
    assert file.get(b"a") is None
    check_whole(file)


def test_a_single_file(tmp_path):
    with lmdb.open(str(tmp_path / "x.mdb"), subdir=False) as environment, environment.begin(write=True) as writing:
        writing.put(b"a", b"b")
    assert LmdbFile(tmp_path / "x.mdb").get(b"a") == b"b"


def put(path, offset, form, *numbers):
    content = bytearray((path / "data.mdb").read_bytes())
    struct.pack_into(form, content, offset, *numbers)
    (path / "data.mdb").write_bytes(content)


@pytest.fixture
def two_levels(tmp_path):
    """An LMDB with pages under a root; its newest meta page is the one at `meta`."""
    path = write(tmp_path / "x.lmdb", [[(b"%03d" % number, bytes(1000)) for number in range(40)]])
    return path, PAGE, LmdbFile(path).tree.root * PAGE  # the second meta page is the newest


def first_node(path, page):
    return page + struct.unpack_from("<H", (path / "data.mdb").read_bytes(), page + 16)[0]


@pytest.mark.parametrize(
    ("where", "form", "number", "message"),
    [
        ("root", "<H", 0, "neither a branch nor a leaf"),  # of its own number
        ("root kind", "<H", 0x12, "neither a branch nor a leaf"),
        ("root kind", "<H", 0x02, "wrong level"),
        ("root lower", "<H", 16, "number of nodes"),
        ("root lower", "<H", 65534, "number of nodes"),
        ("root pointer", "<H", 4090, "a node lies beyond it"),
        ("root pointer", "<H", 65535, "a node lies beyond it"),
        ("child", "<H", 60_000, "there is no page 60000"),
        ("child", "<H", 0, "there is no page 0"),
        ("meta depth", "<H", 33, "depth 33"),
        ("meta depth", "<H", 0, "depth 0"),
        ("meta entries", "<Q", 2**63, "cannot hold 9223372036854775808 entries"),
        ("meta root", "<Q", 2**40, "there is no page 1099511627776"),
        ("meta flags", "<H", 0x04, "keys are not of the plain kind"),
        ("meta version", "<I", 999, "version 999"),
        ("meta magic", "<I", 1, "does not begin like the LMDB"),
        ("meta page size", "<I", 8192, "meta pages disagree"),
        ("first page size", "<I", 12345, "cannot be of 12345 bytes"),
    ],
)
def test_each_number_is_checked(two_levels, where, form, number, message):
    path, meta, root = two_levels
    places = {
        "root": root,
        "root kind": root + 10,
        "root lower": root + 12,
        "root pointer": root + 16,
        "child": first_node(path, root),
        "meta magic": meta + 16,
        "meta version": meta + 20,
        "meta page size": meta + 40,
        "first page size": 40,
        "meta flags": meta + 40 + 48 + 4,
        "meta depth": meta + 40 + 48 + 6,
        "meta entries": meta + 40 + 48 + 32,
        "meta root": meta + 40 + 48 + 40,
    }
    put(path, places[where], form, number)
    with pytest.raises(LmdbError, match=message):
        by_us(path)


def test_more_pages_than_there_are_can_be_read_but_not_written_to(two_levels):
    path, meta, _ = two_levels
    put(path, meta + 40 + 96, "<Q", 2**50)
    assert len(by_us(path)) == 40
    with pytest.raises(LmdbError, match="it counts 1125899906842624 pages"):
        check_whole(LmdbFile(path))


def test_a_page_beyond_all_files(two_levels):
    path, meta, _ = two_levels
    put(path, meta + 40 + 96, "<Q", 2**63)
    put(path, meta + 40 + 48 + 40, "<Q", 2**62)  # the root: no offset of a file is that large
    with pytest.raises(LmdbError, match="it ends at byte"):
        LmdbFile(path)


def test_pages_in_a_circle(two_levels):
    path, _, root = two_levels
    put(path, first_node(path, root), "<H", root // PAGE)
    put(path, PAGE + 40 + 48 + 6, "<H", 32)  # as deep as can be
    with pytest.raises(LmdbError, match="used twice"):
        list(LmdbFile(path))
    with pytest.raises(LmdbError, match="wrong level"):
        LmdbFile(path).get(b"000")


def test_a_named_database_is_no_image(tmp_path):
    with lmdb.open(str(tmp_path / "x.lmdb"), max_dbs=1) as environment:
        environment.open_db(b"name")
    with pytest.raises(LmdbError, match="a value is no image but another database"):
        LmdbFile(tmp_path / "x.lmdb").get(b"name")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.mdb")
    with pytest.raises(LmdbError, match="no regular file"):
        LmdbFile(tmp_path)


def test_a_file_cut_short_while_it_is_open(tmp_path):
    path = write(tmp_path / "x.lmdb", [[(b"a", bytes(50_000))]])
    file = LmdbFile(path)
    os.truncate(path / "data.mdb", 3 * PAGE)
    with pytest.raises(LmdbError, match="it ends at byte"):
        file.get(b"a")


def read_damaged(good, folder, count, seed):
    """Read damaged copies in full; returns how many were refused, and the files that the check lets pass."""
    refused, passed = 0, []
    data = folder / "data.mdb"
    for number, content in enumerate(damaged_lmdb(good, count, seed)):
        data.write_bytes(content)
        try:
            file = LmdbFile(folder)
            file.get(b"/dataset/val/n01440764/img_003.png")
            for key in islice(file, 10_000):
                file.get(key)
        except LmdbError:
            refused += 1
        try:
            check_whole(LmdbFile(folder))
        except LmdbError:
            continue
        passed.append(folder / f"passed_{number}.mdb")
        passed[-1].write_bytes(content)
    return refused, passed


WRITING = """
import sys
import lmdb

def write(path):
    with lmdb.open(path, subdir=False, map_size=1 << 28, sync=False) as environment:
        with environment.begin() as reading:
            content = dict(reading.cursor())
        with environment.begin(write=True) as writing:
            for key in list(content)[::2]:
                writing.delete(key)
        for turn in range(3):
            with environment.begin(write=True) as writing:
                for number in range(50):
                    writing.put(b"new %d" % number, bytes(number * 50 * (turn + 1)))
        with environment.begin() as reading:
            after = dict(reading.cursor())
    expected = {key: content[key] for key in list(content)[1::2]}
    expected.update({b"new %d" % number: bytes(number * 150) for number in range(50)})
    assert after == expected

for path in sys.argv[1:]:
    try:
        write(path)
    except lmdb.CorruptedError:
        print(path)  # a list of free pages under an earlier transaction: only the library itself can tell
"""


def fuzz(tmp_path, good, count, seed):
    """(copies that reading refuses, copies that the check lets pass); the library can write to the latter."""
    refused, passed = read_damaged(good, tmp_path, count, seed)
    for start in range(0, len(passed), 200):
        names = list(map(str, passed[start : start + 200]))
        done = subprocess.run([sys.executable, "-c", WRITING, *names], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.returncode, done.stderr)
        assert len(done.stdout.split()) < 5
    return refused, len(passed)


def small_with_free_pages(folder):
    keys = [b"key %03d " % number + b"k" * (number % 50) for number in range(60)]
    first = [(key, bytes(number % 5 * 900)) for number, key in enumerate(keys)]
    return write(folder, [first, [(key, None) for key in keys[::3]], [(keys[1], b"again")]]) / "data.mdb"


def test_wrong_numbers_are_refused_and_what_passes_the_check_can_be_written_to(tmp_path):
    good = [(VAL / "data.mdb").read_bytes(), small_with_free_pages(tmp_path / "x.lmdb").read_bytes()]
    for number, content in enumerate(good):
        (tmp_path / str(number)).mkdir()
        refused, passed = fuzz(tmp_path / str(number), content, 400, seed=number)
        assert refused > 100
        assert passed > 20


@pytest.mark.slow
def test_tens_of_thousands_of_wrong_numbers(tmp_path, capsys):
    goods = [VAL / "data.mdb", small_with_free_pages(tmp_path / "x.lmdb")]
    for number, (good, count) in enumerate(zip(goods, (20_000, 30_000))):
        (tmp_path / str(number)).mkdir()
        refused, passed = fuzz(tmp_path / str(number), good.read_bytes(), count, seed=100 + number)
        with capsys.disabled():
            print(f"{good}: {count} tried, {refused} refused at reading, {passed} passed the check and were written to")
