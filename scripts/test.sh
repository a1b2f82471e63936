#!/usr/bin/env bash
# Sets up .venv if needed and runs lint and the test suite. Two tests run at a time; arguments go to pytest, e.g. -m slow.
set -euo pipefail
EXTRAS=test,perceptual,demo,hub source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
