"""Completion for bash, zsh and fish, written from the command tree: `python -m commonart.cli.completions completions/`.

The scripts are static: Tab starts no Python. A test keeps them the same as the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from commonart.core import recipes
from commonart.core.registry import catalogue, lookup
from commonart.core.settings import QUANTIZERS

# (subcommand, or "" for all, option or argument) -> what its value may be; everything else completes file names.
VALUES: dict[tuple[str, str], Sequence[str]] = {
    ("license-filter", "--policy"): ("strict", "paper"),
    ("caption", "--model"): lookup.model_names("caption"),
    ("caption", "--lang"): ("en", "ja", "en,ja"),
    ("caption", "--length"): (*catalogue.LENGTHS, ",".join(catalogue.LENGTHS)),
    ("translate", "--model"): lookup.model_names("translate"),
    ("translate", "--to"): ("ja", "en"),
    ("encode-text", "--model"): lookup.model_names("text-encoder"),
    ("encode-text", "--store"): ("bf16", "fp16", "int8"),
    ("encode-image", "--model"): lookup.model_names("autoencoder"),
    ("encode-image", "--store"): ("fp16", "bf16", "fp32"),
    ("shard", "--format"): ("auto", "jpg", "png", "webp"),
    ("shard", "--resample"): ("lanczos", "area"),
    ("train", "--stage"): recipes.STAGES,
    ("train", "--track"): ("wandb", "trackio"),
    ("sample", "--sampler"): ("dpm++", "ddim"),
    ("sample", "--quantize"): (*QUANTIZERS, "none"),
    ("serve", "--quantize"): (*QUANTIZERS, "none"),
    ("eval", "--fid"): ("clean", "legacy_pytorch"),
    ("eval", "--clip-mode"): ("paper", "hessel"),
    ("eval", "--split"): ("train", "heldout"),
    ("models", "ROLE"): catalogue.ROLES,
    ("", "--model"): lookup.model_names("transformer"),
    ("", "--text-encoder"): lookup.model_names("text-encoder"),
    ("", "--autoencoder"): lookup.model_names("autoencoder"),
    ("", "--clip"): lookup.model_names("clip"),
    ("", "--clip-ja"): lookup.model_names("clip"),
    ("", "--judge"): lookup.model_names("clip"),
    ("", "--quantize"): QUANTIZERS,
    ("", "--format"): ("png", "jpg", "webp"),
    ("", "--device"): ("auto", "cpu", "cuda", "mps"),
    ("", "--precision"): ("auto", "bf16", "fp16", "fp32"),
}


class Option(NamedTuple):
    """One option: its spellings, whether a value follows, the values it may have, and its help on one line."""

    names: tuple[str, ...]
    takes_value: bool
    values: tuple[str, ...]
    help: str


class Command(NamedTuple):
    """One subcommand; `words` are what its first argument may be."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def _line(text: str | None) -> str:
    """The first sentence of a help text, without what shells would read."""
    first = " ".join((text or "").split("\b")[0].split()).split(". ")[0].rstrip(".")
    return "".join(c for c in first if c not in "'\"`$\\[]:")


def commands() -> list[Command]:
    """The command tree, read from the Typer app."""
    from commonart.cli.main import app

    return list(_commands(typer.main.get_command(app)))


def _commands(root: Any) -> Iterator[Command]:
    for name in root.commands:
        command = root.get_command(None, name)
        options = [Option(("--help",), False, (), "Show this message and exit")]
        inner = getattr(command, "commands", {}).values()  # of a group such as nano, the options of all of its commands
        for parameter in {p.opts[0]: p for each in (*inner, command) for p in each.params}.values():
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                spellings = (*parameter.opts, *parameter.secondary_opts)
                known = [VALUES[key] for s in spellings for key in ((name, s), ("", s)) if key in VALUES]
                values = tuple(known[0]) if known else ()
                options.append(Option(spellings, not parameter.is_flag, values, _line(parameter.help)))
        words = tuple(getattr(command, "commands", ())) or tuple(VALUES.get((name, "ROLE"), ()))
        yield Command(name, _line(command.help), tuple(options), words)


def bash() -> str:
    """The script for bash: `source completions/commonart.bash`."""
    lines = [
        "# bash completion for commonart; written by cli/completions.py",
        "_commonart() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "    COMPREPLY=()",
        '    if [ "$COMP_CWORD" -eq 1 ]; then',
        f'        words="{" ".join(c.name for c in commands())} --help --version"',
        "    else",
        '        case "${COMP_WORDS[1]} $prev" in',
    ]
    for command in commands():
        for option in command.options:
            if option.takes_value:
                pattern = "|".join(f'"{command.name} {name}"' for name in option.names)
                lines.append(f'            {pattern}) words="{" ".join(option.values)}" ;;')
    lines += ["            *)", '                case "${COMP_WORDS[1]}" in']
    for command in commands():
        flags = " ".join(name for option in command.options for name in option.names)
        lines.append(f'                    {command.name}) words="{" ".join((flags, *command.words))}" ;;')
    lines += [
        "                esac ;;",
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "    local IFS=$'\\n'  # a name may hold a space",
        '    [ ${#COMPREPLY[@]} -eq 0 ] && [[ "$cur" != -* ]] && COMPREPLY=($(compgen -f -- "$cur"))',
        "}",
        "complete -o filenames -F _commonart commonart",
    ]
    return "\n".join(lines) + "\n"


def zsh() -> str:
    """The script for zsh: put it as `_commonart` into a folder of $fpath."""
    lines = [
        "#compdef commonart",
        "# zsh completion for commonart; written by cli/completions.py",
        "_commonart() {",
        "  local -a commands=(",
        *(f"    '{c.name}:{c.help}'" for c in commands()),
        "  )",
        "  if (( CURRENT == 2 )); then",
        "    _describe -t commands 'commonart command' commands",
        "    return",
        "  fi",
        "  shift words; (( CURRENT-- ))",
        "  case $words[1] in",
    ]
    for command in commands():
        lines.append(f"    {command.name})")
        lines.append("      _arguments \\")
        for option in command.options:
            value = ""
            if option.takes_value:
                value = f":value:({' '.join(option.values)})" if option.values else ":value:_files"
            for name in option.names:
                lines.append(f"        '{name}[{option.help}]{value}' \\")
        rest = f"'1:word:({' '.join(command.words)})'" if command.words else "'*:file:_files'"
        lines += [f"        {rest}", "      ;;"]
    lines += ["  esac", "}", 'if [ "$funcstack[1]" = "_commonart" ]; then', '  _commonart "$@"', "else"]
    lines += ["  compdef _commonart commonart", "fi"]
    return "\n".join(lines) + "\n"


def fish() -> str:
    """The script for fish: put it into ~/.config/fish/completions/."""
    first = f'-n "not __fish_seen_subcommand_from {" ".join(c.name for c in commands())}"'
    lines = [
        "# fish completion for commonart; written by cli/completions.py",
        f"complete -c commonart {first} -f",
        f'complete -c commonart {first} -l version -d "Print the version and exit"',
    ]
    for command in commands():
        here = f'-n "__fish_seen_subcommand_from {command.name}"'
        lines.append(f'complete -c commonart {first} -a {command.name} -d "{command.help}"')
        if command.words:
            lines.append(f'complete -c commonart {here} -f -a "{" ".join(command.words)}"')
        for option in command.options:
            for name in option.names:
                spelling = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                value = ""
                if option.takes_value:
                    value = f' -x -a "{" ".join(option.values)}"' if option.values else " -r"
                lines.append(f'complete -c commonart {here} {spelling}{value} -d "{option.help}"')
    return "\n".join(lines) + "\n"


SCRIPTS = {"commonart.bash": bash, "_commonart": zsh, "commonart.fish": fish}


def write(folder: str) -> None:
    """Write the three scripts into `folder`."""
    for name, script in SCRIPTS.items():
        (Path(folder) / name).write_text(script(), "utf-8")


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else "completions")
