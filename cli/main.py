"""`commonart`: the list of subcommands, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from commonart.core.errors import EXIT_FAILED, EXIT_USAGE, CommonArtError, ReaderGone, UsageError

DEFAULTS_FILE = "commonart.toml"
# name: (module, the line of `commonart --help`, which is also the first line of the command's own help)
COMMANDS = {
    "fetch": ("fetch", "Bring images in: original bytes, one record each."),
    "license-filter": ("license_filter", "Normalize every licence and keep what the policy allows."),
    "caption": ("caption", "Write captions, one by each model that is named."),
    "translate": ("translate", "Translate captions; the originals stay."),
    "shard": ("shard", "Make training images of one size, in shards."),
    "encode-text": ("encode_text", "Encode captions: last hidden states of their true length."),
    "encode-image": ("encode_image", "Encode images: mean and deviation of their latents."),
    "train": ("train", "Train the transformer or a captioner, or continue an interrupted run."),
    "ablate": ("ablate", "Compare recipes under one budget of seconds, several seeds each."),
    "sample": ("sample", "Generate images from prompts, marked as synthetic."),
    "serve": ("serve", "Serve a web page to generate images with."),
    "inspect": ("inspect", "Print what an image's marks say."),
    "export": ("export", "Write a model as a folder that diffusers loads without remote code."),
    "eval": ("evaluate", "Score images, or a model that generates them first."),
    "vote": ("vote", "Let people compare images of the same prompts, or evaluate their votes."),
    "mia": ("mia", "Test whether a model gives away its training images."),
    "lookup": ("lookup", "Find out whether an image was in the training set."),
    "report": ("report", "Write a model card with every work, licence and model that took part."),
    "models": ("models", "List the models that --model knows, and their terms."),
    "nano": ("nano", "Build the embedded models again, or measure them."),
    "quickstart": ("quickstart", "Run every stage once on the embedded models."),
}
NO_SUMMARY = ("inspect", "models", "nano", "quickstart")  # commands that end without a JSON line
METAVARS = {"int range": "N", "float range": "X"}  # of options that have none of their own
DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "Free some space and run the same command again; finished work is kept."),
    errno.EDQUOT: ("your disk quota is used up", "Free some space and run the same command again."),
    errno.ENOENT: ("no such file or folder", "Check the path."),
    errno.EFBIG: ("the file is larger than allowed here", "Raise the limit (ulimit -f), or write somewhere else."),
    errno.EACCES: ("permission denied", "Choose another path, or change its permissions (chmod)."),
    errno.EPERM: ("operation not permitted", "Choose another path, or change its permissions (chmod)."),
    errno.EROFS: ("the file system is read-only", "Choose a path on a writable file system."),
    errno.ENOTDIR: ("a parent of this path is not a folder", "Choose another path."),
    errno.EEXIST: ("a file of this name already exists", "Choose another path."),
    errno.EISDIR: ("is a folder", "Give the path of a file."),
}


class Command(TyperCommand):
    """A command whose usage line names required arguments plainly: typer's own would write `{FILE}`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class CommandGroup(TyperGroup):
    """The subcommands, each imported when it is asked for: building all of them takes longer than starting Python."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)  # names alone, from which typer suggests "did you mean"

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            name = COMMANDS[cmd_name][0]
            command = getattr(importlib.import_module(f"commonart.cli.{name}"), name)
            if not isinstance(command, typer.Typer):
                function, command = command, typer.Typer(rich_markup_mode=None, add_completion=False)
                command.command(cmd_name, cls=Command)(function)
            self.commands[cmd_name] = typer.main.get_command(command)
            for option in self.commands[cmd_name].params:
                option.metavar = option.metavar or METAVARS.get(option.type.name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


app = typer.Typer(
    name="commonart",
    cls=CommandGroup,
    help="Train a text-to-image model on licensed images, from data to audit. Commands chain with pipes.",
    epilog="Try: commonart quickstart",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _global(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("commonart"))
        raise typer.Exit()


def read_defaults(group: Any, path: str = DEFAULTS_FILE) -> dict[str, Any]:
    """Read option defaults from `commonart.toml` in the working folder, one table per subcommand; a flag wins.

    Raises UsageError where the file is not TOML, or names an unknown subcommand or option.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct it, or move it away.") from None
    _rename_options(group, tables, path)
    return tables


def _rename_options(group: Any, tables: dict[str, Any], path: str) -> None:
    """Rename options to the parameters of their functions, in place; of a group such as `nano`, command by command."""
    for name, table in tables.items():
        command = group.get_command(None, name)
        if command is None:
            raise UsageError(f"{path}: [{name}] is not a subcommand.", f"One of: {', '.join(sorted(group.commands))}.")
        if not isinstance(table, dict):
            fix = f"Write [{name}] on a line of its own, and options below."
            raise UsageError(f"{path}: {name} is not a table.", fix)
        if hasattr(command, "commands"):
            _rename_options(command, table, path)
            continue
        options = {option.removeprefix("--"): p for p in command.params for option in (*p.opts, p.name)}
        for option in list(table):
            if option not in options:
                raise UsageError(f"{path}: {name} has no option '{option}'.", f"See commonart {name} --help.")
            value, parameter = table.pop(option), options[option]
            table[parameter.name] = [value] if parameter.multiple and isinstance(value, str) else value


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run one command line in this process, and let its errors through as they were raised."""
    argv = sys.argv[1:] if arguments is None else list(arguments)
    group = typer.main.get_command(app)
    # A broken file must not hide the help.
    defaults = read_defaults(group) if os.path.exists(DEFAULTS_FILE) and "--help" not in argv else None
    try:
        # quickstart runs further command lines: it gets this function as its context's `obj`.
        with group.make_context("commonart", argv, obj=invoke, default_map=defaults) as context:
            group.invoke(context)
        code = 0
    except typer.Exit as done:  # --help, --version
        code = done.exit_code
    if sys.stdout is not None:
        sys.stdout.flush()  # a reader that has gone, or a full disk, is an error here rather than at exit
    return code


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; an error that the user can mend becomes two sentences on stderr."""
    _quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # Japanese on a terminal of another encoding is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    # SIGTERM unwinds the stage as an error does, so that no half-written file is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    try:
        return invoke(arguments)
    except CommonArtError as error:
        from commonart.core import launch

        if not launch.report(error):  # in a process that --gpus started, the one that started it prints the error
            _print_error(error)
            if error.code != EXIT_USAGE:
                _print_summary(error, arguments, started)
        return error.code
    except typer.TyperException as error:
        error.show() if hasattr(error, "show") else print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort) as error:
        again = " Run the same command again to continue."
        with suppress(OSError):  # stdin is closed
            again = "" if stat.S_ISFIFO(os.fstat(0).st_mode) else again  # which cannot be read a second time
        again = "" if (sys.argv[1:] if arguments is None else arguments)[:1] == ["report"] else again  # keeps no part
        print(f"Interrupted.{again}", file=sys.stderr)
        _print_summary(error, arguments, started)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _print_error(ReaderGone())
        return ReaderGone.code
    except OSError as error:
        known = DISK_ERRORS.get(error.errno or 0)
        if known is None:
            raise
        path = error.filename or error.filename2 or "output"
        _print_error(CommonArtError(f"{path}: {known[0]}.", known[1]))
        _print_summary(error, arguments, started)
        return EXIT_FAILED


def _quiet_libraries() -> None:
    """Silence what libraries print on stderr; the stages report what matters of it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Idle OpenMP threads that spin for long slow two busy cores down eightfold (captioning 140 s against 19 s); those that sleep
    # at once slow training down by a third. libgomp reads the first, others the second.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advertises an optional package at every import
    for name in ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):  # where torchao is installed
        logging.getLogger(name).setLevel(logging.ERROR)


def _print_error(error: CommonArtError) -> None:
    if error.what:
        print(f"Error: {error.what}\n{error.fix}".rstrip(), file=sys.stderr)
    else:  # the reader of stdout has gone: Python's flush at exit must not fail on it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_summary(error: BaseException, arguments: Sequence[str] | None, started: float) -> None:
    """End a command that failed with the JSON line that it ends with otherwise: its own counts, if it had begun to count."""
    name = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    summary = getattr(error, "summary", None)
    if summary is None and name in COMMANDS and name not in NO_SUMMARY:
        from commonart.core.data.drops import Summary

        summary = Summary(name, seconds=time.monotonic() - started)
    if summary is not None:
        from commonart.core import log

        log.summary(summary)


def main() -> NoReturn:
    """The entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
