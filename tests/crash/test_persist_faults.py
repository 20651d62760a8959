"""Real faults of disks and machines: full, limited, read-only, failing; none of them mocked.

Each must be a clear error of annapy's, nothing that was there may be lost, and once the condition
is gone the next commit writes what was pending.
"""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from annapy.errors import AnnapyError, CapacityError, CorruptCellError, FormatError
from annapy.persist.backup import backup, restore
from annapy.persist.check import check
from annapy.persist.persister import Persister
from tests.crash.harness import ROOT, environment, run_python
from tests.unit.persist_double import NS, EngineDouble, value_of

ROOTLESS_UID = 65534


def opened(directory, **options):
    tier = Persister.open(directory, **{"commit_every_s": 60, **options})
    return tier, EngineDouble(tier)


def contents(directory):
    tier = Persister.open(directory, readonly=True)
    try:
        return {key: value_of(NS + key, rec) for key, rec in tier.scan(values=True)}
    finally:
        tier.close()


@contextmanager
def small_file_system(path, size):
    """A tmpfs of that size, mounted at `path`."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
                          capture_output=True, check=False) if os.geteuid() == 0 else None
    if made is None or made.returncode:
        pytest.skip("needs root and mount, for a small tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def test_a_full_disk_loses_nothing_and_is_overcome(tmp_path):
    disk = tmp_path / "disk"
    with small_file_system(disk, "3m"):
        filler = disk / "filler"
        filler.write_bytes(bytes(1 << 20))
        tier, engine = opened(str(disk / "store"))
        number = 0
        with pytest.raises(CapacityError, match=r"no room|size limit") as raised:
            for number in range(1000):
                engine.put(NS + b"%d" % number, os.urandom(20_000))
                tier.sync()
        assert "What was committed is safe" in str(raised.value)
        assert 10 < number < 999
        for i in range(number):
            key = NS + b"%d" % i
            assert value_of(key, tier.load(key)) == engine.cells[key]
        assert tier.load(NS + b"%d" % number) is None
        with pytest.raises(CapacityError):
            tier.sync()                      # still full, still pending
        assert tier.stats()["pending"]
        filler.unlink()
        tier.sync()
        assert tier.stats()["last_error"] is None
        expected = {key[4:]: value for key, value in engine.cells.items()}
        tier.close()
        assert contents(str(disk / "store")) == expected
        assert check(str(disk / "store"))


def test_a_full_disk_at_creation_and_backup(tmp_path):
    disk = tmp_path / "disk"
    with small_file_system(disk, "64k"):
        (disk / "filler").write_bytes(bytes(56 << 10))
        with pytest.raises(CapacityError):
            Persister.open(str(disk / "store"))
        (disk / "filler").unlink()
        tier, engine = opened(str(disk / "store"))
        engine.put(NS + b"a", b"1")
        tier.sync()
        roomy, other = opened(str(tmp_path / "roomy"))
        other.put(NS + b"big", os.urandom(400_000))
        roomy.sync()
        with pytest.raises(CapacityError):
            backup(str(tmp_path / "roomy"), str(disk / "backup"))
        assert sorted(os.listdir(disk)) == ["store"]
        roomy.close()
        tier.close()


FILE_LIMIT = """
import os, resource, sys
from annapy.errors import CapacityError
from annapy.persist.check import check
from annapy.persist.persister import Persister
from tests.unit.persist_double import NS, EngineDouble, value_of

directory = sys.argv[1]
tier = Persister.open(directory, commit_every_s=60)
engine = EngineDouble(tier)
engine.put(NS + b"first", b"1")
tier.sync()
soft = os.path.getsize(os.path.join(directory, "data.mdb")) + 300_000
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for number in range(1000):
    engine.put(NS + b"%d" % number, os.urandom(20_000))
    try:
        tier.sync()
    except CapacityError as error:
        assert "no room" in str(error), error
        break
else:
    raise AssertionError("the limit did not bite")
assert 3 < number < 999
assert value_of(NS + b"first", tier.load(NS + b"first")) == b"1"
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
tier.sync()
assert all(value_of(key, tier.load(key)) == value for key, value in engine.cells.items())
tier.close()
assert check(directory)
print("overcome")
"""


def test_a_file_size_limit_is_an_error_and_no_signal(tmp_path):
    done = run_python(FILE_LIMIT, str(tmp_path / "store"))
    assert done.stdout.strip() == "overcome", (done.returncode, done.stderr)


def test_a_full_map_is_an_error_and_deletes_go_through(tmp_path, monkeypatch):
    monkeypatch.setattr("annapy.persist.persister.RESERVE_MIN", 0)
    directory = str(tmp_path / "store")
    tier, engine = opened(directory, disk_capacity=1 << 20)
    tier.limit(None, 60)                     # so that LMDB's own limit is what is met
    with pytest.raises(CapacityError, match="size limit"):
        for number in range(1000):
            engine.put(NS + b"%d" % number, os.urandom(20_000))
            tier.sync()
    kept = dict(contents(directory))
    assert len(kept) > 10
    pending = dict(engine.cells)
    with pytest.raises(CapacityError):
        tier.close()
    assert contents(directory) == kept
    tier, engine = opened(directory)         # with room again
    for key, value in pending.items():
        if key[4:] not in kept:
            engine.put(key, value)
    tier.close()
    assert contents(directory) == {key[4:]: value for key, value in pending.items()}
    assert check(directory)


READ_ONLY = """
import os, sys
from annapy.errors import AnnapyError, ReadOnlyError
from annapy.persist.persister import Persister

Persister.open(sys.argv[3]).close()    # loads what the interpreter's own files may hide later
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
for readonly in (False, True):
    try:
        tier = Persister.open(sys.argv[1], readonly=readonly)
        print("opened", tier.state.live)
        tier.close()
    except ReadOnlyError as error:
        print("ReadOnlyError", error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody without rights")
def test_a_directory_that_may_not_be_written(tmp_path):
    directory = tmp_path / "store"
    tier, engine = opened(str(directory))
    engine.put(NS + b"a", b"1")
    tier.close()
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    for name, mode in (("data.mdb", 0o644), ("lock.mdb", 0o644), ("owner", 0o644)):
        (directory / name).chmod(mode)
    directory.chmod(0o555)
    done = run_python(READ_ONLY, str(directory), str(ROOTLESS_UID), str(tmp_path / "o"))
    lines = done.stdout.splitlines()
    assert len(lines) == 2, (done.stdout, done.stderr)
    assert all(line.startswith("ReadOnlyError") and "not permitted" in line for line in lines)
    (directory / "lock.mdb").chmod(0o666)    # the table of readers is all that a reader writes
    done = run_python(READ_ONLY, str(directory), str(ROOTLESS_UID), str(tmp_path / "o"))
    assert done.stdout.splitlines()[1] == "opened 1", (done.stdout, done.stderr)
    assert contents(str(directory)) == {b"a": b"1"}


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(AnnapyError, match="making the directory"):
        Persister.open(str(tmp_path / "file" / "store"))


META_FAILS = """
import os, sys
from annapy.errors import AnnapyError
from annapy.persist.check import check
from annapy.persist.persister import Persister
from tests.unit.persist_double import NS, EngineDouble, value_of

tier = Persister.open(sys.argv[1], commit_every_s=60)
engine = EngineDouble(tier)
failed = 0
for number in range(60):
    engine.put(NS + b"%d" % number, b"v%d" % number)
    try:
        tier.sync()
    except AnnapyError as error:
        failed += 1
tier.sync()
assert all(value_of(key, tier.load(key)) == value for key, value in engine.cells.items())
tier.close()
assert check(sys.argv[1])
print("failed", failed)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_write_or_sync_that_fails_now_and_then(tmp_path, call, error):
    """Also writes of the meta page, after which LMDB wants to be opened anew."""
    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}",
         "-e", f"inject={call}:error={error}:when=20+7",
         sys.executable, "-c", META_FAILS, str(tmp_path / "store")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    word, _, count = done.stdout.strip().partition(" ")
    assert word == "failed", (done.returncode, done.stdout, done.stderr[-3000:])
    assert int(count) > 0


READER = """
import sys, time
from annapy.persist.persister import Persister
tier = Persister.open(sys.argv[1], readonly=True)
txn = tier._env.begin()
print("reading", flush=True)
time.sleep(600)
"""


def test_a_killed_reader_does_not_keep_old_pages_for_ever(tmp_path):
    directory = str(tmp_path / "store")
    tier, engine = opened(directory)
    engine.put(NS + b"a", b"1")
    tier.sync()
    reader = subprocess.Popen([sys.executable, "-c", READER, directory], stdout=subprocess.PIPE,
                              cwd=ROOT, env=environment())
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"reading\n"
    assert str(reader.pid) in tier._env.lmdb.readers()
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    tier.close()
    tier, engine = opened(directory)
    assert str(reader.pid) not in tier._env.lmdb.readers()
    size = tier._env.file_bytes()
    for turn in range(100):
        engine.put(NS + b"b", b"%d" % turn * 1000)
        tier.sync()
    assert tier._env.file_bytes() < size + 40 * 4096
    tier.close()


# --- backups ----------------------------------------------------------------------------------


def test_a_backup_is_taken_while_writers_go_on_and_comes_back_as_another_store(tmp_path):
    directory, file, again = (str(tmp_path / name) for name in ("store", "file", "again"))
    tier, engine = opened(directory)
    for i in range(2000):
        engine.put(NS + b"%d" % i, b"v" * 100)
    engine.put(NS + b"large", os.urandom(300_000))
    tier.sync()
    expected = {key[4:]: value for key, value in engine.cells.items()}
    commits = []

    def write_meanwhile(done, total):
        engine.put(NS + b"meanwhile", b"%d" % len(commits))
        tier.sync()
        commits.append((done, total))

    report = tier.backup(file, progress=write_meanwhile)
    assert report
    assert report.cells == len(expected)
    with pytest.raises(FileExistsError):
        tier.backup(file)
    actor = tier.identity.actor
    tier.close()
    for turn in range(2):
        where = f"{again}{turn}"
        assert restore(file, where)
        assert contents(where) == expected
        other, engine = opened(where)
        assert not other.continues
        assert other.identity.previous == [actor]
        engine.put(NS + b"more", b"1")
        other.close()
        other, _ = opened(where)
        assert other.continues
        assert other.identity.actor != actor
        other.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again0", "again1", "file", "store"]


def test_a_damaged_backup_and_a_full_target_are_refused(tmp_path):
    directory, file = str(tmp_path / "store"), tmp_path / "file"
    tier, engine = opened(directory)
    for i in range(50):
        engine.put(NS + b"%d" % i, b"v" * 100)
    tier.backup(str(file))
    tier.close()
    with pytest.raises(FormatError, match="not empty"):
        restore(str(file), directory)
    raw = bytearray(file.read_bytes())
    at = raw.index(b"v" * 100)
    raw[at] ^= 1
    file.write_bytes(raw)
    target = tmp_path / "target"
    with pytest.raises(CorruptCellError, match="checksum"):
        restore(str(file), str(target))
    assert not (target / "data.mdb").exists()
    file.write_bytes(raw[:len(raw) // 2])
    with pytest.raises(CorruptCellError, match="cut off"):
        restore(str(file), str(target / "other"))
