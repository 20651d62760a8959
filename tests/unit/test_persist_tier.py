"""The disk tier under a double of the engine: commits, cold reads, order, deadlines, identity."""
from __future__ import annotations

import os
import shutil
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annapy.errors import (
    CapacityError,
    CorruptCellError,
    FormatError,
    StoreClosed,
    StoreLocked,
)
from annapy.persist import env as environment
from annapy.persist import records
from annapy.persist.check import check
from annapy.persist.persister import Persister
from tests.unit.persist_double import NS, EngineDouble, value_of


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "store")


def opened(directory, **options):
    tier = Persister.open(directory, **options)
    return tier, EngineDouble(tier)


def contents(directory):
    """What a fresh reader sees."""
    tier = Persister.open(directory, readonly=True)
    try:
        return {key: value_of(NS + key, rec) for key, rec in tier.scan(values=True)}
    finally:
        tier.close()


# --- commits ----------------------------------------------------------------------------------


def test_what_was_synced_is_there_after_reopening(directory):
    tier, engine = opened(directory)
    engine.put(NS + b"a", b"1")
    engine.put(NS + b"L" * 4000, b"long")
    engine.put(NS + b"big", os.urandom(1_000_000))
    tier.sync()
    live = dict(engine.cells)
    tier.close()
    tier, engine = opened(directory)
    assert engine.cells == live
    assert tier.state.live == 3 == tier.count()
    assert check(directory)
    tier.close()


def test_an_idle_store_has_no_thread_until_something_is_dirty(directory):
    before = threading.active_count()
    tier, engine = opened(directory, commit_every_s=0.001)
    assert threading.active_count() == before
    engine.put(NS + b"a", b"1")
    end = time.monotonic() + 10
    while tier.stats()["pending"] and time.monotonic() < end:
        time.sleep(0.001)
    assert tier.stats()["commits"] == 1
    assert value_of(NS + b"a", tier.load(NS + b"a")) == b"1"
    tier.close()
    assert threading.active_count() == before


def test_an_idle_store_uses_no_cpu(directory):
    tier, engine = opened(directory, commit_every_s=0.001)
    engine.put(NS + b"a", b"1")
    tier.sync()
    time.sleep(0.05)
    thread = tier._thread
    assert thread is not None
    path = f"/proc/self/task/{thread.native_id}/status"
    if not os.path.exists(path):
        pytest.skip("no /proc with tasks")

    def switches():
        with open(path) as file:
            return [line for line in file if "ctxt_switches" in line]

    before = switches()
    time.sleep(0.2)
    assert switches() == before
    tier.close()


def test_callers_share_commits(directory):
    tier, engine = opened(directory, commit_every_s=60)
    gate = threading.Barrier(8)

    def work(number):
        for turn in range(10):
            gate.wait()
            engine.put(NS + b"%d:%d" % (number, turn), b"x")
            tier.sync()
            assert tier.load(NS + b"%d:%d" % (number, turn)) is not None

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(contents(directory)) == 80
    assert tier.stats()["commits"] < 80
    tier.close()


def test_a_failed_commit_keeps_everything_and_the_next_one_writes_it(directory, monkeypatch):
    tier, engine = opened(directory, commit_every_s=60)
    engine.put(NS + b"a", b"1")
    real = tier._writer.write

    def fail(txn, cut):
        real(txn, cut)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tier._writer), "write", lambda self, txn, cut: fail(txn, cut))
    with pytest.raises(CapacityError, match="no room"):
        tier.sync()
    assert engine.cuts[-1].outcome is False
    assert "no room" in str(tier.stats()["last_error"])
    assert tier.stats()["errors"] == 1
    assert tier.load(NS + b"a") is None
    monkeypatch.undo()
    tier.sync()
    assert engine.cuts[-1].outcome is True
    assert value_of(NS + b"a", tier.load(NS + b"a")) == b"1"
    assert tier.stats()["last_error"] is None
    tier.close()


def test_the_background_thread_retries_until_it_works(directory, monkeypatch):
    tier, engine = opened(directory, commit_every_s=0.001)
    failures = []

    def fail(self, txn, cut):
        failures.append(1)
        if len(failures) >= 2:
            monkeypatch.undo()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tier._writer), "write", fail)
    engine.put(NS + b"a", b"1")
    end = time.monotonic() + 20
    while tier.load(NS + b"a") is None and time.monotonic() < end:
        time.sleep(0.005)
    assert value_of(NS + b"a", tier.load(NS + b"a")) == b"1"
    assert tier.stats()["errors"] == 2
    tier.close()


def test_disk_capacity_refuses_growth_and_lets_deletes_through(directory):
    tier, engine = opened(directory, commit_every_s=60, disk_capacity=1 << 20)
    for i in range(20):
        engine.put(NS + b"%d" % i, bytes(100_000))
    with pytest.raises(CapacityError, match="disk_capacity"):
        tier.sync()
    for i in range(15):
        engine.put(NS + b"%d" % i, None)
    tier.sync()
    engine.put(NS + b"more", bytes(2_000_000))
    with pytest.raises(CapacityError):
        tier.sync()
    engine.put(NS + b"more", None)
    for i in range(15, 20):
        engine.put(NS + b"%d" % i, None)
        tier.sync()
    tier.close()
    assert contents(directory) == {}
    assert check(directory)


def test_close_commits_and_refuses_from_then_on(directory):
    tier, engine = opened(directory, commit_every_s=60)
    engine.put(NS + b"a", b"1")
    tier.close()
    tier.close()
    for call in (tier.sync, lambda: tier.load(NS + b"a"), lambda: list(tier.scan())):
        with pytest.raises(StoreClosed):
            call()
    assert contents(directory) == {b"a": b"1"}


def test_options_travel_with_the_next_commit_or_with_closing(directory):
    tier, _ = opened(directory)
    assert tier.options == b""
    tier.set_options(b"capacity=5")
    tier.close()
    tier, _ = opened(directory)
    assert tier.options == b"capacity=5"
    tier.close()


# --- large records ----------------------------------------------------------------------------


def test_only_changed_chunks_are_written_again(directory):
    tier, engine = opened(directory, commit_every_s=60)
    value = bytearray(os.urandom(20 * records.CHUNK_SIZE))
    engine.put(NS + b"big", bytes(value))
    tier.sync()
    before = tier._env.file_bytes()
    for turn in range(50):
        value[turn * 20_000] ^= 1
        engine.put(NS + b"big", bytes(value))
        tier.sync()
        assert value_of(NS + b"big", tier.load(NS + b"big")) == bytes(value)
    assert tier._env.file_bytes() - before < 10 * records.CHUNK_SIZE
    assert check(directory)
    tier.close()


@pytest.mark.parametrize("key", [NS + b"k", NS + b"K" * 2000])
def test_a_record_changes_between_plain_and_chunked_and_leaves_nothing_behind(directory, key):
    tier, engine = opened(directory, commit_every_s=60)
    sizes = [10, 500_000, 200_000, 131_000, 132_000, 0, 900_000, None, 300_000, 5, None]
    for size in sizes:
        engine.put(key, None if size is None else os.urandom(size))
        tier.sync()
        assert value_of(key, tier.load(key)) == engine.cells.get(key)
        report = check(directory)
        assert report, report.problems
    assert tier._writer.chunk_rows == 0
    tier.close()


# --- order ------------------------------------------------------------------------------------

deep = st.builds(
    lambda fill, tail: fill * 444 + tail,
    st.sampled_from([b"a", b"b"]), st.binary(max_size=60),
)
some_keys = st.sets(st.one_of(st.binary(max_size=6), deep), min_size=1, max_size=40)


@settings(max_examples=60)
@given(
    some_keys, st.one_of(st.just(b""), st.binary(max_size=2), deep),
    st.none() | st.binary(max_size=3) | deep, st.none() | st.binary(max_size=3) | deep,
    st.booleans(), st.integers(1, 7),
)
def test_a_scan_is_the_sorted_dict(tmp_path_factory, keys, prefix, start, stop, reverse, limit):
    directory = str(tmp_path_factory.mktemp("scan") / "s")
    tier, engine = opened(directory, commit_every_s=60)
    for key in keys:
        engine.put(NS + key, key[-3:])
        engine.put(b"\0\0\0\2" + key, b"other namespace")
    tier.sync()
    expected = sorted(
        (key for key in keys
         if key.startswith(prefix) and (start is None or key >= start)
         and (stop is None or key < stop)),
        reverse=reverse,
    )
    assert [key for key, _ in tier.scan(prefix, start, stop, reverse=reverse)] == expected
    found, after, more = [], None, True
    while more:
        page, more = tier.page(prefix, start, stop, reverse=reverse, after=after, limit=limit,
                               values=True)
        assert len(page) <= limit
        found += [(key, value_of(NS + key, rec)) for key, rec in page]
        after = page[-1][0] if page else None
    assert found == [(key, key[-3:]) for key in expected]
    everything, after = [], None
    while True:
        rows, after = tier.stored_keys(after, limit)
        everything += rows
        if after is None:
            break
    assert sorted(everything) == sorted([NS + k for k in keys] + [b"\0\0\0\2" + k for k in keys])
    tier.close()
    shutil.rmtree(directory)


# --- deadlines --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.tuples(
    st.sampled_from([b"a", b"b", b"c" * 600, b"d" * 600]), st.sampled_from([None, 0, 5, 9, 300]),
), max_size=20), st.integers(1, 4))
def test_the_index_of_deadlines_follows_the_cells(tmp_path_factory, steps, every):
    directory = str(tmp_path_factory.mktemp("ttl") / "s")
    tier, engine = opened(directory, commit_every_s=60)
    expected = {}
    for number, (key, deadline) in enumerate(steps):
        engine.put(NS + key, None if deadline is None else b"v", deadline or 0)
        expected[NS + key] = deadline
        if number % every == 0:
            tier.sync()
    tier.sync()
    for now in (0, 5, 8, 9, 1000):
        due = sorted((d, records.fold(k), k) for k, d in expected.items() if d and d <= now)
        assert tier.expired(now) == [key for _, _, key in due]
        assert tier.expired(now, 1) == [key for _, _, key in due][:1]
    report = check(directory)
    assert report, report.problems
    tier.close()
    shutil.rmtree(directory)


# --- identity ---------------------------------------------------------------------------------


def actor_of(directory, commit=True):
    tier, engine = opened(directory)
    if commit:
        engine.put(NS + b"k", os.urandom(4))
    tier.close()
    return tier.identity.actor, tier.continues


def test_a_store_that_goes_on_keeps_its_actor(directory):
    actor, continues = actor_of(directory)
    assert continues
    for commit in (True, False, False, True):
        assert actor_of(directory, commit) == (actor, True)


def test_a_moved_store_keeps_its_actor(directory):
    actor, _ = actor_of(directory)
    os.rename(directory, directory + "2")
    assert actor_of(directory + "2") == (actor, True)


def test_a_copied_store_takes_a_new_actor_each_time_it_is_copied(directory):
    actor, _ = actor_of(directory)
    seen = {actor}
    for name in ("one", "two"):
        copy = os.path.join(os.path.dirname(directory), name)
        shutil.copytree(directory, copy)
        # Not even an opening that commits nothing may launder the copy.
        fresh, continues = actor_of(copy, commit=False)
        assert not continues
        fresh, continues = actor_of(copy)
        assert not continues
        assert fresh not in seen
        assert fresh & 0xFFFFF == (actor & 0xFFFFF) + 1
        assert actor_of(copy) == (fresh, True)
        seen.add(fresh)
    assert actor_of(directory) == (actor, True)


def test_an_older_data_file_put_back_in_place_takes_a_new_actor(directory):
    actor, _ = actor_of(directory)
    data = os.path.join(directory, "data.mdb")
    with open(data, "rb") as file:
        old = file.read()
    actor_of(directory)
    actor_of(directory)
    with open(data, "r+b") as file:      # the same inode
        file.write(old)
        file.truncate()
    fresh, continues = actor_of(directory)
    assert not continues
    assert fresh != actor


def test_the_clock_starts_above_every_stamp_that_was_committed(directory):
    tier, engine = opened(directory, commit_every_s=60)
    engine.put(NS + b"a", b"1")
    tier.sync()
    hlc = engine.hlc
    copy = directory + "-as-after-kill"
    shutil.copytree(directory, copy)
    tier.close()
    assert tier.state.hlc == hlc
    other, _ = opened(copy)
    assert other.state.hlc_bound > hlc
    other.close()


# --- who may open -----------------------------------------------------------------------------


def test_a_second_opening_in_this_process_is_refused_for_writing_and_shared_for_reading(directory):
    tier, engine = opened(directory)
    engine.put(NS + b"a", b"1")
    tier.sync()
    with pytest.raises(StoreLocked, match="already open in this process"):
        Persister.open(directory)
    reader = Persister.open(directory, readonly=True)
    assert value_of(NS + b"a", reader.load(NS + b"a")) == b"1"
    reader.close()
    engine.put(NS + b"b", b"2")
    tier.sync()
    tier.close()
    assert contents(directory) == {b"a": b"1", b"b": b"2"}


def test_a_forked_child_is_told_and_touches_nothing(directory):
    tier, engine = opened(directory, commit_every_s=60)
    engine.put(NS + b"a", b"1")
    tier.sync()
    pid = os.fork()
    if pid == 0:
        told = 0
        for call in (tier.sync, lambda: tier.load(NS + b"a"), lambda: Persister.open(directory)):
            try:
                call()
            except StoreLocked:  # noqa: PERF203 - three calls
                told += 1
        tier.wake()
        tier.close()
        os._exit(0 if told == 3 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    engine.put(NS + b"b", b"2")
    tier.sync()
    tier.close()
    assert len(contents(directory)) == 2


def test_a_directory_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match="not empty"):
        Persister.open(str(tmp_path))
    with pytest.raises(FormatError, match="holds no store"):
        Persister.open(str(tmp_path), readonly=True)
    with pytest.raises(FormatError, match="no such directory"):
        Persister.open(str(tmp_path / "absent"), readonly=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


def test_another_programs_environment_is_refused(directory):
    import lmdb

    with lmdb.open(directory) as other, other.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    with pytest.raises(FormatError, match="other program"):
        Persister.open(directory)


def test_a_lost_data_file_is_not_taken_for_a_new_store(directory):
    actor_of(directory)
    os.unlink(os.path.join(directory, "data.mdb"))
    with pytest.raises(CorruptCellError, match="gone"):
        Persister.open(directory)


@pytest.mark.parametrize(("at", "what"), [(0, "format 2"), (4, "features 0x1")])
def test_a_newer_format_is_refused_and_left_alone(directory, at, what):
    actor_of(directory)
    env = environment.Environment.open(directory)
    row = bytearray(environment._format_row())
    row[at] = row[at] + 1
    with env.begin(write=True) as txn:
        txn.put(b"annapy", records.seal(b"annapy", bytes(row)))
    env.close()
    with open(os.path.join(directory, "data.mdb"), "rb") as file:
        before = file.read()
    for readonly in (False, True):
        with pytest.raises(FormatError, match=what):
            Persister.open(directory, readonly=readonly)
    with open(os.path.join(directory, "data.mdb"), "rb") as file:
        assert file.read() == before


def test_an_interrupted_creation_is_finished_by_the_next(directory):
    os.makedirs(os.path.join(directory, ".new-1"))
    with open(os.path.join(directory, ".new-1", "data.mdb"), "wb") as file:
        file.write(b"half")
    actor_of(directory)
    assert not [name for name in os.listdir(directory) if name.startswith(".new")]
