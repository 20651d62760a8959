"""Replays the stream against a store, measures, and judges the result on held-out images.

Owns the order of a run: accuracy at the start, the events, accuracy at the end, figures. A run
that is cut short loses nothing: the place in the stream is the counter `events` in the store.
"""
from __future__ import annotations

from collections import Counter, deque
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

from annapy.demo.data import load, stream
from annapy.demo.functions import CLASSES, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from annapy import Store
    from annapy.demo.data import Digits

__all__ = ["Progress", "Result", "run"]

RECENT = 500  # events over which the accuracy shown while learning is taken
REPORT_EVERY = 50  # events


class Progress(NamedTuple):
    """Where a run stands: events done and to do, and the share of recent ones answered rightly."""

    done: int
    total: int
    recent_accuracy: float


class Result(NamedTuple):
    """What a run showed. Durations are sorted lists of nanoseconds, one for each call timed."""

    accuracy_start: float
    accuracy: float
    events: int
    events_total: int
    seconds: float
    training_images: int
    held_out_images: int
    distinct_images: int
    distinct_estimate: int
    unlearned_images: int
    read_ns: list[int]
    write_ns: list[int]
    compose_ns: list[int]
    kinds: dict[str, int]


def run(
    store: Store, passes: float = 3.0, on_progress: Callable[[Progress], None] | None = None
) -> Result:
    """Learn `passes` times the training images, from where the store says the last run stopped.

    Takes one thread for the whole run, a second or two a pass; `on_progress` is called every few
    dozen events. Raises what the store raises. Besides f(g(x)) every event reads and writes one
    register (`last`, the latest answer), which is where the times of a read and a write come from.
    """
    digits = load()
    first = store.counter("events").value
    total = round(passes * len(digits.training))
    accuracy_start = accuracy_of(store, digits)
    recent: deque[bool] = deque(maxlen=RECENT)
    read_ns, write_ns, compose_ns = [], [], []
    began = perf_counter()
    for done, event in enumerate(stream(digits.training, first, total), 1):
        start = perf_counter_ns()
        answer = serve(event, store)
        served = perf_counter_ns()
        store.set("last", answer.digit)
        written = perf_counter_ns()
        store.get("last")
        read = perf_counter_ns()
        compose_ns.append(served - start)
        write_ns.append(written - served)
        read_ns.append(read - written)
        recent.append(answer.digit == event["label"])
        if on_progress and (done % REPORT_EVERY == 0 or done == total):
            on_progress(Progress(done, total, sum(recent) / len(recent)))
    seconds = perf_counter() - began
    return Result(
        accuracy_start=accuracy_start,
        accuracy=accuracy_of(store, digits),
        events=total,
        events_total=store.counter("events").value,
        seconds=seconds,
        training_images=len(digits.training),
        held_out_images=len(digits.held_out),
        distinct_images=sum(len(store.orset(f"class/{d}/images")) for d in range(CLASSES)),
        distinct_estimate=store.hll("images").value,
        unlearned_images=sum(len(store.orset(f"class/{d}/wrong")) for d in range(CLASSES)),
        read_ns=sorted(read_ns),
        write_ns=sorted(write_ns),
        compose_ns=sorted(compose_ns),
        kinds=dict(sorted(Counter(str(store.kind(key)) for key in store).items())),
    )


def accuracy_of(store: Store, digits: Digits) -> float:
    """Share of held-out images that the service reads rightly, with the weights in the store."""
    right = sum(
        serve(event, store).digit == label
        for event, label in zip(digits.held_out, digits.held_out_labels, strict=True)
    )
    return right / len(digits.held_out)
