#!/usr/bin/env bash
# Sets up .venv if needed and runs lint and the test suite. Arguments go to pytest, e.g. -m slow.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest "$@"
