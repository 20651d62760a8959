"""kill -9 in the middle of commits, again and again, on one store.

Short profile: 20 kills. ANNAPY_PROFILE=long: 200. After each: everything acknowledged is there, no
commit is there by half, the index of deadlines and the chunks fit, the store goes on as itself.
"""
from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import pytest

from annapy.errors import StoreLocked
from annapy.persist.check import check
from annapy.persist.persister import Persister
from tests.crash.harness import LONG, ROOT, Victim, environment, seeded
from tests.crash.tier_worker import round_of

KILLS = 200 if LONG else 20
CHECK_EVERY = 10 if LONG else 4


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_and_nothing_is_half_written(tmp_path):
    directory = str(tmp_path / "store")
    chance = seeded("kill")
    in_flight = acknowledged = actor = bound = 0
    for kill in range(KILLS):
        said = Victim("tests.crash.tier_worker", directory).kill_after(chance.uniform(0, 0.05))
        begun = max(number for mark, number in said if mark == b"b")
        done = max((number for mark, number in said if mark == b"d"), default=0)
        in_flight += begun > done
        acknowledged += sum(mark == b"d" for mark, _ in said)
        tier = Persister.open(directory)
        try:
            found = round_of(tier)
            assert done <= found <= begun, (kill, done, found, begun)
            assert tier.continues
            assert actor in (0, tier.identity.actor)
            assert tier.state.hlc_bound >= bound, "the clock ran backwards"
            actor, bound = tier.identity.actor, tier.state.hlc_bound
        finally:
            tier.close()
        if kill % CHECK_EVERY == 0 or kill == KILLS - 1:
            report = check(directory)
            assert report, report.problems
    print(f"{KILLS} kills, {in_flight} with a commit in flight, {acknowledged} acknowledged")
    assert in_flight >= KILLS / 2


def test_a_killed_owner_leaves_no_lock_and_a_living_one_is_named(tmp_path):
    directory = str(tmp_path / "store")
    victim = Victim("tests.crash.tier_worker", directory)
    assert victim.process.stdout is not None
    victim.process.stdout.read(18)
    with pytest.raises(StoreLocked, match=f"pid {victim.process.pid}"):
        Persister.open(directory)
    reader = Persister.open(directory, readonly=True)     # beside an owner: fine
    assert round_of(reader) >= 1
    reader.close()
    assert check(directory)
    victim.process.send_signal(signal.SIGKILL)
    victim.process.communicate()
    Persister.open(directory).close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.skipif(not LONG, reason="counts system calls in the long profile")
def test_every_acknowledgement_is_covered_by_syncs(tmp_path):
    """LMDB syncs the pages, then writes the meta page through a descriptor that syncs by itself."""
    log = tmp_path / "calls"
    code = (
        "import sys\n"
        "from annapy.persist.persister import Persister\n"
        "from tests.unit.persist_double import NS, EngineDouble\n"
        "tier = Persister.open(sys.argv[1], commit_every_s=60)\n"
        "engine = EngineDouble(tier)\n"
        "import os\n"
        "for i in range(300):\n"
        "    engine.put(NS + b'%d' % i, b'x')\n"
        "    tier.sync()\n"
        "    os.write(2, b'ack')\n"
    )
    done = subprocess.run(
        ["strace", "-f", "-o", str(log), "-e", "trace=fdatasync,fsync,msync,pwrite64,write,openat",
         sys.executable, "-c", code, str(tmp_path / "s")],
        cwd=ROOT, env=environment(), capture_output=True, timeout=600, check=False,
    )
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    lines = log.read_text().splitlines()
    acks = [n for n, line in enumerate(lines) if '"ack"' in line]
    assert len(acks) == 300
    for before, after in pairwise(acks):
        between = lines[before:after]
        syncs = sum("fdatasync(" in line or "fsync(" in line for line in between)
        assert syncs == 1, between
    assert any("O_DSYNC" in line and "data.mdb" in line for line in lines)
