# Sourced by the scripts: leaves $PYTHON pointing at an interpreter that has the packages of pyproject.toml, with those
# of its extras that $EXTRAS names (EXTRAS=test,perceptual source setup_env.sh; by default none).
# An active virtual or conda environment that already has them all is used as it is; otherwise .venv is made.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_has_all() {
    "$1" - "$ROOT/pyproject.toml" "${EXTRAS:-}" 2>/dev/null <<'PY'
import importlib.metadata as m, sys
from packaging.requirements import Requirement
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
if sys.version_info < (3, 10):
    sys.exit(1)
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
lists = [project["optional-dependencies"][extra] for extra in sys.argv[2].split(",") if extra]
for line in sum(lists, project["dependencies"]):
    need = Requirement(line)
    if need.marker is None or need.marker.evaluate():
        if not need.specifier.contains(m.version(need.name), prereleases=True):
            sys.exit(1)
PY
}

if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && _has_all python; then
    PYTHON="$(command -v python)"
    echo "Using the active environment: $PYTHON"
else
    PYTHON="$ROOT/.venv/bin/python"
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
    if ! _has_all "$PYTHON"; then
        echo "Installing the packages of pyproject.toml (several GB at the first run)"
        "$PYTHON" -m pip install -e "$ROOT${EXTRAS:+[$EXTRAS]}" || exit 1
    fi
fi
