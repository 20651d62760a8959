"""Fixtures that all claims share, and the summary of ratios at the end of a run."""
from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from benches.harness import MEASURED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import annapy

KEYS = 1000


@pytest.fixture
def keys() -> list[str]:
    """A thousand keys of eleven characters."""
    return [f"user:{n:06d}" for n in range(KEYS)]


@pytest.fixture
def value() -> bytes:
    """A hundred bytes."""
    return bytes(range(100))


@pytest.fixture
def store() -> Iterator[annapy.Store]:
    """A private store in memory."""
    import annapy

    with annapy.open() as s:
        yield s


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a store or a peer keeps its files."""
    return tmp_path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every ratio of this run, its target, and whether it was met."""
    if not MEASURED:
        return
    write = terminalreporter.write_line
    terminalreporter.section("ratios of this run (medians of interleaved repeats)")
    for r in MEASURED:
        sign = "<=" if r.at_most else ">="
        beside = f" / {r.peer}" if r.peer else ""
        minima = f"  (of minima {r.notes['of_minima']:.2f})" if r.notes else ""
        write(f"{'met ' if r.met else 'MISS'}  {r.claim:34s} {r.ours}{beside}: "
              f"{r.figure:.2f} {r.unit}  target {sign} {r.target:g}{minima}")
    path = os.environ.get("ANNAPY_BENCH_JSON")
    if path:
        with open(path, "w", encoding="utf-8") as out:
            json.dump([vars(r) | {"met": r.met} for r in MEASURED], out, indent=1)
