"""Interleaved timing: ours and a peer's turns alternate, so that noise hits both alike.

Owns    Ratio and the list of those that a run has measured; the summary prints it.
"""
from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MEASURED", "Ratio", "compare", "figure", "seconds"]

REPEATS = 15


@dataclass(frozen=True)
class Ratio:
    """One line of the summary."""

    claim: str
    ours: str
    peer: str
    figure: float
    target: float
    at_most: bool
    unit: str = "x"
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of its target."""
        return self.figure <= self.target if self.at_most else self.figure >= self.target


MEASURED: list[Ratio] = []


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes, with the garbage collector out of the way."""
    gc.disable()
    try:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    finally:
        gc.enable()


def compare(claim: str, ours: Callable[[], object], peer: Callable[[], object], *, names: str,
            target: float, at_most: bool = True, scale: float = 1.0,
            repeats: int = REPEATS) -> Ratio:
    """Median over interleaved repeats of ours / peer (at_most) or peer / ours (at least).

    names: "ours against peer"; scale: how many times more work `ours` does in one call.
    """
    ours()
    peer()
    times = [(seconds(peer), seconds(ours) / scale) for _ in range(repeats)]
    ratios = [mine / theirs if at_most else theirs / mine for theirs, mine in times]
    left, _, right = names.partition(" against ")
    result = Ratio(
        claim, left, right, statistics.median(ratios), target, at_most,
        notes={"ours_s": min(mine for _, mine in times),
               "peer_s": min(theirs for theirs, _ in times),
               "of_minima": (min(m for _, m in times) / min(t for t, _ in times)) if at_most
               else (min(t for t, _ in times) / min(m for _, m in times))})
    MEASURED.append(result)
    return result


def figure(claim: str, name: str, value: float, target: float, unit: str, *,
           at_most: bool = True) -> Ratio:
    """A figure that is no ratio: milliseconds, bytes, points."""
    result = Ratio(claim, name, "", value, target, at_most, unit)
    MEASURED.append(result)
    return result
