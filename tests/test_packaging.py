"""pyproject.toml is the one list of packages, and the wheel made from it works by itself."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("i2sb", "corruption", "guided_diffusion", "dataset", "evaluation")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*argv: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, argv)], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools writes beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run("-m", "pip", "wheel", *offline, "-w", copy / "dist", ".", cwd=copy)
    (found,) = (copy / "dist").glob("i2sb-*.whl")
    return found


def test_every_file_of_the_packages_travels_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    assert inside == {path.as_posix() for path in files if "__pycache__" not in path.parts}


def test_it_is_imported_from_any_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    program = (
        "import i2sb, evaluation, corruption, guided_diffusion.presets, dataset.imagenet\n"
        "from i2sb import Runner, download_ckpt, download\n"
        "from corruption import build_corruption\n"
        "from evaluation import build_resnet50\n"
        "print(i2sb.__file__)\n"
    )
    assert run("-c", program, cwd=elsewhere, PYTHONPATH=str(site)).strip() == str(site / "i2sb/__init__.py")
    assert not list(elsewhere.iterdir())


def distributions(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in requirements}


def third_party(folders: list[Path]) -> set[str]:
    """The distributions whose modules the files of `folders` import, wherever in a file."""
    providers = importlib.metadata.packages_distributions()
    found = set()
    for path in (path for folder in folders for path in ([folder] if folder.is_file() else folder.rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            found |= {name.lower() for module in names for name in providers.get(module.partition(".")[0], ())}
    return found - {"i2sb", "markupsafe"}  # jinja2 brings markupsafe


def test_what_the_code_imports_is_in_the_list():
    runtime = [ROOT / name for name in (*PACKAGES, "scripts", "train.py", "sample.py", "compute_metrices.py")]
    extras = PROJECT["optional-dependencies"]
    listed = distributions(PROJECT["dependencies"] + extras["perceptual"])
    assert third_party(runtime) <= listed | distributions(extras["demo"] + extras["hub"])
    assert third_party([ROOT / "tests"]) <= listed | distributions(extras["test"])


def test_there_is_no_second_list():
    for name in ("requirements.txt", "requirements.yaml"):
        lines = [line.strip(" -") for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        assert lines[-1] == "e .[perceptual]"
        assert not distributions(PROJECT["dependencies"]) & set(re.findall(r"[\w-]+", " ".join(lines)))


def test_there_is_one_version():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert cited == newest == PROJECT["version"]
