"""The wheel holds what the commands need: every module, and the small weights."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tracked tree, as an installation from a clone would build it."""
    home = tmp_path_factory.mktemp("wheel")
    clone = home / "clone"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", BUILD, str(home)], cwd=clone, check=True, capture_output=True)
    return next(home.glob("*.whl"))


def test_the_wheel_holds_every_module_and_the_weights(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("commonart/")}
    modules = {
        f"commonart/{path.relative_to(ROOT)}"
        for tree in ("cli", "core", "stages")
        for path in (ROOT / tree).rglob("*.py")
    }
    weights = {
        f"commonart/{path.relative_to(ROOT)}" for path in (ROOT / "core/nano/weights").rglob("*") if path.is_file()
    }
    assert weights
    assert inside == modules | weights


def test_the_wheel_runs_without_the_clone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = "import commonart.cli.main as m; print(m.__file__); m.run(['models', 'clip'])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = [{str(tmp_path / 'site')!r}, *{sys.path!r}]; {code}"],
        capture_output=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert str(tmp_path / "site") in done.stdout.decode()
    assert "clip-japanese-base" in done.stdout.decode()
