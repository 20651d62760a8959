"""bench: this machine, measured in one run beside `dict`, so that the ratios mean something.

Owns a quick look, not the claims: those are the files of `benches/`, with their peers. Every round
measures all of its subjects one after the other, and each figure is the median over the rounds, so
that a slow moment of the machine touches all of them alike.
"""
from __future__ import annotations

import statistics
import tempfile
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from annapy.cli.app import DONE, open_store, verb
from annapy.cli.output import duration_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from annapy import Store
    from annapy.cli.output import Output

__all__ = ["bench_verb"]

KEYS = 1000
VALUE = b"v" * 100
DISK_WRITES = 5  # a round


class Subject(NamedTuple):
    """One thing that is timed: a function that does `calls` calls, and the dict's twin of it."""

    name: str
    work: Callable[[], None]
    calls: int
    twin: str = ""


@click.command("bench")
@click.option("--rounds", type=click.IntRange(1, 1000), default=15, show_default=True,
              help="The figures are medians over so many rounds.")
@click.option("--directory", type=click.Path(file_okay=False), metavar="DIR",
              help="Where the store on disk is made for the run [default: a temporary folder].")
@verb
def bench_verb(out: Output, rounds: int, directory: str | None) -> int:
    """Time reads and writes beside a dict's, and commits to disk; takes a few seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="annapy-bench-", dir=directory) as place,
        open_store("mem://") as memory,
        open_store(place) as disk,
    ):
        subjects = subjects_of(memory, disk)
        medians = measure(subjects, rounds)
    figures = [(subject, medians[subject.name], ratio_of(subject, medians)) for subject in subjects]
    if out.as_json:
        rows = [
            {"name": subject.name, "ns": round(nanoseconds, 1), "beside": subject.twin or None,
             "ratio": None if ratio is None else round(ratio, 2)}
            for subject, nanoseconds, ratio in figures
        ]
        out.line({"rounds": rounds, "keys": KEYS, "value_bytes": len(VALUE), "figures": rows})
        return DONE
    out.table(
        ("", "a call>", "ratio>", "beside"),
        [
            (subject.name, duration_words(nanoseconds), "" if ratio is None else f"{ratio:.2f}x",
             subject.twin)
            for subject, nanoseconds, ratio in figures
        ],
        title=f"{KEYS} keys, {len(VALUE)}-byte values, medians of {rounds} rounds",
    )
    return DONE


def ratio_of(subject: Subject, medians: dict[str, float]) -> float | None:
    """How many times as long as its twin a subject takes; None if it has no twin."""
    return medians[subject.name] / medians[subject.twin] if subject.twin else None


def subjects_of(memory: Store, disk: Store) -> list[Subject]:
    """What is measured, in the table's order: loops of one shape, so that they compare."""
    keys = [f"user:{number:05d}" for number in range(KEYS)]
    plain: dict[str, Any] = dict.fromkeys(keys, VALUE)
    for key in keys:
        memory[key] = VALUE
    counter = memory.counter("hits")
    counts = {"hits": 0}

    def reads(get: Callable[[str], Any]) -> Callable[[], None]:
        def work() -> None:
            for key in keys:
                get(key)
        return work

    def writes(put: Callable[[str, bytes], Any]) -> Callable[[], None]:
        def work() -> None:
            for key in keys:
                put(key, VALUE)
        return work

    def count_plain() -> None:
        for _ in keys:
            counts["hits"] += 1

    def count_store() -> None:
        add = counter.add
        for _ in keys:
            add(1)

    def commit() -> None:
        for number in range(DISK_WRITES):
            disk.set(f"durable:{number}", VALUE, ack="disk")

    return [
        Subject("dict.get", reads(plain.get), KEYS),
        Subject("store.get", reads(memory.get), KEYS, "dict.get"),
        Subject("dict.__setitem__", writes(plain.__setitem__), KEYS),
        Subject("store.set", writes(memory.set), KEYS, "dict.__setitem__"),
        Subject("dict: d[k] += 1", count_plain, KEYS),
        Subject("counter.add(1)", count_store, KEYS, "dict: d[k] += 1"),
        Subject('store.set(ack="disk")', commit, DISK_WRITES),
    ]


def measure(subjects: list[Subject], rounds: int) -> dict[str, float]:
    """Median nanoseconds of one call of each subject, the rounds interleaved, one to warm up."""
    samples: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for number in range(rounds + 1):
        for subject in subjects:
            start = perf_counter_ns()
            subject.work()
            spent = perf_counter_ns() - start
            if number:
                samples[subject.name].append(spent / subject.calls)
    return {name: statistics.median(times) for name, times in samples.items()}
