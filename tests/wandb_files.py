"""What W&B wrote offline, read back."""

import struct
from pathlib import Path


def read(path: Path) -> list:
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
