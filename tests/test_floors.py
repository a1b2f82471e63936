"""Which package may import which, read from the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "corruption": set(),
    "guided_diffusion": set(),
    "i2sb": {"corruption", "guided_diffusion"},
    "dataset": {"corruption", "guided_diffusion", "i2sb"},
    "evaluation": {"corruption", "guided_diffusion", "i2sb", "dataset"},
}
SCRIPTS = ("train", "sample", "compute_metrices")


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_a_file_imports_from_floors_below_only(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        above = imported(path) & ({*FLOORS, *SCRIPTS, "scripts", "tests"} - FLOORS[package] - {package})
        assert not above, f"{path} imports {above}"


def test_runtime_knows_no_bridges():
    for path in (ROOT / "i2sb/runtime").glob("*.py"):
        used = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("i2sb.")
        }
        allowed = ("i2sb.runtime", "i2sb.errors")
        assert all(name.startswith(allowed) for name in used), f"{path} imports {used}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_only_assemble(script):
    assert len((ROOT / f"{script}.py").read_text().splitlines()) <= 90
    top = ast.parse((ROOT / f"{script}.py").read_text()).body
    heavy = {a.name for node in top if isinstance(node, ast.Import) for a in node.names}
    assert "torch" not in heavy
