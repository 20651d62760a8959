"""The group of commands, what they share, and the way from an error to an exit status.

Owns the list of verbs (each loaded when it is called), the options `--store` and `--json`, and the
promise that a refusal is one line, never a traceback.

    status 0    done
    status 1    the key is not there, or a check failed
    status 2    wrong usage, or the store refused
"""
from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import click

from annapy.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from annapy import Store

__all__ = ["DONE", "MISSING", "REFUSED", "cli", "open_store", "run", "store_option", "verb"]

DONE, MISSING, REFUSED = 0, 1, 2

VERBS = {
    "get": "keys", "set": "keys", "del": "keys", "incr": "keys", "scan": "keys",
    "stat": "upkeep", "check": "upkeep", "backup": "upkeep", "restore": "upkeep",
    "doctor": "doctor", "bench": "bench", "demo": "demo",
}


class Verbs(click.Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"annapy.cli.{VERBS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_verb")
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="annapy", message="annapy %(version)s")
def cli() -> None:
    """A state store for functions.

    STORE is a directory or a URL (file:///dir, mem://); ANNAPY_URL names the one to use when
    --store is left out. Every command takes --json and then prints one line. Exit status: 0 done,
    1 not there or a failed check, 2 wrong usage or refused.
    """


def run() -> None:
    """Run the command line of `sys.argv` and exit with its status."""
    cli(prog_name="annapy")


def verb(function: Callable[..., int | None]) -> Callable[..., None]:
    """Give a command `--json`, an Output as its first argument, and errors in one line.

    The command returns its exit status (None is 0). What the store and the machine refuse
    (annapy's errors, OSError, and the builtins that the public interface promises for bad values)
    is reported with status 2; anything else is a defect and keeps its traceback.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
    @click.pass_context
    @functools.wraps(function)
    def wrapper(ctx: click.Context, /, *args: Any, as_json: bool, **kwargs: Any) -> None:
        from annapy import AnnapyError

        out = Output(as_json=as_json)
        try:
            status = function(out, *args, **kwargs)
        except (AnnapyError, OSError, ValueError, TypeError, OverflowError) as error:
            if not isinstance(error, (AnnapyError, OSError)) and not raised_by_annapy(error):
                raise
            out.refusal(error)
            status = REFUSED
        ctx.exit(status or DONE)

    return wrapper


def raised_by_annapy(error: BaseException) -> bool:
    """Whether a builtin error left the package's public interface and not this command line."""
    from pathlib import Path

    frame, files = error.__traceback__, []
    while frame is not None:
        files.append(frame.tb_frame.f_code.co_filename)
        frame = frame.tb_next
    here = str(Path(__file__).parent)
    return bool(files) and not files[-1].startswith(here)


store_option = click.option(
    "--store", "target", envvar="ANNAPY_URL", metavar="STORE", required=True,
    help="Directory or URL of the store [env: ANNAPY_URL].",
)


def open_store(target: str, *, readonly: bool = False) -> Store:
    """Open the store that `--store` names; a reader opens no store that is not there yet."""
    import annapy

    return annapy.open(target, readonly=readonly)
