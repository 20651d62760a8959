"""Opening, closing, reopening, pickling, forking, acknowledging: the life of a store."""
from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import annapy

ROOT = Path(annapy.__file__).parent.parent


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this annapy."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


def test_closing_twice_is_fine_and_use_after_is_not(s: annapy.Store) -> None:
    s["k"] = 1
    handle = s.counter("n")
    handle.add(1)
    items = iter(s.items())
    s.close()
    s.close()
    assert s.closed
    for call in (lambda: s["k"], lambda: s.get("k"), lambda: s.set("k", 1), lambda: "k" in s,
                 lambda: len(s), lambda: list(s), lambda: s.delete("k"), handle.sub,
                 handle.add, lambda: handle.value, lambda: next(items), s.flush, s.stats,
                 lambda: s.namespace("a"), lambda: list(s.scan()), s.batch, s.watch,
                 lambda: s.lock("l"), lambda: s.backup("b"), s.__enter__, lambda: s.incr("n"),
                 lambda: s.get_many(["k"]), lambda: s.set_many({"k": 1}), s.clear,
                 lambda: s.evict("t"), s.warm, s.conflicts):
        with pytest.raises(annapy.StoreClosed, match="open it again"):
            call()


def test_context_manager_and_reopening(mode: Any) -> None:
    with mode.open() as s:
        s["k"] = {"a": [1]}
        s.counter("n").add(3)
        s.set("t", 1, ttl="1h", tag="x")
        s.ormap("m").counter("f").add(2)
    assert s.closed
    if not mode.durable:
        return
    with mode.open() as again:
        assert dict(again.scan()) == {"k": {"a": [1]}, "n": 3, "t": 1, "m": {"f": 2}}
        assert len(again) == 4
        assert (again.ttl("t") or 0) > 3000
        again.counter("n").add(1)
        assert again["n"] == 4
        assert again.evict("x") == 1
    with mode.open() as again:
        assert again["n"] == 4
        assert len(again) == 3


def test_a_store_that_is_dropped_is_committed(mode: Any) -> None:
    if not mode.durable:
        pytest.skip("in memory there is nothing to commit to")
    annapy.open(mode.path, capacity="8MiB")["k"] = 1
    gc.collect()
    assert annapy.open(mode.path)["k"] == 1


def test_one_directory_one_engine_in_a_process(mode: Any) -> None:
    if not mode.durable:
        pytest.skip("each store in memory is its own")
    a = mode.open()
    b = mode.open()
    a["k"] = 1
    assert b["k"] == 1
    a.close()
    assert b["k"] == 1
    b["k"] = 2
    b.close()
    with pytest.raises(annapy.StoreClosed):
        b["k"]


def test_pickling(mode: Any) -> None:
    s = mode.open()
    if not mode.durable:
        for how in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="in memory cannot be pickled"):
                how(s)
        return
    s["k"] = 1
    view = s.namespace("n:").options(ttl="1h", errors="miss")
    again = pickle.loads(pickle.dumps(view))
    again["x"] = 2
    assert s["n:x"] == 2
    assert s.ttl("n:x") is not None
    assert type(again) is type(view)
    s.flush()
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
    done = python(code, pickle.dumps(s).hex())
    assert "StoreLocked" in done.stderr
    assert str(os.getpid()) in done.stderr
    again.close()
    s.close()
    done = python(code + "['k'] == 1 or sys.exit(3)", pickle.dumps(s).hex())
    assert done.returncode == 0, done.stderr


def test_acknowledgements(mode: Any) -> None:
    s = mode.open()
    if mode.durable:
        commits = s.stats()["disk"]["commits"]
        s.set("k", 1, ack="disk")
        assert s.stats()["disk"]["commits"] == commits + 1
        s.counter("n").add(1, ack=1)
        s.orset("o").add(1, ack="majority")
        s.options(ack="disk")["j"] = 1
        assert s.stats()["disk"]["commits"] == commits + 4
        with s.batch(ack="disk") as b:
            b["x"] = 1
            b["y"] = 1
        assert s.stats()["disk"]["commits"] == commits + 5
        s.set_many({str(n): n for n in range(50)}, ack="disk")
        assert s.stats()["disk"]["commits"] == commits + 6
        s.flush(timeout=5)
    else:
        for ack in ("disk", 1, "majority"):
            with pytest.raises(ValueError, match="needs a directory"):
                s.set("k", 1, ack=ack)
        s.flush()
    for ack in ("upstream", 2):
        with pytest.raises(ValueError, match="other nodes"):
            s.set("k", 1, ack=ack)
    for bad in ("Disk", 0, -1, True, 1.5, ["disk"]):
        for call in (partial(s.set, "z", 1), partial(s.counter("z").add, 1), s.options, s.batch):
            with pytest.raises(ValueError, match="ack="):
                call(ack=bad)  # type: ignore[operator]
    assert "z" not in s


def test_what_is_acknowledged_from_disk_survives_a_kill(mode: Any) -> None:
    if not mode.durable:
        pytest.skip("memory does not survive")
    code = """
import annapy, os, signal, sys
s = annapy.open(sys.argv[1], commit_every="1h")
for n in range(20):
    s.counter("n").add(1)
    s.set(f"k{n}", n, ack="disk")
with s.batch(ack="disk") as b:
    b["x"] = 1; b["y"] = 1
s["late"] = 1
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(code, str(mode.path)).returncode == -9
    s = annapy.open(mode.path)
    assert s["n"] == 20
    assert s.get_many(["x", "y", "k19"]) == {"x": 1, "y": 1, "k19": 19}


def test_exit_commits(mode: Any) -> None:
    if not mode.durable:
        pytest.skip("memory does not survive")
    code = """
import annapy, sys
s = annapy.open(sys.argv[1], commit_every="1h")
s["k"] = 1
"""
    done = python(code, str(mode.path))
    assert done.returncode == 0, done.stderr
    assert annapy.open(mode.path)["k"] == 1


def test_another_process_is_told_who_owns_the_store(mode: Any) -> None:
    if not mode.durable:
        pytest.skip("memory belongs to its process")
    s = mode.open()
    s["k"] = [1]
    s.counter("n").add(2)
    s.flush()
    done = python("import annapy, sys; annapy.open(sys.argv[1])", str(mode.path))
    assert "StoreLocked" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    reads = """
import annapy, sys
with annapy.open(sys.argv[1], readonly=True) as s:
    assert s["k"] == [1] and "k" in s and s.get("none", 5) == 5
    assert s["n"] == s.counter("n").value == 2 and s.kind("n") == "counter"
    assert dict(s) == dict(s.scan()) == {"k": [1], "n": 2} and len(s) == 2
    assert s.get_many(["k"], snapshot=True) == {"k": [1]} and s.namespace("")["k"] == [1]
    assert s.options(errors="miss").get("none") is None and s.info("k")["kind"] == "register"
    for write in (lambda: s.set("k", 1), lambda: s.update(k=1), lambda: s.pop("k"),
                  lambda: s.counter("n").add(1), s.clear, lambda: s.touch("k"),
                  lambda: s.orset("o").add(1), lambda: s.merge("n", s.read("n"))):
        try:
            write()
        except annapy.ReadOnlyError:
            continue
        sys.exit("a write went through")
"""
    done = python(reads, str(mode.path))
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork(mode: Any) -> None:
    s = mode.open()
    s["k"] = 1
    s.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = []
        try:
            said.append(str(s["k"]))
            s["child"] = 1
            said.append(str(s["child"]))
            s.flush()
        except BaseException as error:
            said.append(type(error).__name__)
        os.write(writer, " ".join(said).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert told == ("1 StoreLocked" if mode.durable else "1 1")
    assert "child" not in s
    s["parent"] = 1
    s.flush()
    assert s["k"] == 1


def test_many_threads_use_one_store(s: annapy.Store) -> None:
    problems: list[BaseException] = []

    def work(me: int) -> None:
        try:
            for n in range(300):
                s[f"{me}:{n}"] = n
                s.counter("n").add(1)
                assert s[f"{me}:{n}"] == n
                s.orset("o").add((me, n % 10))
                if n % 3 == 0:
                    del s[f"{me}:{n}"]
                if n % 50 == 0:
                    assert len(list(s.scan(f"{me}:"))) <= 300
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert s["n"] == 1200
    assert len(s["o"]) == 40
    assert len(s) == 4 * 200 + 2


def test_backup(mode: Any, tmp_path: Path) -> None:
    s = mode.open()
    s["k"] = 1
    target = tmp_path / "copy"
    if not mode.durable:
        with pytest.raises(ValueError, match="in memory"):
            s.backup(target)
        return
    s.backup(target)
    assert target.exists()
    with pytest.raises(FileExistsError):
        s.backup(target)
    s["k"] = 2
    assert s["k"] == 2


def test_more_than_memory_holds(mode: Any) -> None:
    s = mode.open(capacity="4MiB")
    payload = "x" * 20_000
    if not mode.durable:
        with pytest.raises(annapy.CapacityError, match="capacity"):
            for n in range(1000):
                s[f"k{n}"] = payload
        s["k0"] = 1
        assert s["k0"] == 1
        return
    for n in range(1000):
        s[f"k{n}"] = payload + str(n)
    assert len(s) == 1000
    assert s["k0"] == payload + "0"
    assert s.stats()["demoted"] > 0
    assert sum(1 for _ in s) == 1000
    assert [k for k, _ in s.scan("k1", limit=3)] == ["k1", "k10", "k100"]


def test_a_cache_drops_what_it_has_no_room_for(mode: Any) -> None:
    if mode.durable:
        pytest.skip("with a directory, what memory has no room for goes to disk")
    s = mode.open(capacity="4MiB", evict="sieve")
    for n in range(1000):
        s[f"k{n}"] = "x" * 20_000
    assert 0 < len(s) < 400
    assert len(s) == sum(1 for _ in s)
