"""demo: the prediction service of annapy/demo, with its progress and figures shown."""
from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from annapy.cli.app import DONE, open_store, verb
from annapy.cli.output import duration_words, percentile, size_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from annapy import Store
    from annapy.cli.output import Output
    from annapy.demo.run import Progress, Result

__all__ = ["demo_verb"]


@click.command("demo")
@click.argument("directory", required=False, metavar="[DIR]",
                type=click.Path(file_okay=False, path_type=Path))
@click.option("--passes", type=click.FloatRange(min=0, max=1000), default=3.0, show_default=True,
              help="How often each training image is replayed.")
@click.option("--fresh", is_flag=True, help="Forget what the store in DIR has learned.")
@verb
def demo_verb(out: Output, directory: Path | None, passes: float, fresh: bool) -> int:
    """Learn to read handwritten digits, with all state in a store; again to continue.

    Two ordinary functions share a store in DIR: one keeps features and statistics of the images
    that come by, the other learns from them and answers. Nothing is downloaded and no server is
    started. Without DIR the store is ~/.local/state/annapy/demo (or below XDG_STATE_HOME).
    """
    from annapy.demo.run import run

    place = directory or default_directory()
    place.mkdir(parents=True, exist_ok=True)
    with open_store(str(place)) as store:
        if fresh:
            store.clear()
        before = store.counter("events").value
        introduce(out, place, before, is_default=directory is None)
        with progress_bar(out) as on_progress:
            result = run(store, passes, on_progress)
        store.flush()
        figures = figures_of(store, result, place, before)
    if out.as_json:
        out.line(figures)
    else:
        show(out, figures)
    return DONE


def default_directory() -> Path:
    """Where state that outlives a run belongs, by the XDG base directory specification."""
    named = os.environ.get("XDG_STATE_HOME", "")
    base = Path(named) if named.startswith("/") else Path.home() / ".local" / "state"
    return base / "annapy" / "demo"


def introduce(out: Output, place: Path, before: int, *, is_default: bool) -> None:
    """Say where the store is and whether it has been used before."""
    chosen = " (no DIR was given)" if is_default else ""
    if before:
        out.say(f"Continuing from the store in {place}{chosen}: {before:,} events learned so far.")
    else:
        out.say(f"Starting with an empty store in {place}{chosen}.")


@contextlib.contextmanager
def progress_bar(out: Output) -> Iterator[Callable[[Progress], None] | None]:
    """A live bar on standard error; nothing under `--json`."""
    if out.as_json:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("learning"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} events/s"), TextColumn("{task.fields[right]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=out.console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate="-", right="")

        def on_progress(at: Progress) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=at.done, total=at.total,
                rate=f"{speed:,.0f}" if speed else "-",
                right=f"{at.recent_accuracy:.1%} of the latest right",
            )

        yield on_progress


def figures_of(store: Store, result: Result, place: Path, before: int) -> dict[str, Any]:
    """What `--json` prints; durations in microseconds, sizes in bytes."""
    figures: dict[str, Any] = {
        "accuracy": result.accuracy,
        "accuracy_start": result.accuracy_start,
        "events": result.events,
        "events_total": result.events_total,
        "continued": before > 0,
        "held_out": result.held_out_images,
        "seconds": round(result.seconds, 3),
        "events_per_second": round(result.events / result.seconds) if result.events else 0,
    }
    for name, samples in (
        ("read", result.read_ns), ("write", result.write_ns), ("compose", result.compose_ns)
    ):
        for word, share in (("p50", 0.50), ("p99", 0.99)):
            figures[f"{name}_us_{word}"] = round(percentile(samples, share) / 1000, 3)
    figures |= {
        "memory_bytes": memory_bytes(store),
        "disk_bytes": disk_bytes(place),
        "training_images": result.training_images,
        "distinct_images": result.distinct_images,
        "distinct_estimate": result.distinct_estimate,
        "unlearned_images": result.unlearned_images,
        "kinds": result.kinds,
        "directory": str(place),
    }
    return figures


def memory_bytes(store: Store) -> int:
    """Bytes of memory that the store's cells and index take, by its own books."""
    stats = store.stats()
    return int(stats["heap_bytes"]) + int(stats["index_bytes"])


def disk_bytes(place: Path) -> int:
    """Bytes of disk that the store's files take: blocks, since an LMDB file is sparse."""
    return sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file())


def show(out: Output, figures: dict[str, Any]) -> None:
    """The figures as a reader wants them."""

    def times(name: str) -> tuple[str, str, str]:
        p50, p99 = (duration_words(figures[f"{name}_us_{p}"] * 1000) for p in ("p50", "p99"))
        return words[name], p50, p99

    words = {
        "read": "read of a register",
        "write": "write of a register",
        "compose": "a whole f(g(x)), learning included",
    }
    start, end = figures["accuracy_start"], figures["accuracy"]
    out.say(
        f"Accuracy on {figures['held_out']} held-out images: {end:.1%}"
        f" (before this run: {start:.1%}{'' if figures['continued'] else ', knowing nothing'})"
    )
    out.say(
        f"{figures['events']:,} events in {figures['seconds']:.1f} s:"
        f" {figures['events_per_second']:,} a second; {figures['events_total']:,} since the start"
    )
    out.table(("state", "p50>", "p99>"), [times(name) for name in words])
    out.say(
        f"Distinct images: {figures['distinct_images']:,} by the ORSets,"
        f" about {figures['distinct_estimate']:,} by the HyperLogLog;"
        f" {figures['unlearned_images']:,} of them were last read wrongly."
    )
    kinds = ", ".join(f"{kind} {count}" for kind, count in figures["kinds"].items())
    out.say(
        f"Keys: {kinds}; {size_words(figures['memory_bytes'])} in memory,"
        f" {size_words(figures['disk_bytes'])} on disk."
    )
    out.say(f"Run it again to go on from here:  annapy demo {figures['directory']}")
