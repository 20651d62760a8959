"""Identity by record lock: it ends with its process, and a child is not its parent."""
from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("record locks are POSIX", allow_module_level=True)

from annapy._core.liveness import Locks

HOLD = """
import sys, time
from annapy._core.liveness import Locks
locks = Locks.of(sys.argv[1])
print(locks.claim(7), flush=True)
time.sleep(600)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE,
                             text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_a_killed_process_is_dead_and_a_frozen_one_is_not(tmp_path: Path) -> None:
    locks = Locks.of(str(tmp_path / "lock"))
    assert not locks.alive(7)
    child = holder(tmp_path / "lock")
    assert locks.alive(7)
    assert locks.holder(7) == child.pid
    assert not locks.claim(7)
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(0.05)
    assert locks.alive(7)
    assert not locks.claim(7)
    end(child)
    assert not locks.alive(7)
    assert locks.holder(7) is None
    assert locks.claim(7)
    assert locks.alive(7)
    locks.release(7)
    assert not locks.alive(7)


def test_bytes_are_apart(tmp_path: Path) -> None:
    locks = Locks.of(str(tmp_path / "lock"))
    child = holder(tmp_path / "lock")
    assert locks.claim(6)
    assert locks.claim(8)
    assert not locks.claim(7)
    assert locks.holder(6) == os.getpid()
    end(child)


def test_a_forked_child_is_nobody(tmp_path: Path) -> None:
    locks = Locks.of(str(tmp_path / "lock"))
    assert locks.claim(1)
    pid = os.fork()
    if pid == 0:
        sound = locks.alive(1) and not locks.claim(1) and locks.holder(1) == os.getppid()
        sound = sound and locks.claim(2)
        locks.release(1)
        os._exit(0 if sound else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert locks.alive(1), "the child's exit closed its descriptor, not our lock"
    assert not locks.alive(2)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if not Locks.of(str(tmp_path / "lock")).claim(1) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    locks.release(1)


def test_a_grandchild_does_not_keep_a_dead_parent_alive(tmp_path: Path) -> None:
    """What flock and open-file-description locks get wrong."""
    locks = Locks.of(str(tmp_path / "lock"))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = Locks.of(str(tmp_path / "lock"))
        mine.claim(3)
        grandchild = os.fork()
        if grandchild == 0:
            time.sleep(600)
        os.write(write, b"%d\n" % grandchild)
        time.sleep(600)
    grandchild = int(os.read(read, 20))
    assert locks.alive(3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not locks.alive(3)
    os.kill(grandchild, signal.SIGKILL)
    os.close(read)
    os.close(write)


def test_the_file_is_opened_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    locks = Locks.of(str(path))
    assert Locks.of(str(tmp_path / "." / "lock")) is locks
    assert locks.claim(5)
    del locks
    gc.collect()
    check = ("import sys; from annapy._core.liveness import Locks;"
             "sys.exit(not Locks.of(sys.argv[1]).alive(5))")
    assert subprocess.run([sys.executable, "-c", check, str(path)], check=False).returncode == 0
    Locks.of(str(path)).release(5)
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    read, write = os.pipe()
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os.write(write, b"1" if Locks.of(path).claim(9) else b"0")
            time.sleep(600)
        pids.append(pid)
    answers = b""
    while len(answers) < 8:
        answers += os.read(read, 8)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert sorted(answers) == sorted(b"10000000")
    os.close(read)
    os.close(write)
