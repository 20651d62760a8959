"""What a process pays: opening, bytes a key, memory under ten times the capacity. Subprocesses."""
from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benches.harness import figure

if TYPE_CHECKING:
    from pathlib import Path

KEYS_OPEN = int(os.environ.get("ANNAPY_BENCH_KEYS", "1000000"))

RSS = """
def rss():
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status
                   if line.startswith(("RssAnon", "RssShmem"))) * 1024
"""
BYTES_A_KEY = RSS + """
import annapy
s = annapy.open(capacity="2GiB")
s["warm"] = 1
before = rss()
payload = 0
for n in range(1_000_000):
    key = f"user:{n:08d}"
    value = n.to_bytes(16, "little")
    payload += len(key) + len(value)
    s[key] = value
print((rss() - before - 1.6 * payload) / 1_000_000)
"""
TEN_TIMES = RSS + """
import sys, annapy
before = rss()
s = annapy.open(sys.argv[1], capacity="64MiB")
peak = 0
value = bytes(1000)
for n in range(640_000):
    s[f"user:{n:08d}"] = value
    if n % 10_000 == 0:
        peak = max(peak, rss())
print((max(peak, rss()) - before) / (64 << 20))
"""


# Modules are compiled once, as an installer does it, not in every process.
ENVIRONMENT = {name: x for name, x in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, text=True,
                          stdout=subprocess.PIPE, timeout=600, env=ENVIRONMENT)
    return done.stdout.strip()


@pytest.mark.timeout(900)
def test_bytes_a_key() -> None:
    figure("memory a key, 1 M small ones", "annapy beyond 1.6x the bytes",
           float(python(BYTES_A_KEY)), 96, "B")


@pytest.mark.timeout(900)
def test_memory_at_ten_times_the_capacity(directory: Path) -> None:
    figure("10x capacity written", "annapy RSS / capacity",
           float(python(TEN_TIMES, str(directory / "store"))), 1.5, "x")


def milliseconds(code: str, *arguments: str, repeats: int = 15) -> float:
    """Processor time until `code` has run, beyond the bare interpreter's own.

    What waits for the disk is not in it; on an idle machine the wall clock says much the same.
    """
    import resource

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    def once(text: str) -> float:
        start = spent()
        python(text, *arguments)
        return spent() - start

    once(code)
    return statistics.median(once(code) - once("pass") for _ in range(repeats)) * 1000


@pytest.mark.timeout(1800)
def test_opening(directory: Path) -> None:
    """`import annapy; annapy.open(path)`, at no keys and at many (ANNAPY_BENCH_KEYS)."""
    code = "import sys, annapy; annapy.open(sys.argv[1])"
    empty, full = directory / "empty", directory / "full"
    figure("import and open, 0 keys", "annapy over the interpreter",
           milliseconds(code, str(empty)), 30, "ms")
    python(
        "import sys, annapy\n"
        "s = annapy.open(sys.argv[1], capacity='256MiB')\n"
        "n = int(sys.argv[2])\n"
        "for i in range(0, n, 10_000):\n"
        "    s.set_many({f'user:{k:09d}': k for k in range(i, min(n, i + 10_000))})\n"
        "s.close()\n", str(full), str(KEYS_OPEN))
    figure(f"import and open, {KEYS_OPEN:,} keys", "annapy over the interpreter",
           milliseconds(code, str(full)), 30, "ms")
