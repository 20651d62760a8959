"""Two real processes over one sealed ring: order, counts, death, frost, garbage."""
from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

if sys.platform != "linux":
    pytest.skip("the host mode is Linux's", allow_module_level=True)

from annapy._core.ring import MailClient
from tests.race.building import ROOT, build, environment

LONG = os.environ.get("ANNAPY_PROFILE") == "long"
COUNT = 20_000_000 if LONG else 500_000
ROUNDS = 200 if LONG else 12

PRODUCE = """
import sys, stress
numbers = list(map(int, sys.argv[1:]))
print(stress.produce(*numbers), flush=True)
"""
# The owner: takes the client's descriptor, tells where its reply is, drains, reports.
CONSUME = """
import sys, stress
mail, bell, until = map(int, sys.argv[1:4])
owner = stress.Consumer(mail, bell)
print(owner.fd, owner.reply_at, owner.bell_at, flush=True)
sys.stdin.readline()
print(*owner.run(until, float(sys.argv[4])), flush=True)
"""


class Pair:
    """A consuming process and a way to start producers on its ring."""

    def __init__(self, until: int, quiet: float, ring_bytes: int = 1 << 16) -> None:
        self.path = build("plain")
        self.producers: list[subprocess.Popen[str]] = []
        self.client = MailClient(1, ring_bytes)
        self.environment = environment("plain")
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        numbers = [self.client.fd, self.bell, until, quiet]
        self.owner = subprocess.Popen(
            [sys.executable, "-c", CONSUME, *map(str, numbers)],
            pass_fds=[self.client.fd, self.bell], env=self.environment, cwd=self.path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.owner.stdout is not None
        arena, *self.places = map(int, self.owner.stdout.readline().split())
        self.arena = os.open(f"/proc/{self.owner.pid}/fd/{arena}", os.O_RDONLY)

    def go(self) -> None:
        assert self.owner.stdin is not None
        self.owner.stdin.write("\n")
        self.owner.stdin.flush()

    def produce(self, count: int, seed: int = 1) -> subprocess.Popen[str]:
        numbers = [self.client.fd, self.arena, *self.places, self.bell, count, seed]
        process = subprocess.Popen(
            [sys.executable, "-c", PRODUCE, *map(str, numbers)], env=self.environment,
            pass_fds=[self.client.fd, self.arena, self.bell], cwd=self.path, text=True,
            stdout=subprocess.PIPE)
        self.producers.append(process)
        return process

    def end(self) -> None:
        for process in (self.owner, *self.producers):
            if process.returncode is None:
                process.kill()
                process.communicate()
        os.close(self.arena)
        os.close(self.bell)

    def result(self) -> tuple[int, int, bool]:
        out, _ = self.owner.communicate(timeout=240)
        assert self.owner.returncode == 0
        taken, wrong, damaged = out.split()
        return int(taken), int(wrong), damaged == "True"


Start = Callable[..., Pair]


@pytest.fixture
def start() -> Iterator[Start]:
    """Pairs whose processes end with the test."""
    pairs: list[Pair] = []

    def begin(until: int, quiet: float, ring_bytes: int = 1 << 16) -> Pair:
        pairs.append(Pair(until, quiet, ring_bytes))
        return pairs[-1]

    yield begin
    for pair in pairs:
        pair.end()


def test_everything_once_and_in_order(start: Start) -> None:
    pair = start(COUNT, 60)
    producer = pair.produce(COUNT)
    pair.go()
    assert producer.communicate(timeout=240)[0].strip() == str(COUNT)
    assert pair.result() == (COUNT, 0, False)


def test_a_sleepy_owner_is_woken_for_each(start: Start) -> None:
    """One record at a time, the owner asleep in between: no wake-up is lost."""
    pair = start(300, 60)
    pair.go()
    pair.client.attach(pair.arena, [pair.places[0]], pair.places[1], pair.bell)
    rng = random.Random(3)
    for number in range(300):
        pair.client.post(number.to_bytes(12, "little"), number.to_bytes(8, "little"))
        time.sleep(rng.choice([0.0, 0.0, 0.001]))
    assert pair.result() == (300, 0, False)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_killed_producer_leaves_whole_records(start: Start, seed: int) -> None:
    """kill -9 at a random moment: what is there is a prefix, whole and in order."""
    rng = random.Random(seed)
    pair = start(1 << 62, 1.0, rng.choice([4096, 1 << 16]))
    producer = pair.produce(0, seed)
    pair.go()
    time.sleep(0.15 + rng.random() * 0.3)
    producer.kill()
    producer.communicate()
    taken, wrong, damaged = pair.result()
    assert taken > 0, f"seed {seed}: killed before it began"
    assert (wrong, damaged) == (0, False)


def test_a_frozen_producer_holds_nobody_up(start: Start) -> None:
    pair = start(COUNT, 60)
    producer = pair.produce(COUNT)
    pair.go()
    rng = random.Random(9)
    for _ in range(10):
        time.sleep(rng.random() * 0.02)
        producer.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        producer.send_signal(signal.SIGCONT)
    assert producer.communicate(timeout=240)[0].strip() == str(COUNT)
    assert pair.result() == (COUNT, 0, False)


def test_a_frozen_owner_makes_the_producer_wait_not_lose(start: Start) -> None:
    pair = start(COUNT, 60)
    producer = pair.produce(COUNT)
    pair.go()
    for _ in range(5):
        time.sleep(0.02)
        pair.owner.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        pair.owner.send_signal(signal.SIGCONT)
    assert producer.communicate(timeout=240)[0].strip() == str(COUNT)
    assert pair.result() == (COUNT, 0, False)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_garbage_while_it_drains(start: Start, seed: int) -> None:
    """A third hand scribbles into indices and records while both work: the owner ends with a count
    and a verdict, never with a signal."""
    rng = random.Random(seed)
    pair = start(1 << 62, 0.5, 4096)
    producer = pair.produce(0, seed)
    pair.go()
    time.sleep(0.1)
    with mmap.mmap(pair.client.fd, 0) as memory:
        for _ in range(200):
            at = rng.choice([4096, 4096 + 256 + 8 * rng.randrange(512)])
            memory[at:at + 8] = rng.choice([
                rng.randbytes(8), (8 * rng.randrange(600)).to_bytes(8, "little"),
                bytes(8), b"\xff" * 8])
            time.sleep(0.0005)
    producer.kill()
    producer.communicate()
    pair.result()


def test_the_build_is_outside_the_package() -> None:
    assert build("plain").is_relative_to(ROOT / "build" / "race")
