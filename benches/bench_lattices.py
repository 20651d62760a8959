"""Joins and additions, beside Python's own set and dict code."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benches.harness import compare, figure, seconds

if TYPE_CHECKING:
    import annapy

MEMBERS = 100_000
CLOCK = 1_000


def _sets() -> tuple[Any, Any, set[str], set[str]]:
    from annapy.lattice import GSet

    left = {f"member:{n:07d}" for n in range(MEMBERS)}
    right = {f"member:{n:07d}" for n in range(MEMBERS // 2, MEMBERS // 2 + MEMBERS)}
    return GSet().update(left), GSet().update(right), left, right


def _clocks() -> tuple[Any, Any, dict[int, int], dict[int, int]]:
    from annapy.lattice import VectorClock
    from annapy.lattice.base import from_state

    left = {n * 7919 + 1: n + 1 for n in range(CLOCK)}
    right = {n * 7919 + 1: 2 * CLOCK - n for n in range(CLOCK // 2, CLOCK // 2 + CLOCK)}

    def clock(entries: dict[int, int]) -> Any:
        state = b"".join(actor.to_bytes(8, "little") + n.to_bytes(8, "little")
                         for actor, n in sorted(entries.items()))
        return from_state(VectorClock.tag, state)

    return clock(left), clock(right), left, right


def merge_dicts(a: dict[int, int], b: dict[int, int]) -> dict[int, int]:
    """What one writes in Python for the join of two clocks."""
    merged = dict(a)
    for actor, n in b.items():
        if n > merged.get(actor, 0):
            merged[actor] = n
    return merged


@pytest.mark.benchmark(group="join of two sets of 100,000")
@pytest.mark.parametrize("name", ["annapy", "set"])
def test_join_sets(benchmark: Any, name: str) -> None:
    a, b, left, right = _sets()
    benchmark.pedantic((lambda: a | b) if name == "annapy" else (lambda: left | right), rounds=9,
                       warmup_rounds=1)


@pytest.mark.benchmark(group="join of two clocks of 1,000")
@pytest.mark.parametrize("name", ["annapy", "dict"])
def test_join_clocks(benchmark: Any, name: str) -> None:
    a, b, left, right = _clocks()
    benchmark.pedantic((lambda: a | b) if name == "annapy" else (lambda: merge_dicts(left, right)),
                       rounds=50, warmup_rounds=1)


def test_ratios() -> None:
    a, b, left, right = _sets()
    assert len((a | b).value) == len(left | right)
    compare("join of 100k-member sets", lambda: a | b, lambda: left | right,
            names="annapy GSet | against set |", target=2, at_most=False)
    a, b, one, other = _clocks()
    assert (a | b).value == merge_dicts(one, other)
    compare("join of 1k-entry clocks", lambda: a | b, lambda: merge_dicts(one, other),
            names="annapy VectorClock | against dict loop", target=10, at_most=False, repeats=101)


def test_ratio_large_set(store: annapy.Store) -> None:
    """One addition to a set of a million members, beside one to a set of a hundred."""
    small, large = store.orset("small"), store.orset("large")
    for start in range(0, 1_000_000, 1000):
        large.update(f"m:{n:09d}" for n in range(start, start + 1000))
    for n in range(100):
        small.add(f"m:{n:09d}")
    fresh = iter(range(10_000_000, 20_000_000))
    times = []
    for _ in range(9):
        names = [f"m:{next(fresh):09d}" for _ in range(100)]
        few = seconds(lambda names=names: [small.add(name) for name in names[:20]])
        for name in names[:20]:
            small.discard(name)
        times.append((few / 20, seconds(lambda n=names: [large.add(x) for x in n]) / 100))
    times.sort(key=lambda pair: pair[1] / pair[0])
    few, many = times[len(times) // 2]
    figure("addition to a set of 1 M / of 100", "annapy orset.add", many / few, 8, "x")
