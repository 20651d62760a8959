"""AddressSanitizer and UBSAN over every decoder, the heap, the shard and a hostile ring.

`make asan` (ANNAPY_PROFILE=long) builds the whole core for it and takes many minutes, so the
default run has only the decoders' fuzzer, without a sanitizer. Skips by name where there is no
libasan.
"""
from __future__ import annotations

import os
import secrets

import pytest

from tests.race.building import HERE, run

LONG = os.environ.get("ANNAPY_PROFILE") == "long"
SECONDS = 900.0 if LONG else 5.0
VARIANT = "asan" if LONG else "plain"
sanitized = pytest.mark.skipif(not LONG, reason="`make asan` runs this")

HEAP_AND_SHARD = """
import stress
for size in (1, 24, 200, 3000, 20000, 70000):
    stress.bench_heap(size, 300, 20000)
    stress.bench_heap_bulk(size, 300, 20)
seen = stress.stress_shard(2.0, 2, 2, 4 << 20, 20000, True)
assert seen["torn"] == seen["faults"] == 0, seen
stress.bench_ring(20, 1000)
"""
HOSTILE_RING = """
import mmap, random, sys
from annapy._core.ring import MailClient, MailOwner
rng = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    client = MailClient(1, 4096)
    owner = MailOwner(client.fd)
    client.attach(owner.fd, owner.replies, owner.bell_at, owner.bell_fd)
    for n in range(rng.randrange(12)):
        client.post(b"key %d" % n, rng.randbytes(rng.randrange(300)))
    with mmap.mmap(client.fd, 0) as memory:
        for _ in range(rng.randrange(1, 6)):
            at = rng.choice([4096, 4352, 4352 + rng.randrange(4088)])
            memory[at:at + 8] = rng.choice([rng.randbytes(8),
                                            (8 * rng.randrange(520)).to_bytes(8, "little")])
    try:
        while owner.next():
            pass
    except ValueError:
        pass
    try:
        client.overlay(b"key 1", 0, 0)
    except ValueError:
        pass
"""


def sound(code: str, *arguments: str) -> str:
    done = run(VARIANT, code, *arguments, timeout=SECONDS + 250)
    report = done.stdout[-2000:] + done.stderr[-6000:]
    assert "Sanitizer" not in report, report
    assert "runtime error" not in report, report
    assert done.returncode == 0, report
    return done.stdout


@pytest.mark.timeout(1500)
def test_decoders_under_mutation() -> None:
    seed = secrets.randbits(32)
    code = (HERE / "fuzz_decode.py").read_text()
    out = sound(code, str(SECONDS), str(seed))
    assert f"seed {seed}" in out
    counts = out.splitlines()[1].split()
    assert int(counts[counts.index("accepted") + 1]) > 100
    assert int(counts[counts.index("operations") + 1]) > 10


@sanitized
@pytest.mark.timeout(600)
def test_heap_and_shard() -> None:
    sound(HEAP_AND_SHARD)


@sanitized
@pytest.mark.timeout(600)
def test_a_hostile_ring() -> None:
    sound(HOSTILE_RING, str(secrets.randbits(32)), "20000" if LONG else "500")
