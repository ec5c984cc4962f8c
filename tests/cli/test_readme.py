"""What the README files say is true: command lines, options, the tree and the links. Each rule is also shown to fail."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer import Exit, TyperException
from typer.main import get_command

from commonart.cli import main
from commonart.core.data.sources.named import source_table

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "cli", "core", "stages", "tests")
    for path in (ROOT / folder).glob("**/README.md" if folder != "." else "README.md")
)
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in FILES}
GROUP: Any = get_command(main.app)
SPAN = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, command) for each command of the tree; those of a group as `nano build`."""
    for name in group.commands:
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(commands(GROUP))


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, each joined with those that a pipe at its end continues, comments removed."""
    fenced, line = False, ""
    for raw in text.splitlines():
        if raw.startswith("```"):
            fenced = not fenced
        elif fenced or raw.startswith("    "):
            line = f"{line} {raw.strip().removeprefix('$ ')}"
            line = re.sub(r"\s+#\s.*$", "", line).strip()
            if not line.endswith("|"):
                yield line
                line = ""


def command_lines(text: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the arguments of each `commonart`, in pipes and quotes too, and whether it stands in a code block."""
    for line in code_lines(text):
        if not line.startswith(("{", "warning:")):  # output
            yield from ((call, True) for call in _calls(line))
    for span in SPAN.findall(text):
        if span.startswith(("commonart ", "uv run commonart ")):
            yield from ((call, False) for call in _calls(span))


def _calls(line: str) -> Iterator[list[str]]:
    if "commonart " not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    call: list[str] | None = None
    redirected = False
    for token in lexer:
        if set(token) <= set("|&;<>"):
            redirected = token in ("<", ">")
            if call and not redirected:
                yield call
                call = None
        elif redirected:
            redirected = False
        elif call is not None:
            call.append(token)
        elif token == "commonart":
            call = []
        else:
            yield from _calls(token)  # sbatch --wrap "commonart ..."
    if call:
        yield call


def wrong_command_lines(text: str) -> list[str]:
    """Return the command lines that `commonart` would refuse, each with what it would say."""
    wrong = []
    for arguments, block in command_lines(text):
        name = arguments[0]
        if name.isupper() or name.startswith("--"):  # `commonart COMMAND --help`
            continue
        try:
            command = GROUP.get_command(None, name)
            if command is not None and hasattr(command, "commands"):
                command, arguments = command.get_command(None, arguments[1]), arguments[1:]
            if command is None:
                wrong.append(f"{' '.join(arguments)}: no such command")
            elif len(arguments) > 1 or block:  # in prose a name alone is no command line
                command.make_context(name, list(arguments[1:]))
        except Exit:
            pass  # --help
        except TyperException as error:
            wrong.append(
                f"{' '.join(arguments)}: {error.format_message() if hasattr(error, 'format_message') else error}"
            )
    return wrong


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading of the second level."""
    found = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def flags_of(command: Any) -> list[tuple[str, ...]]:
    """Return the spellings of each option of a command."""
    return [(*p.opts, *p.secondary_opts) for p in command.params if p.param_type_name == "option"]


def undocumented(reference: str) -> list[str]:
    """Return the commands without a section in the reference, and the options that their section does not name."""
    missing, found = [], sections(reference)
    for name, command in COMMANDS.items():
        section = found.get(name.split(" ")[0])
        if section is None:
            missing.append(name)
            continue
        named = set(FLAG.findall(section))
        missing += [f"{name} {names[0]}" for names in flags_of(command) if not named & {*names}]
    return missing


def unknown_flags(text: str) -> list[str]:
    """Return the options in code spans that no command has."""
    known = {flag for command in COMMANDS.values() for names in flags_of(command) for flag in names} | {"--help"}
    theirs = ("python ", "pytest ", "uv", "sbatch ", "srun ", "--array")  # other programs
    spans = [span for span in SPAN.findall(text) if not span.startswith(theirs)]
    return sorted(
        {flag for span in spans for flag in FLAG.findall(span) if flag not in known and flag.startswith("--")}
    )


def folders_on_disk() -> set[str]:
    """Return every folder that the tree must list: the packages, and the two folders that hold none."""
    packages = {
        path.parent.relative_to(ROOT) for tree in ("cli", "core", "stages") for path in (ROOT / tree).rglob("*.py")
    }
    return {f"{path.as_posix()}/" for path in packages} | {"completions/", "tests/"}


def folders_in_tree(text: str) -> list[str]:
    """Return the folders of README's tree, in its order."""
    block = sections(text)["The tree"].split("```")[1]
    return [line.split()[0] for line in block.strip().splitlines()]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text)}


def broken_links(name: str, text: str) -> list[str]:
    """Return the links of a page to files, folders and headings that do not exist."""
    broken = []
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        page = target / "README.md" if target.is_dir() else target
        if not target.exists() or (anchor and anchor not in anchors(text if not path else page.read_text("utf-8"))):
            broken.append(link)
    return broken


def missing_modules(name: str, text: str) -> list[str]:
    """Return the modules and test files in code spans, `a/b.py`, that are neither at the root nor beside the page."""
    paths = [span for span in SPAN.findall(text) if re.fullmatch(r"[\w/]+/[\w/]*\.py", span)]
    return [path for path in paths if not any((folder / path).exists() for folder in (ROOT, (ROOT / name).parent))]


def test_the_pages_are_found() -> None:
    assert {"README.md", "stages/README.md", "core/README.md", "tests/benchmarks/README.md"} <= TEXTS.keys()
    assert sum(1 for text in TEXTS.values() for _ in command_lines(text)) >= 50


@pytest.mark.parametrize("name", FILES)
def test_every_command_line_is_one_that_commonart_takes(name: str) -> None:
    assert wrong_command_lines(TEXTS[name]) == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "benchmarks").glob("*.toml")), ids=lambda path: path.stem)
def test_the_command_lines_above_a_grid_are_too(path: Path) -> None:
    comments = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    text = re.sub(r"\\\n#", " ", "\n".join(comments)).replace("#", "   ")
    assert any("ablate" in words for words, _ in command_lines(text))
    assert wrong_command_lines(text) == []


@pytest.mark.parametrize("name", FILES)
def test_every_option_named_in_prose_exists(name: str) -> None:
    assert unknown_flags(TEXTS[name]) == []


@pytest.mark.parametrize("name", FILES)
def test_links_and_modules_exist(name: str) -> None:
    assert broken_links(name, TEXTS[name]) == []
    assert missing_modules(name, TEXTS[name]) == []


def test_every_command_and_option_is_in_the_reference() -> None:
    assert undocumented(TEXTS["stages/README.md"]) == []


def test_the_table_of_sources_is_the_one_that_fetch_prints() -> None:
    table = "".join(f"    {line}\n" for line in source_table())
    assert f"    $ commonart fetch --list-sources\n{table}" in TEXTS["stages/README.md"]


def test_readme_lists_every_command_in_both_languages() -> None:
    text = TEXTS["README.md"]
    for name in main.COMMANDS:
        assert len(re.findall(rf"^\|.*`{name}`.*\|", text, re.MULTILINE)) == 2, name


def test_the_tree_is_the_tree_on_disk() -> None:
    tree = folders_in_tree(TEXTS["README.md"])
    assert sorted(tree) == sorted(folders_on_disk())
    assert tree == sorted(tree)


def test_readme_is_short() -> None:
    assert TEXTS["README.md"].count("\n") <= 220


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("    commonart fecth scenes\n", "no such command"),
        ("    commonart fetch scenes --colour red\n", "No such option: --colour"),
        (
            "    $ uv run commonart fetch scenes --list |   # a comment\n      commonart shard --size 0\n",
            "not in the range",
        ),
        ('    sbatch --wrap "commonart caption --batch many raw/"\n', "not a valid int"),
        ("```\ncommonart nano biuld -o weights/\n```\n", "no such command"),
        ("see `commonart train --stag nano`\n", "No such option: --stag"),
        ("    commonart export runs/512 > out\n", "Missing option"),
    ],
)
def test_a_wrong_command_line_is_seen(page: str, sentence: str) -> None:
    (found,) = wrong_command_lines(page)
    assert sentence in found


def test_other_mistakes_are_seen() -> None:
    reference = TEXTS["stages/README.md"]
    assert undocumented(reference.replace("## shard", "## shards")) == ["shard"]
    assert undocumented(re.sub("--blocklist", "--block", reference)) == [
        "license-filter --blocklist",
        "shard --blocklist",
        "train --blocklist",
        "ablate --blocklist",
        "lookup --blocklist",
    ]
    assert unknown_flags("`--colour` and `train --stag`") == ["--colour", "--stag"]
    assert broken_links("README.md", "[a](core/nowhere.md) [b](#nothing) [c](core/README.md#layers)\n") == [
        "core/nowhere.md", "#nothing",
    ]  # fmt: skip
    assert missing_modules("core/README.md", "`core/nowhere.py`, `data/record.py`, `core/data/record.py`") == [
        "core/nowhere.py"
    ]
    tree = TEXTS["README.md"].replace("core/output/ ", "core/outputs/ ")
    assert set(folders_in_tree(tree)) ^ folders_on_disk() == {"core/output/", "core/outputs/"}
