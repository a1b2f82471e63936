"""Put a published checkpoint (latest.pt and options.pkl) into results/NAME of the current folder; resumes."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from i2sb.addresses import CHECKPOINT_FOLDERS
from i2sb.fetch import fetch_checkpoint
from i2sb.runtime.script import run_script, say


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(CHECKPOINT_FOLDERS)}")
    name = parser.parse_args().name
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    say(f"{fetch_checkpoint(name, log=logging.getLogger('i2sb'))} is ready")
    return 0


if __name__ == "__main__":
    sys.exit(run_script("download_checkpoint.py", main))
