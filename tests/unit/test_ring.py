"""The mail ring: order, laps, bounds, the overlay, a hostile writer, a new owner."""
from __future__ import annotations

import collections
import mmap
import os
import random
import struct
import sys
import time

import pytest

if sys.platform != "linux":
    pytest.skip("the host mode is Linux's", allow_module_level=True)

from hypothesis import given
from hypothesis import strategies as st

from annapy._core.ring import MailClient, MailOwner

RING_AT = 4096
DATA_AT = RING_AT + 256


def pair(ring_bytes: int = 4096, rings: int = 1) -> tuple[MailClient, MailOwner]:
    client = MailClient(rings, ring_bytes)
    owner = MailOwner(client.fd)
    meet(client, owner)
    return client, owner


def meet(client: MailClient, owner: MailOwner) -> None:
    fd = owner.reader_fd()
    client.attach(fd, owner.replies, owner.bell_at, owner.bell_fd)
    os.close(fd)


def test_a_record_comes_back_as_it_was_posted() -> None:
    client, owner = pair()
    assert owner.next() is None
    assert client.post(b"key", b"argument", code=7, tag=9, namespace=3, extra=b"xy", flags=5,
                       ttl_ms=77, expect=1 << 60, hlc=1 << 63) == 1
    assert owner.pending()
    assert owner.next() == (7, 9, 1, b"key", b"argument", b"xy", 3, 5, 77, 1 << 60, 1 << 63)
    assert owner.next() is None
    assert not owner.pending()
    assert client.post(b"", b"") == 2
    assert owner.next()[2:6] == (2, b"", b"", b"")


@given(st.lists(st.tuples(st.sampled_from(["post", "post", "next", "durable"]),
                          st.binary(max_size=40), st.integers(0, 900)), max_size=200),
       st.sampled_from([4096, 8192]))
def test_ring_against_a_queue(steps: list[tuple[str, bytes, int]], ring_bytes: int) -> None:
    client, owner = pair(ring_bytes)
    waiting: collections.deque[tuple[int, bytes, bytes]] = collections.deque()
    for step, key, size in steps:
        if step == "post":
            arg = bytes([size % 251]) * size
            try:
                sequence = client.post(key, arg, timeout=0.0)
            except TimeoutError:
                assert waiting or owner.next() is None
                owner.applied()
                owner.durable()
            else:
                waiting.append((sequence, key, arg))
        elif step == "next":
            mail = owner.next()
            assert (mail[2:5] if mail else None) == (waiting.popleft() if waiting else None)
        else:
            owner.applied()
            owner.durable()
    while waiting:
        assert owner.next()[2:5] == waiting.popleft()
    assert owner.next() is None


def test_full_means_nothing_posted() -> None:
    client, owner = pair()
    posted = 0
    with pytest.raises(TimeoutError):
        while True:
            client.post(b"k", bytes(100), timeout=0.01)
            posted += 1
    assert posted == 4096 // 168
    for n in range(posted):
        assert owner.next()[2] == n + 1
    owner.applied()
    with pytest.raises(TimeoutError, match="no room"):
        client.post(b"k", bytes(100), timeout=0.01)
    owner.durable()
    assert client.post(b"k", bytes(100), timeout=0.0) == posted + 1
    assert owner.next()[2] == posted + 1


@pytest.mark.parametrize(("key", "arg", "extra"), [
    (b"k" * 65536, b"", b""), (b"", b"", b"x" * 65536), (b"", bytes(1024), b"")])
def test_too_long_for_the_ring(key: bytes, arg: bytes, extra: bytes) -> None:
    client, owner = pair()
    with pytest.raises(ValueError, match="limits"):
        client.post(key, arg, extra=extra)
    assert owner.next() is None
    assert client.post(b"k") == 1


@pytest.mark.parametrize(("rings", "ring_bytes"), [(0, 4096), (1, 4095), (1, 5000), (1, 1 << 31),
                                                   (2000, 4096)])
def test_impossible_sizes(rings: int, ring_bytes: int) -> None:
    with pytest.raises(ValueError, match="limits"):
        MailClient(rings, ring_bytes)


def test_rings_are_apart() -> None:
    client, owner = pair(rings=16)
    for ring in range(16):
        for n in range(ring):
            assert client.post(b"%d" % ring, ring=ring) == n + 1
    for ring in range(16):
        assert [owner.next(ring)[3] for _ in range(ring)] == [b"%d" % ring] * ring
        assert owner.next(ring) is None


# --- read your writes -----------------------------------------------------------------------

def test_overlay_is_what_the_entry_lacks() -> None:
    client, owner = pair()
    assert not client.may_overlay(b"k")
    client.post(b"k", b"1")
    client.post(b"other", b"2")
    client.post(b"k", b"3")
    client.post(b"k", b"4", namespace=2)
    seen = client.seen()
    assert client.may_overlay(b"k")
    args = lambda version: [m[4] for m in client.overlay(b"k", version, seen)]
    assert args(0) == [b"1", b"3"]
    owner.next()
    owner.ticket(1, 10)
    assert args(9) == [b"1", b"3"], "the entry was taken before the owner published it"
    assert args(10) == [b"3"], "and now it is in the entry: never twice"
    owner.applied()
    seen = client.seen()
    assert args(10) == [b"3"]
    for _ in range(3):
        owner.ticket(owner.next()[2], 11)
    owner.applied()
    assert not client.may_overlay(b"k")
    assert client.overlay(b"k", 11, client.seen()) == []
    assert args(11) == []


def test_overlay_survives_laps_and_notices_being_overtaken() -> None:
    client, owner = pair()
    rng = random.Random(5)
    ticket = 0
    for lap in range(200):
        begin = client.seen()
        keys = [rng.choice([b"a", b"bb", b"ccc"]) for _ in range(rng.randrange(1, 8))]
        for key in keys:
            client.post(key, bytes(rng.randrange(200)))
        for key in (b"a", b"bb", b"ccc"):
            assert len(client.overlay(key, ticket, client.seen())) == keys.count(key), lap
        while mail := owner.next():
            ticket += 1
            owner.ticket(mail[2], ticket)
        owner.applied()
        owner.durable()
        assert client.overlay(b"a", ticket, begin) is None
        assert client.overlay(b"a", ticket, client.seen()) == []


def test_a_new_owner_goes_on_where_the_commit_ended() -> None:
    client, owner = pair()
    for n in range(10):
        client.post(b"k", b"%d" % n)
    for _ in range(4):
        owner.next()
    owner.applied()
    owner.durable()
    for _ in range(3):
        owner.ticket(owner.next()[2], 5)
    owner.applied()
    del owner                         # it dies: 4 are durable, 7 were applied
    second = MailOwner(client.fd, [client.place(4)])
    meet(client, second)
    lacking = [m[4] for m in client.overlay(b"k", 5, client.seen())]
    assert lacking == [b"%d" % n for n in range(4, 10)]
    assert [second.next()[2] for _ in range(6)] == [5, 6, 7, 8, 9, 10]
    assert second.next() is None
    second.applied()
    second.durable()
    assert client.post(b"k") == 11
    assert second.next()[2] == 11
    assert client.place(11)[1] == 11
    with pytest.raises(KeyError):
        client.place(12)


# --- sleeping -------------------------------------------------------------------------------

def test_a_sleeper_is_woken_and_a_waker_is_not_missed() -> None:
    client, owner = pair()
    assert not owner.sleep(0.01)
    client.post(b"k")
    assert owner.sleep(5), "it looks once more before it sleeps"
    owner.next()
    pid = os.fork()
    if pid == 0:
        client.post(b"from the child")
        os._exit(0)
    while (mail := owner.next()) is None:
        assert owner.sleep(30)
    assert mail[3] == b"from the child"
    assert os.waitpid(pid, 0)[1] == 0


def test_a_writer_waits_for_room_without_spinning() -> None:
    client, owner = pair()
    with pytest.raises(TimeoutError):
        while client.post(b"k", bytes(500), timeout=0.0):
            pass
    pid = os.fork()
    if pid == 0:
        before = os.times().user
        client.post(b"k", bytes(500), timeout=60)
        os._exit(0 if os.times().user - before < 0.2 else 1)
    time.sleep(0.3)
    while owner.next():
        pass
    owner.applied()
    owner.durable()
    assert os.waitpid(pid, 0)[1] == 0
    assert owner.next() is not None


# --- a hostile writer -----------------------------------------------------------------------

def scribble(client: MailClient) -> mmap.mmap:
    return mmap.mmap(client.fd, 0)


def test_the_file_cannot_change_its_size() -> None:
    client = MailClient()
    size = os.fstat(client.fd).st_size
    for wanted in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(client.fd, wanted)


@pytest.mark.parametrize(("at", "value"), [
    (0, 1), (8, 2), (12, 0), (12, 1 << 20), (16, 4096), (24, 4095), (24, 1 << 40), (32, 0),
    (56, 1 << 50), (56, 5), (64, 1 << 50)])
def test_an_inconsistent_header_is_refused(at: int, value: int) -> None:
    client = MailClient()
    with scribble(client) as memory:
        memory[at:at + 8] = struct.pack("<Q", value)
    with pytest.raises(ValueError, match="mail file"):
        MailOwner(client.fd)


def test_an_unsealed_file_is_refused() -> None:
    client = MailClient()
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    with scribble(client) as memory:
        os.write(loose, memory[:])
    with pytest.raises(ValueError, match="mail file"):
        MailOwner(loose)
    os.close(loose)


@pytest.mark.parametrize("head", [1, 7, 4096 + 8, 1 << 63, (1 << 64) - 8])
def test_an_impossible_head_closes_the_ring(head: int) -> None:
    client, owner = pair()
    client.post(b"k")
    with scribble(client) as memory:
        memory[RING_AT:RING_AT + 8] = struct.pack("<Q", head)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            owner.next()
    assert not owner.pending()


@pytest.mark.parametrize(("at", "data"), [
    (0, struct.pack("<I", 0)), (0, struct.pack("<I", 8)), (0, struct.pack("<I", 65)),
    (0, struct.pack("<I", 1 << 31)), (0, struct.pack("<I", 72)), (4, b"\xff"),
    (8, struct.pack("<Q", 2)), (20, struct.pack("<H", 9000)), (24, struct.pack("<I", 1 << 31))])
def test_an_impossible_record_closes_the_ring(at: int, data: bytes) -> None:
    client, owner = pair()
    client.post(b"some key", b"some argument")
    with scribble(client) as memory:
        memory[DATA_AT + at:DATA_AT + at + len(data)] = data
    with pytest.raises(ValueError, match="damaged"):
        owner.next()


def test_random_garbage_harms_only_its_writer() -> None:
    """Whatever stands in the rings, the owner answers with mail, nothing or a refusal; the second
    ring, which is left alone, goes on."""
    rng = random.Random(11)
    refused = 0
    for _ in range(300):
        client, owner = pair(rings=2)
        for n in range(rng.randrange(12)):
            client.post(b"key %d" % n, rng.randbytes(rng.randrange(300)))
        with scribble(client) as memory:
            for _ in range(rng.randrange(1, 6)):
                low = rng.choice([RING_AT, DATA_AT, DATA_AT + rng.randrange(4096 - 8)])
                word = rng.choice([rng.randbytes(8), struct.pack("<Q", rng.randrange(4200)),
                                   struct.pack("<Q", rng.randrange(520) * 8)])
                memory[low:low + 8] = word
        try:
            while owner.next():
                pass
        except ValueError:
            refused += 1
        client.post(b"sound", ring=1)
        assert owner.next(1)[3] == b"sound"
    assert refused > 100
