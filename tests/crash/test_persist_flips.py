"""Damage to the data file at rest: a flip at every byte, truncation at many sizes.

Every opening runs in a process of its own batch, so that a crash of the interpreter would be seen
as one. The outcome must be a clear error, or exactly the contents that were there: never others,
never a crash. The short profile flips every byte of the pages' heads and metas, and of every page
some; the long one flips every byte of the file.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from annapy.persist.persister import Persister
from tests.crash.harness import LONG, ROOT, environment, seeded
from tests.unit.persist_double import NS, EngineDouble

WORKERS = 2
PAGE = 4096

# Damages a copy of the file in one way after the other, opens it, reads and writes all, and says
# what came of it. A line before each says which it is, for the case that there is no after.
WORKER = r"""
import json, os, sys, traceback
from annapy.errors import AnnapyError
from annapy.persist.persister import Persister
from tests.unit.persist_double import NS, EngineDouble, value_of

directory, whole, plan = sys.argv[1], open(sys.argv[2], "rb").read(), json.load(open(sys.argv[3]))
expected = {bytes.fromhex(k): bytes.fromhex(v) for k, v in json.load(open(sys.argv[4])).items()}
data = os.path.join(directory, "data.mdb")

def contents():
    tier = Persister.open(directory, commit_every_s=60)
    try:
        found = {k: value_of(NS + k, r) for k, r in tier.scan(values=True)}
        alone = {k: value_of(NS + k, tier.load(NS + k)) for k in expected}
        assert alone == {k: found.get(k) for k in expected}, "load and scan differ"
        assert tier.state.live == len(found), "live count"
        assert len(tier.expired(1 << 62)) == 1, "deadlines"
        engine = EngineDouble(tier)
        engine.put(NS + b"later", b"x" * 3000)
        engine.put(NS + b"key3", b"changed")
        tier.sync()
        return found
    finally:
        tier.close()

for kind, at, bit in plan:
    raw = bytearray(whole)
    if kind == "flip":
        raw[at] ^= 1 << bit
    else:
        del raw[at:]
    with open(data, "wb") as file:
        file.write(raw)
    print(json.dumps([kind, at, bit]), flush=True)
    try:
        outcome = "right" if contents() == expected else "WRONG"
    except AnnapyError as error:
        outcome = type(error).__name__
        assert len(str(error)) > 20
    except BaseException as error:
        outcome = "RAISED " + "".join(traceback.format_exception(error))
    print(json.dumps(outcome), flush=True)
"""


def small_store(directory):
    """A few dozen pages with everything in them: trees of two levels, chunks, free pages."""
    tier = Persister.open(directory, commit_every_s=60)
    engine = EngineDouble(tier)
    for i in range(120):
        engine.put(NS + b"key%d" % i, b"value%d" % i * 4)
        if i % 30 == 0:
            tier.sync()
    engine.put(NS + b"L" * 900, b"long")
    engine.put(NS + b"large", b"0123456789" * 13_200)
    engine.put(NS + b"pages", b"p" * 9000)
    engine.put(NS + b"due", b"d", deadline_ms=99)
    tier.sync()
    for i in range(0, 120, 3):
        engine.put(NS + b"key%d" % i, None)
    tier.sync()
    tier.close()
    return {key[4:]: value for key, value in engine.cells.items()}


def run_plan(tmp_path, plan, expected):
    """Outcomes of a plan, worked off by a few processes at a time; a dead one is an outcome."""
    store, whole = str(tmp_path / "store"), tmp_path / "whole"
    shutil.copyfile(os.path.join(store, "data.mdb"), whole)
    (tmp_path / "expected").write_text(json.dumps(
        {key.hex(): value.hex() for key, value in expected.items()}))
    outcomes = []
    processes = []
    for number in range(WORKERS):
        part = plan[number::WORKERS]
        directory = tmp_path / f"copy{number}"
        directory.mkdir(exist_ok=True)
        (tmp_path / f"plan{number}").write_text(json.dumps(part))
        processes.append(subprocess.Popen(
            [sys.executable, "-c", WORKER, str(directory), str(whole),
             str(tmp_path / f"plan{number}"), str(tmp_path / "expected")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(),
        ))
    for process in processes:
        out, err = process.communicate()
        lines = [json.loads(line) for line in out.splitlines()]
        outcomes += list(zip(lines[::2], lines[1::2], strict=False))
        assert process.returncode == 0, (
            f"the interpreter ended with {process.returncode} at {lines[-1]}:\n{err[-2000:]}"
        )
    return outcomes


def judge(outcomes):
    counts = {}
    for damage, outcome in outcomes:
        assert outcome != "WRONG", damage
        assert not outcome.startswith("RAISED"), (damage, outcome)
        counts[outcome] = counts.get(outcome, 0) + 1
    print(len(outcomes), "damaged files:", counts)
    return counts


@pytest.fixture
def expected(tmp_path):
    directory = str(tmp_path / "store")
    return small_store(directory)


@pytest.mark.timeout(3600)
def test_a_flip_anywhere_is_an_error_or_does_no_harm(tmp_path, expected):
    size = os.path.getsize(tmp_path / "store" / "data.mdb")
    chance = seeded("flips")
    if LONG:
        spots = range(size)
    else:
        spots = {at for page in range(0, size, PAGE)
                 for at in [*range(page, page + 24, 3),
                            *chance.sample(range(page, page + PAGE), 3)]}
        spots |= set(range(0, 160, 2)) | set(range(PAGE, PAGE + 160, 2))
    plan = [("flip", at, chance.randrange(8)) for at in spots]
    counts = judge(run_plan(tmp_path, plan, expected))
    assert counts["right"] > 0
    assert counts["CorruptCellError"] > 0


def test_a_truncated_file_is_an_error_at_every_size(tmp_path, expected):
    size = os.path.getsize(tmp_path / "store" / "data.mdb")
    chance = seeded("truncation")
    sizes = {0, 1, 15, 16, 151, 152, 4095, 4096, 4097, 8191, 8192, 8193, size - 1, size - 4096}
    sizes |= set(range(0, size, PAGE)) | set(chance.sample(range(size), 400 if LONG else 40))
    plan = [("cut", at, 0) for at in sorted(sizes)]
    counts = judge(run_plan(tmp_path, plan, expected))
    assert counts["CorruptCellError"] >= len(plan) * 0.9     # what was cut off may have been free
