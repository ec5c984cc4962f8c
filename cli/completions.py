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
from commonart.core.settings import PRECISIONS, QUANTIZERS

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
    ("", "--vision-tower"): lookup.model_names("vision-tower"),
    ("", "--language-model"): lookup.model_names("text-encoder"),
    ("", "--clip"): lookup.model_names("clip"),
    ("", "--clip-ja"): lookup.model_names("clip"),
    ("", "--judge"): lookup.model_names("clip"),
    ("", "--quantize"): QUANTIZERS,
    ("", "--format"): ("png", "jpg", "webp"),
    ("", "--device"): ("auto", "cpu", "cuda", "mps"),
    ("train", "--precision"): PRECISIONS,
    ("ablate", "--precision"): PRECISIONS,
    ("", "--precision"): ("auto", "bf16", "fp16", "fp32"),
}


class Option(NamedTuple):
    """An option as a shell completes it."""

    names: tuple[str, ...]  # spellings
    takes_value: bool
    values: tuple[str, ...]  # that it may have; (): a file
    help: str  # on one line


class Command(NamedTuple):
    """A command as a shell completes it."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]  # what its first argument may be


def _line(text: str | None) -> str:
    """The first sentence of a help text, without what shells would read."""
    first = " ".join((text or "").split("\b")[0].split()).split(". ")[0].rstrip(".")
    return "".join(c for c in first if c not in "'\"`$\\[]:")


def commands() -> Iterator[Command]:
    """The command tree, read from the Typer app."""
    from commonart.cli.main import app

    root: Any = typer.main.get_command(app)
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
    values, words = [], []
    for command in commands():
        for option in command.options:
            if option.takes_value:
                pattern = "|".join(f'"{command.name} {name}"' for name in option.names)
                values.append(f'            {pattern}) words="{" ".join(option.values)}" ;;\n')
        flags = " ".join(name for option in command.options for name in option.names)
        words.append(f'                    {command.name}) words="{" ".join((flags, *command.words))}" ;;\n')
    return f"""# bash completion for commonart; written by cli/completions.py
_commonart() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{" ".join(c.name for c in commands())} --help --version"
    else
        case "${{COMP_WORDS[1]}} $prev" in
{"".join(values)}            *)
                case "${{COMP_WORDS[1]}}" in
{"".join(words)}                esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    local IFS=$'\\n'  # a name may hold a space
    [ ${{#COMPREPLY[@]}} -eq 0 ] && [[ "$cur" != -* ]] && COMPREPLY=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _commonart commonart
"""


def zsh() -> str:
    """The script for zsh: put it as `_commonart` into a folder of $fpath."""
    names, cases = [], []
    for command in commands():
        names.append(f"    '{command.name}:{command.help}'\n")
        cases.append(f"    {command.name})\n      _arguments \\\n")
        for option in command.options:
            values = f"({' '.join(option.values)})" if option.values else "_files"
            value = f":value:{values}" if option.takes_value else ""
            cases += [f"        '{name}[{option.help}]{value}' \\\n" for name in option.names]
        rest = f"'1:word:({' '.join(command.words)})'" if command.words else "'*:file:_files'"
        cases.append(f"        {rest}\n      ;;\n")
    return f"""#compdef commonart
# zsh completion for commonart; written by cli/completions.py
_commonart() {{
  local -a commands=(
{"".join(names)}  )
  if (( CURRENT == 2 )); then
    _describe -t commands 'commonart command' commands
    return
  fi
  shift words; (( CURRENT-- ))
  case $words[1] in
{"".join(cases)}  esac
}}
if [ "$funcstack[1]" = "_commonart" ]; then
  _commonart "$@"
else
  compdef _commonart commonart
fi
"""


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
            values = f' -x -a "{" ".join(option.values)}"' if option.values else " -r"
            for name in option.names:
                spelling = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                value = values if option.takes_value else ""
                lines.append(f'complete -c commonart {here} {spelling}{value} -d "{option.help}"')
    return "\n".join(lines) + "\n"


SCRIPTS = {"commonart.bash": bash, "_commonart": zsh, "commonart.fish": fish}

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "completions")
    for file_name, script in SCRIPTS.items():
        (folder / file_name).write_text(script(), "utf-8")
