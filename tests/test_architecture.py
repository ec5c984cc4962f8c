"""The rules that keep the house in order: layers, no circle, start-up without torch, and packages that match the disk."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORCHESTRA = {"stages/ablate.py", "stages/nano.py", "stages/quickstart.py"}  # those that may call other stages
# Lower layers first: a module may import from its own layer and from those before it. The nearest name decides.
LAYERS = (
    {"core/errors.py"},
    {"core/log.py", "core/recipes.py", "core/slurm.py"},
    {"core/launch.py", "core/settings.py"},
    {"core/licenses", "core/registry"},
    {"core/data"},
    {"core/output"},
    {"core/model"},
    {"core/training"},
    {"core/generation"},
    {"core/nano"},
    {"core/metrics"},
    {"core/audit", "core/voting", "core/report"},
    {"stages"},
    {"cli"},
)
LIGHT = ("core/errors.py", "core/log.py", "core/launch.py", "core/recipes.py", "core/settings.py", "core/slurm.py",
         "core/registry/", "core/licenses/", "core/data/")  # fmt: skip
HEAVY = {"torch", "transformers", "diffusers", "webdataset"}
# What runs in a process of its own, and imports torch there.
OWN_PROCESS = {"core/registry/pickle_conversion.py"}


def sources(root: Path) -> dict[str, str]:
    """The text of every module of cli, core and stages, by its path from the root."""
    paths = sorted(path for tree in ("cli", "core", "stages") for path in (root / tree).rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in paths}


SOURCES = sources(ROOT)


def imported(text: str, top_only: bool = False) -> set[str]:
    """Dotted names that a module imports; `top_only`: in its head, not in function bodies."""
    tree = ast.parse(text)
    nodes: Iterable[ast.AST] = tree.body if top_only else ast.walk(tree)
    found = set[str]()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def arrows(modules: Mapping[str, str], top_only: bool = False) -> dict[str, set[str]]:
    """The modules of this project that each module imports, as paths; of a package, its `__init__`."""
    found = dict[str, set[str]]()
    for path, text in modules.items():
        found[path] = set()
        for name in imported(text, top_only):
            if name.startswith("commonart."):
                target = name.removeprefix("commonart.").replace(".", "/")
                found[path] |= {f"{target}.py", f"{target}/__init__.py"} & modules.keys() - {path}
    return found


def layer(path: str) -> int:
    """The number of the layer that a module stands in."""
    for place in (path, *map(str, Path(path).parents)):
        for number, names in enumerate(LAYERS):
            if place in names:
                return number
    if path == "core/__init__.py":
        return 0
    raise AssertionError(f"{path} has no place in LAYERS")


def upward(modules: Mapping[str, str]) -> list[str]:
    """Every import that points to a higher layer, or from one stage to another."""
    found = []
    for path, targets in arrows(modules).items():
        for other in sorted(targets):
            if layer(other) > layer(path):
                found.append(f"{path} imports {other}, which stands above it")
            both = path.startswith("stages/") and other.startswith("stages/")
            if both and path not in ORCHESTRA and not other.endswith("__init__.py"):
                found.append(f"{path} imports the stage {other}")
    return found


def circle(modules: Mapping[str, str]) -> list[str]:
    """One circle of imports, imports inside functions and for types among them; [] where there is none."""
    try:
        TopologicalSorter(arrows(modules)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_downward() -> None:
    assert upward(SOURCES) == []


def test_no_circle() -> None:
    assert circle(SOURCES) == []


def test_a_circle_and_an_arrow_upward_are_seen() -> None:
    """The two tests above fail when the order is broken: across folders, inside one, and inside a function."""
    lazy = "def f():\n    from commonart.core.model import layers\n"
    assert upward({"core/data/a.py": lazy, "core/model/layers.py": ""})
    assert upward({"stages/a.py": "import commonart.stages.b", "stages/b.py": ""})
    assert not upward({"core/model/layers.py": "from commonart.core.data.a import f", "core/data/a.py": ""})
    inside = {
        "core/data/a.py": "from commonart.core.data import b",
        "core/data/b.py": "from commonart.core.data.a import f",
    }
    assert sorted(set(circle(inside))) == ["core/data/a.py", "core/data/b.py"]
    assert circle({**inside, "core/data/b.py": "def f():\n    import commonart.core.data.a\n"})
    assert not circle({**inside, "core/data/b.py": ""})


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith("cli/")])
def test_commands_import_stages_only_when_they_run(path: str) -> None:
    above = arrows(SOURCES, top_only=True)[path]
    assert not {p for p in above if not p.startswith(("cli/", *LIGHT)) and not p.endswith("__init__.py")}


def test_light_modules_import_no_torch() -> None:
    light = {path: text for path, text in SOURCES.items() if path.startswith(LIGHT) and path not in OWN_PROCESS}
    found = {path: HEAVY & {name.split(".")[0] for name in imported(text)} for path, text in light.items()}
    assert {path: heavy for path, heavy in found.items() if heavy} == {}


def test_every_module_says_what_it_is_for() -> None:
    for path, text in SOURCES.items():
        says = ast.get_docstring(ast.parse(text)) or ""
        assert says, f"{path} has no docstring"
        assert not path.endswith("__init__.py") or "\n" not in says, f"{path}: one line that says what lives there"
        assert text.count("\n") <= 420, f"{path}: two subjects?"


def test_packages_are_those_on_the_disk() -> None:
    """A package that is missing from the list works when editable and is silently absent from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {Path(path).parent for path in SOURCES}
    assert set(project["tool"]["setuptools"]["packages"]) == {".".join(("commonart", *f.parts)) for f in folders}
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)


def test_tests_mirror_the_source() -> None:
    """Whoever looks for the tests of a folder guesses their path: tests/data/shards for core/data/shards."""
    beside = {"helpers", "benchmarks", "slurm"}
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    tested = {folder for folder in folders if folder.parts and folder.parts[0] not in beside}
    assert {str(f) for f in tested if not ((ROOT / f).is_dir() or (ROOT / "core" / f).is_dir())} == set()
    assert {str(f) for f in tested if not any((ROOT / "tests" / f).glob("test_*.py"))} == set()


def defined(text: str) -> set[str]:
    """The names that a module has at its top level."""
    names = set[str]()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return names


def unknown(dotted: str) -> bool:
    """Whether no module of this project has this name, nor one that defines the rest of it."""
    path, parts = ROOT, dotted.split(".")[1:]
    while parts:
        path /= parts.pop(0)
        if (file := path.with_suffix(".py")).is_file():
            return bool(parts) and parts[0] not in defined(file.read_text("utf-8"))
        if not path.is_dir():
            return True
    return False


def test_modules_that_are_named_in_strings_exist() -> None:
    """A process that is started with `-m` or `-c`, an example in a docstring: no import checker sees those."""
    assert unknown("commonart.core.registry.lookup.pickle_conversion") and unknown("commonart.stages.paint")
    assert not unknown("commonart.core.errors.CommonArtError") and not unknown("commonart.core.registry")
    trees = [path for tree in ("cli", "core", "stages", "tests") for path in (ROOT / tree).rglob("*")]
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (*trees, *ROOT.glob("*.md")) if path.suffix in (".py", ".md") and path != Path(__file__)
        for name in re.findall(r"\bcommonart\.(?:cli|core|stages)(?:\.\w+)+", path.read_text("utf-8")) if unknown(name)
    }  # fmt: skip
    assert missing == set()


NO_TORCH = """
import sys
from commonart.cli.main import run
code = run({arguments!r})
heavy = sorted({{"torch", "transformers", "diffusers", "numpy", "PIL", "webdataset"}} & set(sys.modules))
print("HEAVY", heavy, code, file=sys.stderr)
"""
HELP_IMPORTS = """
import sys, typer
before = set(sys.modules)
from commonart.cli.main import run
code = run({arguments!r})
print(code, *sorted(set(sys.modules) - before), file=sys.stderr)
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


@pytest.mark.parametrize("command", [[], ["fetch"], ["train"]], ids=" ".join)
def test_help_is_fast(command: list[str]) -> None:
    """It imports little but typer, and takes less than twice the CPU seconds of that import.

    CPU time is noisy on a busy machine: so imports are checked by name, and time only by a factor of two.
    """
    import resource

    def cpu_seconds(arguments: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    code = HELP_IMPORTS.format(arguments=[*command, "--help"])
    status, *modules = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr.decode().split()
    )
    assert status == "0"
    own = {name for name in modules if name.startswith("commonart")}
    needed = {"cli", "cli.main", "cli.options", "core", "core.errors", *(f"cli.{name}" for name in command)}
    assert own <= {"commonart", *(f"commonart.{name}" for name in needed)}
    # `logging`, and what it imports
    others = {name.split(".")[0] for name in modules if name not in own}
    assert others <= {"_string", "atexit", "encodings", "logging", "string", "typer"}
    arguments = ["-m", "commonart.cli.main", *command, "--help"]
    turns = list[tuple[float, float]]()
    for _ in range(20):  # the least of five is noise at times; of slow code the least stays slow
        turns += [(cpu_seconds(["-c", "import typer"]), cpu_seconds(arguments))]
        typer, ours = (min(seconds) for seconds in zip(*turns, strict=True))
        if len(turns) >= 5 and ours < 2 * typer:
            return
    pytest.fail(f"{ours:.3f} s, where importing typer takes {typer:.3f} s")
