# Sourced by the scripts: leaves $PYTHON pointing at an interpreter that has everything in requirements.txt.
# An active virtual or conda environment that already has it all is used as it is; otherwise .venv is made.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LIST="$ROOT/requirements.txt"

_has_all() {
    "$1" - "$LIST" 2>/dev/null <<'PY'
import importlib.metadata as m, re, sys
if sys.version_info < (3, 10):
    sys.exit(1)
for line in open(sys.argv[1]):
    name = re.match(r"\s*([A-Za-z0-9_.-]+)", line)
    if name:
        m.version(name.group(1))
PY
}

if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && _has_all python; then
    PYTHON="$(command -v python)"
    echo "Using the active environment: $PYTHON"
else
    PYTHON="$ROOT/.venv/bin/python"
    STAMP="$ROOT/.venv/.installed"
    if [ ! -x "$PYTHON" ]; then
        BASE=""
        for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
            if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
                BASE="$candidate"; break
            fi
        done
        [ -n "$BASE" ] || { echo "Python 3.10 or newer is needed: install it and run this again." >&2; exit 2; }
        echo "Creating $ROOT/.venv with $("$BASE" --version)"
        "$BASE" -m venv "$ROOT/.venv" || { echo "venv failed: install your system's python3-venv package and run this again." >&2; exit 2; }
    fi
    if ! cmp -s "$LIST" "$STAMP"; then
        echo "Installing the packages of requirements.txt (several GB at the first run)"
        "$PYTHON" -m pip install -r "$LIST" || exit 1
        cp "$LIST" "$STAMP"
    fi
fi
