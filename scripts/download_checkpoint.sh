#!/usr/bin/env bash
# Put a published checkpoint into results/NAME of the current folder: scripts/download_checkpoint.sh NAME
set -euo pipefail
here="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
exec "${PYTHON:-python}" "$here/download_checkpoint.py" "$@"
