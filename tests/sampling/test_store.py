"""Where restored images lie while they come: batches, gaps, damage, and who restores what."""

import logging

import torch
from hypothesis import given
from hypothesis import strategies as st

from i2sb.recon import SECONDS, Recon, ReconStore, made_with, partition_range

LOG = logging.getLogger("test")


def make_store(folder, stop=10, **settings):
    store = ReconStore(folder, None, stop, settings, (3, 4, 4), "float32")
    assert not store.open(False, LOG)
    return store


def put(store, start, stop, seconds=1.0):
    images = torch.arange(start, stop).float().reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    store.write(list(range(start, stop)), images, torch.arange(start, stop), torch.arange(start, stop), seconds)


def first_pixels(path):
    return torch.load(path, weights_only=True)["arr"][:, 0, 0, 0].tolist()


@given(count=st.integers(1, 60), parts=st.integers(1, 12))
def test_parts_are_the_whole_in_order(count, parts):
    ranges = [partition_range(f"{i}_{parts}", count) for i in range(parts)]
    assert [number for r in ranges for number in range(*r)] == list(range(count))
    assert max(b - a for a, b in ranges) - min(b - a for a, b in ranges) <= 1


def test_gaps_are_found_and_batches_joined(tmp_path):
    store = make_store(tmp_path)
    put(store, 4, 6)
    assert store.missing(3) == [[0, 1, 2], [3], [6, 7, 8], [9]]
    put(store, 0, 4)
    put(store, 6, 10)
    assert first_pixels(store.finish()) == list(range(10))
    assert not store.parts.exists()


def test_seconds_per_image_are_the_median_batch_and_not_a_setting(tmp_path):
    store = make_store(tmp_path, seed=1)
    put(store, 0, 4, seconds=2.0)
    put(store, 4, 8, seconds=2.0)
    put(store, 8, 10, seconds=100.0)
    made = made_with(store.finish())
    assert made[SECONDS] == 0.5
    assert made["seed"] == 1
    assert ReconStore(tmp_path, None, 10, {"seed": 1}, (3, 4, 4), "float32").open(False, LOG)


def test_images_are_taken_from_any_part(tmp_path):
    paths = []
    for part in range(3):
        store = ReconStore(tmp_path, f"{part}_3", 8, {}, (3, 4, 4), "float32")
        store.open(False, LOG)
        put(store, store.start, store.stop)
        paths.append(store.finish())
    recon = Recon(paths)
    assert recon.take([7, 0, 3, 2])[:, 0, 0, 0].tolist() == [7, 0, 3, 2]
    assert torch.cat(list(recon.batches(2)))[:, 0, 0, 0].tolist() == list(range(8))
