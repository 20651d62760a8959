"""The `annapy` command. Nothing of it is loaded by `import annapy`.

    app.py        the group of commands, the options they share, errors to exit statuses
    keys.py       get set del incr scan
    upkeep.py     stat check backup restore
    doctor.py     the machine and one store, judged
    bench.py      this machine beside `dict`, in one run
    demo.py       the prediction service of annapy/demo
    output.py     tables, one line of JSON, sizes and durations in words

Exit status: 0 done, 1 not there or a failed check, 2 wrong usage or refused.
"""
from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of `sys.argv` and exit with its status."""
    from annapy.cli.app import run

    run()
