"""LMDB files with evil numbers where the format keeps its numbers."""

import random
import struct
from collections.abc import Iterator

PAGE = 4096
META_FIELDS = [(8, 2), *((offset, 8) for offset in range(16, 152, 8)), (16, 4), (20, 4), (40, 4), (44, 2), (46, 2)]


def damaged_lmdb(good: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` copies of an LMDB with one to three wrong numbers each, in the heads of pages and nodes."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(good)
        for _ in range(draw.choice([1, 1, 2, 3])):
            offset, size = _place(data, draw)
            data[offset : offset + size] = _evil(data, offset, size, draw).to_bytes(size, "little")
        yield bytes(data)


def _place(data: bytearray, draw: random.Random) -> tuple[int, int]:
    """Where a number is, and how many bytes it has."""
    pages = range(0, len(data) - PAGE + 1, PAGE)
    trees = [page for page in pages if data[page + 10] in (1, 2) and data[page + 11] == 0]
    page = draw.choice([0, PAGE, *(3 * trees), draw.choice(pages)])
    if page <= PAGE:
        offset, size = draw.choice(META_FIELDS)
        return page + offset, size
    if page not in trees or draw.random() < 0.3:
        return page + draw.choice([0, 8, 10, 12, 14]), 2
    nodes = min((struct.unpack_from("<H", data, page + 12)[0] - 16) // 2, 500)
    pointer = page + 16 + 2 * draw.randrange(max(nodes, 1))
    node = page + struct.unpack_from("<H", data, pointer)[0]
    if draw.random() < 0.3 or node + 200 > len(data):
        return pointer, 2
    key = struct.unpack_from("<H", data, node + 6)[0]
    return node + draw.choice([0, 2, 4, 6, 8, min(8 + key, 180)]), 2


def _evil(data: bytearray, offset: int, size: int, draw: random.Random) -> int:
    now, most = int.from_bytes(data[offset : offset + size], "little"), 256**size - 1
    near = (now + draw.choice([-4096, -2, -1, 1, 2, 16, 4096])) % (most + 1)
    far = most - draw.randrange(5000) % most
    return draw.choice([0, 1, most, most // 2, far, near, near, now ^ 1 << draw.randrange(8)])
