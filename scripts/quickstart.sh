#!/usr/bin/env bash
# From nothing to restored photographs in a few minutes on a CPU: sets up .venv if needed, cuts a small data set
# from photographs inside installed packages, trains a small bridge, restores photographs it has never seen,
# judges them, and draws a picture.  All it writes goes to ./quickstart of the current folder.
#
#   bash scripts/quickstart.sh                      # 4x super-resolution
#   bash scripts/quickstart.sh --corrupt jpeg-5     # any other task
set -euo pipefail

TASK=sr4x-pool
GAIN=1.0   # dB that the default task gains at least, see below
usage() { echo "usage: bash scripts/quickstart.sh [--corrupt TASK]" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --corrupt) [ $# -ge 2 ] || usage; TASK="$2"; shift 2 ;;
        --corrupt=*) TASK="${1#--corrupt=}"; shift ;;
        *) usage ;;
    esac
done

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
mkdir -p quickstart && cd quickstart
NAME="$TASK"
run() { echo; echo "\$ python $*"; "$PYTHON" "$ROOT/$1" "${@:2}"; }
