"""kill -9 of a whole store in the middle of acknowledged writes, batches and exactly-once counting.

Short profile: 20 kills. ANNAPY_PROFILE=long: 200. tests/crash/workload.py says what is written.
"""
from __future__ import annotations

import pytest

import annapy
from annapy.persist.check import check
from tests.crash.harness import LONG, Victim, seeded
from tests.crash.workload import WRITERS, verify

KILLS = 200 if LONG else 20


@pytest.mark.timeout(3600)
def test_everything_acknowledged_is_there_once_and_nothing_by_half(tmp_path):
    directory = str(tmp_path / "store")
    chance = seeded("store kill")
    in_flight = acknowledged = 0
    for kill in range(KILLS):
        said = Victim("tests.crash.workload", directory).kill_after(chance.uniform(0, 0.15))
        begun, done = [0] * WRITERS, [0] * WRITERS
        for mark, number in said:
            into = begun if mark == b"b" else done
            into[number % WRITERS] = max(into[number % WRITERS], number // WRITERS)
        in_flight += any(b > d for b, d in zip(begun, done, strict=True))
        acknowledged += sum(mark == b"d" for mark, _ in said)
        with annapy.open(directory, readonly=True) as s:
            for writer, found in enumerate(verify(s)):
                assert found >= done[writer], (kill, writer, found, done)
                assert not begun[writer] or found <= begun[writer], (kill, writer, found, begun)
                assert s.get(f"reg:{writer}", 0) >= done[writer]
        if kill % 10 == 0 or kill == KILLS - 1:
            report = check(directory)
            assert report, report.problems
    print(f"{KILLS} kills, {in_flight} with a write in flight, {acknowledged} rounds acknowledged")
    assert in_flight >= KILLS / 2
