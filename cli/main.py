"""`commonart`: the list of subcommands, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from commonart.cli import (
    caption,
    encode_image,
    encode_text,
    evaluate,
    fetch,
    license_filter,
    mia,
    models,
    nano,
    quickstart,
    sample,
    shard,
    train,
    translate,
)
from commonart.core.errors import CommonArtError, UsageError

DEFAULTS = "commonart.toml"
DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "Free some space and run the same command again; what was finished is kept."),
    errno.EDQUOT: ("your disk quota is used up", "Free some space and run the same command again."),
    errno.ENOENT: ("no such file or folder", "Check the path."),
    errno.EFBIG: ("it grew larger than files may be here", "Raise the limit (ulimit -f), or write somewhere else."),
    errno.EACCES: ("permission denied", "Give another path, or let yourself read or write it (chmod)."),
    errno.EPERM: ("permission denied", "Give another path, or let yourself read or write it (chmod)."),
    errno.EROFS: ("the file system is read-only", "Write somewhere that you may write."),
    errno.ENOTDIR: ("a part of the path is a file", "Give another path."),
    errno.EEXIST: ("it is a file that is in the way", "Give another path."),
    errno.EISDIR: ("it is a folder", "Give a file."),
}

app = typer.Typer(
    name="commonart",
    help="From licensed images to a text-to-image model, its scores and its papers. Stages chain with pipes.",
    epilog="Try: commonart quickstart",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("fetch")(fetch.fetch)
app.command("license-filter")(license_filter.license_filter)
app.command("caption")(caption.caption)
app.command("translate")(translate.translate)
app.command("shard")(shard.shard)
app.command("encode-text")(encode_text.encode_text)
app.command("encode-image")(encode_image.encode_image)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("eval")(evaluate.evaluate)
app.command("mia")(mia.mia)
app.command("models")(models.models)
app.command("quickstart")(quickstart.quickstart)
app.add_typer(nano.app, name="nano")


@app.callback(invoke_without_command=True)
def _global(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("commonart"))
        raise typer.Exit()


def defaults(command: Any, path: str = DEFAULTS) -> dict[str, Any]:
    """Option defaults from `commonart.toml` in the working folder, one table per subcommand; a flag wins.

    Raises:
        UsageError: a file that is no TOML, or a name that is no subcommand or no option of it.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}.", "Mend it or move it away.") from None
    _name_options(command, tables, path)
    return tables


def _name_options(command: Any, tables: dict[str, Any], path: str) -> None:
    """Options as typer's functions name their parameters, in place; of a group such as `nano`, command by command."""
    for name, table in tables.items():
        known = command.commands.get(name)
        if known is None or not isinstance(table, dict):
            raise UsageError(f"{path}: [{name}] is no subcommand.", f"One of: {', '.join(sorted(command.commands))}.")
        if hasattr(known, "commands"):
            _name_options(known, table, path)
            continue
        options = {option.removeprefix("--"): p.name for p in known.params for option in (*p.opts, p.name)}
        for option in list(table):
            if option not in options:
                raise UsageError(f"{path}: {name} has no option '{option}'.", f"See commonart {name} --help.")
            table[options[option]] = table.pop(option)


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run one command line in this process; errors come through as they were raised. `quickstart` finds this function in
    its context."""
    command = typer.main.get_command(app)
    words = sys.argv[1:] if arguments is None else arguments
    settings: dict[str, Any] = {}
    if os.path.exists(DEFAULTS) and "--help" not in words:  # a broken file must not stand before the help
        settings["default_map"] = defaults(command)
    code = command.main(args=arguments, prog_name="commonart", standalone_mode=False, obj=invoke, **settings)
    if code == 128 + signal.SIGINT:  # typer's word for Ctrl-C, which ends the chain of a quickstart too
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors that a user can cause become two sentences on stderr."""
    _quiet_libraries()
    # A stage that is told to stop unwinds like any error, so that no half-written file stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return invoke(arguments)
    except CommonArtError as error:
        from commonart.core import launch

        if not launch.leave(error):  # a process that --gpus started leaves its sentence to the one that started it
            _say(error)
        return error.code
    except typer.TyperException as error:
        error.show() if hasattr(error, "show") else print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted: the same command again goes on from what is there.", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        known = DISK_ERRORS.get(error.errno or 0)
        if known is None:
            raise
        name = error.filename or error.filename2 or "output"
        _say(CommonArtError(f"{name}: {known[0]}.", known[1]))
        return 1


def _quiet_libraries() -> None:
    """Libraries talk on stderr as if they were alone; what matters of it, the stages say themselves."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Idle OpenMP threads that spin cost eight times the time on two busy cores (captioning 140 s against 19 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advertises an optional package at every import


def _say(error: CommonArtError) -> None:
    if error.what:
        print(f"Error: {error.what}\n{error.fix}".rstrip(), file=sys.stderr)
    else:  # the reader of stdout has gone: nothing more may be written there, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.summary is not None:
        from commonart.core import log

        log.summary(error.summary)


def main() -> NoReturn:
    """The entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
