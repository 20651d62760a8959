"""stat, check, backup, restore: a whole store."""
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from annapy.cli.app import DONE, MISSING, open_store, store_option, verb
from annapy.cli.output import duration_words, size_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from annapy.cli.output import Output

__all__ = ["backup_verb", "check_verb", "restore_verb", "stat_verb"]

PROBLEMS_SHOWN = 20
REPORTED = ("cells", "chunked", "deadlines", "live", "pages", "file_bytes")
COUNTS = {
    "keys", "live", "resident", "dirty", "applied", "evicted", "expired", "demoted", "pending",
}


@click.command("stat")
@click.argument("key", required=False)
@store_option
@verb
def stat_verb(out: Output, key: str | None, target: str) -> int:
    """Print counts and sizes of the store, or what is known of KEY; status 1 if it is missing."""
    with open_store(target, readonly=True) as store:
        if key is None:
            figures: dict[str, Any] = {"keys": len(store), **store.stats()}
        elif key in store:
            figures = store.info(key)
        else:
            if out.as_json:
                out.line({"key": key, "found": False})
            else:
                out.note(f"annapy: no key {key!r}")
            return MISSING
    if out.as_json:
        out.line(figures)
    else:
        out.table(("", ">"), flattened(figures))
    return DONE


def flattened(figures: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Rows of a table: nested figures under their group's name, units in words."""
    for name, figure in figures.items():
        title = f"{under}{name}"
        if isinstance(figure, dict):
            yield from flattened(figure, f"{title}: ")
        elif isinstance(figure, int) and ("bytes" in name or name.endswith("capacity")):
            yield title.replace("_bytes", ""), size_words(figure)
        elif isinstance(figure, float) and name.endswith("_s"):
            yield title.removesuffix("_s"), duration_words(figure * 1e9)
        elif isinstance(figure, int) and not isinstance(figure, bool) and name in COUNTS:
            yield title, f"{figure:,}"
        else:
            yield title, "-" if figure is None else str(figure)


@click.command("check")
@click.argument("store", required=False, metavar="[STORE]")
@click.option("--store", "target", envvar="ANNAPY_URL", metavar="STORE",
              help="Directory or URL of the store [env: ANNAPY_URL].")
@verb
def check_verb(out: Output, store: str | None, target: str | None) -> int:
    """Read all of STORE and verify every page and cell; status 1 if anything is damaged.

    Changes nothing and works beside the store's owner.
    """
    from annapy.persist.check import check

    place = directory_of(store or target)
    with steps(out, "checking") as on_step:
        report = check(place, on_step)
    if out.as_json:
        out.line({
            "damaged": report.problem_count,
            **{name: getattr(report, name) for name in REPORTED},
            "problems": report.problems[:PROBLEMS_SHOWN],
        })
    else:
        for problem in report.problems[:PROBLEMS_SHOWN]:
            out.say(f"damaged: {problem}")
        out.say(
            f"{place}: {report.cells:,} cells in {size_words(report.file_bytes)},"
            f" {'all whole' if report else f'problems: {report.problem_count:,}'}"
        )
    return DONE if report else MISSING


@click.command("backup")
@click.argument("places", nargs=-1, required=True, metavar="[STORE] FILE")
@click.option("--store", "target", envvar="ANNAPY_URL", metavar="STORE",
              help="Directory or URL of the store [env: ANNAPY_URL].")
@verb
def backup_verb(out: Output, places: tuple[str, ...], target: str | None) -> int:
    """Copy STORE, as of its last commit, to the new FILE, and verify the copy.

    Works while the store is in use.
    """
    from annapy.persist.backup import backup

    *source, path = places
    if len(source) > 1:
        raise click.UsageError(f"one STORE and one FILE, not {len(places)} names")
    place = directory_of(source[0] if source else target)
    with steps(out, "copying") as on_step:
        report = backup(place, path, on_step)
    finished(out, path, report.cells, "holds")
    return DONE


@click.command("restore")
@click.argument("file")
@click.argument("store", required=False, metavar="[STORE]")
@click.option("--store", "target", envvar="ANNAPY_URL", metavar="STORE",
              help="The new store's directory [env: ANNAPY_URL].")
@verb
def restore_verb(out: Output, file: str, store: str | None, target: str | None) -> int:
    """Make a store in the new directory STORE from the backup FILE."""
    from annapy.persist.backup import restore

    place = directory_of(store or target)
    with steps(out, "restoring") as on_step:
        report = restore(file, place, on_step)
    finished(out, place, report.cells, "has")
    return DONE


def finished(out: Output, place: str, cells: int, word: str) -> None:
    """Say what a copy came to."""
    size = sum(p.stat().st_size for p in [Path(place)] if p.is_file())
    if out.as_json:
        out.line({"path": place, "cells": cells, **({"bytes": size} if size else {})})
    else:
        out.say(f"{place} {word} {cells:,} cells" + (f", {size_words(size)}" if size else ""))


def directory_of(target: str | None) -> str:
    """The directory that a STORE names; a store in memory has none to work on."""
    from annapy.options import resolve

    if not target:
        raise click.UsageError("name a STORE, here or in ANNAPY_URL")
    path = resolve(target, {}).path
    if path is None:
        raise click.UsageError(f"{target} is in memory; name a directory")
    return path


@contextlib.contextmanager
def steps(out: Output, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error for work that tells how far it is; nothing under `--json`."""
    if out.as_json:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=out.console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
