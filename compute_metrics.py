"""compute_metrices.py under the name that habit expects."""

import sys

from compute_metrices import main

if __name__ == "__main__":
    sys.exit(main())
