"""Starting processes, killing them at random moments, and running code where it may crash."""
from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = os.environ.get("ANNAPY_PROFILE") == "long"


def environment() -> dict[str, str]:
    """So that a child finds the tree that these tests are part of."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def seeded(name: str) -> random.Random:
    """A generator whose seed is printed; ANNAPY_SEED replays it."""
    seed = int(os.environ.get("ANNAPY_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"{name}: replay with ANNAPY_SEED={seed}")
    return random.Random(seed)


class Victim:
    """A worker that says `b` before and `d` after each durable round, to be killed."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=ROOT, env=environment(),
        )

    def kill_after(self, seconds: float) -> list[tuple[bytes, int]]:
        """Wait for its first message, then `seconds`, then kill -9; what it had said."""
        assert self.process.stdout is not None
        first = self.process.stdout.read(9)
        if len(first) < 9:
            _, err = self.process.communicate()
            raise AssertionError(f"the worker ended by itself:\n{err.decode()}")
        time.sleep(seconds)
        os.kill(self.process.pid, signal.SIGKILL)
        out, err = self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL, err.decode()
        out = first + out
        return [(out[i:i + 1], struct.unpack_from("<Q", out, i + 1)[0])
                for i in range(0, len(out) - 8, 9)]


def run_python(
    code: str, *arguments: str, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, whose end, however bad, is told and not shared."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT,
        env=environment(), timeout=timeout, check=False,
    )
