"""The rules that keep the house in order: layers, start-up without torch, and packages that match the disk."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TREES = ("cli", "core", "stages")
FILES = sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))
ORCHESTRA = {"stages/quickstart.py", "stages/nano.py"}  # the two that may call other stages
# Lower layers first: a module may import from its own layer and from those before it.
LAYERS = (
    {"core/errors.py"},
    {"core/log.py", "core/launch.py", "core/recipes.py", "core/settings.py"},
    {"core/registry/catalogue.py", "core/registry/lookup.py", "core/licenses"},
    {
        "core/data",
        "core/output/html.py",
        "core/output/metadata.py",
        "core/output/contact_sheet.py",
        "core/output/c2pa.py",
        "core/output/terminal.py",
    },
    {"core/model"},
    {"core/model/training", "core/model/captioning"},
    {"core/model/drawing"},
    {"core/nano", "core/metrics"},
    {"stages"},
    {"cli"},
)
LIGHT = (
    "core/errors.py",
    "core/log.py",
    "core/launch.py",
    "core/recipes.py",
    "core/registry/catalogue.py",
    "core/registry/lookup.py",
    "core/settings.py",
    "core/data",
    "core/licenses",
)


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Modules that a file imports, as dotted names; `top_only`: those of its head, not of its function bodies."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes: list[ast.AST] = list(ast.walk(tree))
    if top_only:
        nodes = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    found = set[str]()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    """Imported modules of this project, as paths from its root."""
    paths = set[str]()
    for name in names:
        if name.startswith("commonart."):
            path = name.removeprefix("commonart.").replace(".", "/")
            if (ROOT / f"{path}.py").exists():
                paths.add(f"{path}.py")
            elif (ROOT / path / "__init__.py").exists():
                paths.add(path)
    return paths


def layer(path: str) -> int:
    found = {name: number for number, names in enumerate(LAYERS) for name in names}
    for place in (path, *map(str, Path(path).parents)):  # the nearest folder decides
        if place in found:
            return found[place]
    return 0 if path in {"core", "core/__init__.py"} else len(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    here = str(path.relative_to(ROOT))
    assert layer(here) < len(LAYERS), f"{here} has no place in LAYERS"
    for other in ours(imports(path)):
        assert layer(other) <= layer(here), f"{here} imports {other}, which stands above it"
        if here.startswith("stages/") and other.startswith("stages/"):
            assert here in ORCHESTRA, f"{here} imports the stage {other}"


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "cli")], ids=lambda p: p.name)
def test_commands_import_stages_only_when_they_run(path: Path) -> None:
    above = ours(imports(path, top_only=True)) - {"core"}  # the package itself is empty
    heavy = {name for name in above if not name.startswith(("cli", *LIGHT))}
    assert not heavy


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_light_modules_import_no_torch(path: Path) -> None:
    here = str(path.relative_to(ROOT))
    if here.startswith(LIGHT):
        assert not {"torch", "transformers", "diffusers", "webdataset"} & {n.split(".")[0] for n in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 420, "two subjects?"


def test_packages_are_those_on_the_disk() -> None:
    """A package that is missing from the list works when editable and is silently absent from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in FILES}
    assert listed == {"commonart." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert all((folder / "__init__.py").exists() for folder in folders)


NO_TORCH = """
import sys
from commonart.cli.main import run
code = run({arguments!r})
heavy = sorted({{"torch", "transformers", "diffusers", "numpy", "PIL", "webdataset"}} & set(sys.modules))
print("HEAVY", heavy, code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["train", "--list"], ["models"], ["license-filter", "-"], ["--version"]],
    ids=" ".join,
)
def test_no_torch_where_none_is_needed(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH.format(arguments=arguments)],
        input=b'{"key":"a","license":"CC0-1.0"}\n', capture_output=True, check=True,
    )  # fmt: skip
    assert done.stderr.decode().splitlines()[-1] == "HEAVY [] 0"


def test_help_is_fast() -> None:
    """CPU time, which a busy machine does not stretch: the aim is 0.2 s, and half as much again is the alarm."""
    import resource

    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "commonart.cli.main", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3
