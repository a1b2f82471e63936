#!/usr/bin/env bash
# Builds the site of docs/ into site/, strictly, and runs the notebook docs/tutorial.ipynb.  Both keep to this machine.
set -euo pipefail
EXTRAS=docs source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
"$PYTHON" -m zensical build --strict --clean
if grep -rnE '<(script|img|link|iframe)[^>]* (src|href)="?(https?:)?//' site --include='*.html' ||
    grep -rnE "(url\(|@import)[ \"']*(https?:)?//" site --include='*.css'; then
    echo "The site asks other hosts for the files above." >&2
    exit 1
fi
"$PYTHON" -m jupyter execute --timeout=900 docs/tutorial.ipynb
