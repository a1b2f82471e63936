"""Put a published checkpoint (latest.pt and options.pkl) into results/NAME of the current folder."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from i2sb.addresses import CHECKPOINT_FOLDERS
from i2sb.errors import UserError
from i2sb.fetch import fetch_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(CHECKPOINT_FOLDERS)}")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        folder = fetch_checkpoint(arguments.name, log=logging.getLogger("i2sb"))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; call again to go on from here", file=sys.stderr)
        return 130
    print(f"{folder} is ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
