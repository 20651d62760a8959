"""The arena and its heap against a model: no overlap, exact accounts, bounded fragmentation."""
from __future__ import annotations

import collections
import mmap
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core.arena import Attached, Memory

ANONYMOUS, MEMFD, FILE = 0, 1, 2
SIZES = st.one_of(
    st.integers(0, 512), st.integers(0, 40_000), st.integers(32_000, 300_000),
    st.sampled_from([1, 16, 17, 256, 257, 1024, 1025, 32768, 32769, 65536, 65537]))
linux = pytest.mark.skipif(sys.platform != "linux", reason="memfd and seals are Linux's")


def rss_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[k].split()[0]) * 1024 for k in ("RssAnon", "RssShmem", "RssFile"))


def make(kind: int, capacity: int, tmp_path: Path | None = None) -> Memory:
    path = os.fsencode(tmp_path / "arena") if tmp_path is not None else None
    return Memory(capacity, kind, path)


def test_rounding_is_tight_and_monotonic() -> None:
    last = 0
    for size in [*range(1, 4097), *range(4097, 70_000, 13)]:
        rounded = Memory.rounded(size)
        assert rounded >= max(size, last)
        assert rounded % 16 == 0
        assert rounded - size <= max(15, size // 8)
        assert rounded % (64 if size > 1024 else 16) == 0
        last = rounded


class Model:
    """Live slabs by offset; checks each answer of the heap."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.capacity = memory.capacity
        self.live: dict[int, int] = {}
        self.used = 0

    def alloc(self, size: int) -> int:
        offset = self.memory.alloc(size)
        if offset == 0:
            return 0
        assert offset % (4096 if size > 32768 else 64 if size > 1024 else 16) == 0
        assert 4096 <= offset <= self.memory.cursor - size
        assert offset not in self.live
        self.live[offset] = size
        self.used += Memory.rounded(size)
        assert self.memory.used == self.used <= self.memory.held
        return offset

    def free(self, offset: int) -> None:
        size = self.live.pop(offset)
        self.used -= Memory.rounded(size)
        self.memory.free(offset, size)
        assert self.memory.used == self.used

    def check(self) -> None:
        end = 4096
        for offset in sorted(self.live):
            assert offset >= end, "slabs overlap"
            end = offset + Memory.rounded(self.live[offset])
        assert end <= self.memory.cursor
        assert self.memory.faults == 0


@given(st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 1 << 30)), max_size=300),
       st.sampled_from([1 << 20, 8 << 20]))
def test_heap_against_model(steps: list[tuple[bool, int, int]], capacity: int) -> None:
    model = Model(Memory(capacity))
    for grow, size, pick in steps:
        if grow or not model.live:
            model.alloc(size)
        else:
            model.free(list(model.live)[pick % len(model.live)])
    model.check()
    for offset in list(model.live):
        model.free(offset)
    model.memory.settle()
    model.check()
    assert model.memory.used == 0
    assert model.memory.free_pages * 4096 == model.memory.held, "a free span stayed a span"


@pytest.mark.parametrize("seed", range(5))
def test_contents_survive_neighbours(seed: int) -> None:
    rng = random.Random(seed)
    model = Model(Memory(4 << 20))
    contents: dict[int, bytes] = {}
    for _ in range(400):
        offset = model.alloc(rng.choice([8, 100, 1000, 5000, 40_000, 70_000]))
        if offset == 0 or rng.random() < 0.4:
            for victim in rng.sample(sorted(contents), min(3, len(contents))):
                assert model.memory.read(victim, len(contents[victim])) == contents.pop(victim)
                model.free(victim)
        if offset in model.live:
            contents[offset] = rng.randbytes(model.live[offset] // 8 * 8)
            model.memory.write(offset, contents[offset])
    for offset, data in contents.items():
        assert model.memory.read(offset, len(data)) == data


def test_lifo() -> None:
    memory = Memory(1 << 20)
    a, b = memory.alloc(100), memory.alloc(100)
    memory.free(a, 100)
    memory.free(b, 100)
    assert memory.alloc(100) == b
    assert memory.alloc(100) == a


def test_exhaustion_returns_zero_and_recovers() -> None:
    model = Model(Memory(1 << 20))
    while model.alloc(1000):
        pass
    assert model.used > 0.9 * (1 << 20)
    assert model.memory.alloc(40_000) == 0
    assert model.memory.alloc(2 << 20) == 0
    assert model.memory.reserve(1 << 20) == 0
    assert model.memory.reserve(0) == 0
    for offset in list(model.live):
        model.free(offset)
    assert model.alloc(900_000), "the spans of small slabs serve a large one"
    model.check()


def test_index_memory_is_zero_and_for_ever() -> None:
    memory = Memory(1 << 20)
    first = memory.reserve(5000)
    assert first % 4096 == 0
    assert memory.read(first, 8192) == bytes(8192)
    slabs = []
    while offset := memory.alloc(4096):
        memory.write(offset, b"\xff" * 4096)
        slabs.append(offset)
    for offset in slabs:
        memory.free(offset, 4096)
    held = memory.held
    second = memory.reserve(8192)
    assert second, "free pages of the heap serve the index when the arena is used up"
    assert memory.read(second, 8192) == bytes(8192)
    assert memory.held == held - 8192
    while offset := memory.alloc(4096):
        assert not second <= offset < second + 8192


def test_wrong_frees_are_counted_and_ignored() -> None:
    memory = Memory(1 << 20)
    offset = memory.alloc(100)
    large = memory.alloc(100_000)
    memory.free(0, 100)
    assert memory.faults == 0
    memory.free(large, 50_000)
    memory.free(large + 4096, 100_000)
    assert memory.faults == 2
    memory.free(large, 100_000)
    memory.free(large, 100_000)
    assert memory.faults == 3
    memory.free(offset, 100)
    memory.settle()
    memory.free(offset, 100)
    memory.settle()
    assert memory.faults == 4


def mixed(rng: random.Random, shifting: int) -> int:
    """Mostly small values, some of kilobytes, a few of tens of kilobytes. As `shifting` grows
    the mix shifts, and every other phase has no large ones: the worst that a cache meets."""
    small = rng.randrange(16, 400)
    middle = rng.randrange(400, 5000) >> shifting % 3
    large = rng.randrange(5000, 60_000) if shifting % 2 == 0 else small
    return rng.choice([small, small, small, middle, large])


def churn(model: Model, order: str, seed: int, shift: bool) -> float:
    """Writes ten times the capacity, keeping at most 70 % of it live by evicting; evicts further
    where an allocation fails. Returns the smallest share of the capacity that was live then."""
    rng = random.Random(seed)
    capacity, written, lowest = model.capacity, 0, 1.0
    queue: collections.deque[int] = collections.deque()

    def evict() -> None:
        if order == "random":
            at = rng.randrange(len(queue))
            queue[0], queue[at] = queue[at], queue[0]
        while order == "second chance" and rng.random() < 0.3:
            queue.rotate(-1)
        model.free(queue.popleft())

    while written < 10 * capacity:
        size = mixed(rng, written // capacity if shift else 0)
        while model.used + Memory.rounded(size) > 0.7 * capacity:
            evict()
        while not (offset := model.alloc(size)):
            lowest = min(lowest, model.used / capacity)
            evict()
        queue.append(offset)
        written += size
    model.check()
    return lowest


@pytest.mark.parametrize("order", ["fifo", "second chance", "random"])
def test_ten_times_capacity_with_eviction(order: str) -> None:
    """The documented bound: under a steady mix of sizes, none over 1/256 of the capacity, nothing
    fails while live bytes stay under 70 % of it."""
    assert churn(Model(Memory(16 << 20)), order, seed=1, shift=False) == 1.0


@pytest.mark.parametrize("order", ["fifo", "second chance", "random"])
def test_a_shifting_mix_costs_evictions_but_never_sticks(order: str) -> None:
    assert churn(Model(Memory(4 << 20)), order, seed=2, shift=True) > 0.1


@pytest.mark.parametrize("kind", [ANONYMOUS, pytest.param(MEMFD, marks=linux), FILE])
def test_memory_is_given_back(kind: int, tmp_path: Path) -> None:
    memory = make(kind, 256 << 20, tmp_path)
    start = rss_bytes()
    slabs = [memory.alloc(8 << 20) for _ in range(16)]
    for offset in slabs:
        memory.write(offset, b"\xaa" * (8 << 20))
    assert rss_bytes() - start > 120 << 20
    for offset in slabs:
        memory.free(offset, 8 << 20)
    assert rss_bytes() - start < 32 << 20, "beyond a budget it is given back at once"
    memory.trim()
    assert rss_bytes() - start < 12 << 20
    again = memory.alloc(8 << 20)
    memory.write(again, b"\xbb" * (8 << 20))
    assert memory.read(again, 64) == b"\xbb" * 64


@linux
@pytest.mark.parametrize("kind", [MEMFD, FILE])
def test_two_mappings_read_alike(kind: int, tmp_path: Path) -> None:
    memory = make(kind, 4 << 20, tmp_path)
    fd = memory.reader_fd()
    one, two = Attached(fd), Attached(fd)
    os.close(fd)
    assert one.address != two.address
    assert one.capacity == two.capacity == 4 << 20
    for size in (8, 1000, 100_000):
        offset = memory.alloc(size)
        data = os.urandom(size // 8 * 8)
        memory.write(offset, data)
        assert one.read(offset, len(data)) == two.read(offset, len(data)) == data
    assert one.read(0, 8) == b"ANARENA1"


WRITER = """
import ctypes, mmap, os, sys
fd = int(sys.argv[1])
try:
    mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
except PermissionError:
    print("mapping refused", flush=True)
try:
    if os.geteuid():
        os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        print("opened")
except PermissionError:
    pass
try:
    os.ftruncate(fd, 4096)
    print("truncated")
except (PermissionError, OSError):
    print("truncation refused", flush=True)
from annapy._core.arena import Attached
a = Attached(fd)
print(a.read(8192, 8), flush=True)
ctypes.memset(a.address + 8192, 0, 8)
print("written", flush=True)
"""


@linux
def test_a_reader_cannot_write() -> None:
    memory = Memory(1 << 20, MEMFD)
    memory.alloc(8)
    memory.write(8192, b"untouched"[:8])
    fd = memory.reader_fd()
    done = subprocess.run([sys.executable, "-c", WRITER, str(fd)], pass_fds=[fd], text=True,
                          capture_output=True, timeout=60, check=False)
    os.close(fd)
    lines = done.stdout.splitlines()
    assert lines == ["mapping refused", "truncation refused", str(b"untouched"[:8])], done.stderr
    assert done.returncode == -signal.SIGSEGV
    assert memory.read(8192, 8) == b"untouched"[:8]


@linux
def test_the_owner_cannot_shrink_it_either() -> None:
    memory = Memory(1 << 20, MEMFD)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 4096)
    assert os.fstat(memory.fd).st_mode & 0o777 == 0o400
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert memory.boot_id.hex() == boot_id.replace("-", "")


@linux
def test_memory_is_reserved_ahead() -> None:
    memory = Memory(64 << 20, MEMFD)
    assert memory.reserved <= 4096
    memory.alloc(100)
    assert memory.reserved == 16 << 20
    assert os.fstat(memory.fd).st_blocks * 512 >= 16 << 20
    memory.alloc(20 << 20)
    assert memory.cursor <= memory.reserved == 32 << 20


@linux
def test_attach_refuses_what_is_no_arena(tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    for data in (b"", b"x" * 100, bytes(4096), os.urandom(8192), b"ANARENA1" + bytes(4088)):
        path.write_bytes(data)
        with path.open("rb") as file, pytest.raises(ValueError, match="not an arena"):
            Attached(file.fileno())
    shrinkable = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.write(shrinkable, bytes(8192))
    with pytest.raises(ValueError, match="not an arena"):
        Attached(shrinkable)
    os.close(shrinkable)


def test_a_file_arena_replaces_and_never_truncates(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    path.write_bytes(b"old" * 4096)
    with path.open("rb") as old, mmap.mmap(old.fileno(), 0, prot=mmap.PROT_READ) as view:
        memory = make(FILE, 1 << 20, tmp_path)
        assert view[:3] == b"old"
        assert memory.kind == FILE
        assert memory.alloc(100)


@pytest.mark.parametrize("capacity", [0, 1, 4096, 1 << 60])
def test_impossible_capacity(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Memory(capacity)
