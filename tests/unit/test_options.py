"""Opening: targets, sizes, durations, precedence, the directory's record, and their messages."""
from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

import annapy
from annapy import _codes, options
from annapy.options import agree_with_record, duration, duration_ms, format_size, resolve, size

CORE = Path(options.__file__).parent / "_core"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    for name in list(os.environ):
        if name.startswith("ANNAPY_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("given", "expected"), [
    (1, 1), ("1", 1), ("64KiB", 65536), ("64 kib", 65536), ("1k", 1024), ("1kB", 1000),
    ("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("2GB", 2 * 10**9), ("1TiB", 2**40), ("1_000", 1000),
])
def test_sizes(given: Any, expected: int) -> None:
    assert size(given) == expected


@pytest.mark.parametrize("bad", ["", "MiB", "5 apples", "1GiB2", "-5", 0, -1, "1..5KiB", "nan"])
def test_bad_sizes(bad: Any) -> None:
    with pytest.raises(ValueError, match="capacity"):
        size(bad, "capacity")


@pytest.mark.parametrize("bad", [1.5, None, True, b"5"])
def test_sizes_of_wrong_types(bad: Any) -> None:
    with pytest.raises(TypeError, match="512MiB"):
        size(bad)


@pytest.mark.parametrize(("given", "expected"), [
    (5, 5.0), (0.5, 0.5), ("5", 5.0), ("10ms", 0.01), ("15m", 900.0), ("1h30m", 5400.0),
    ("2d", 172800.0), ("1w", 604800.0), ("500us", 0.0005), (datetime.timedelta(minutes=2), 120.0),
])
def test_durations(given: Any, expected: float) -> None:
    assert duration(given) == pytest.approx(expected)


@pytest.mark.parametrize("bad", ["", "m", "5x", "1h30", "-5s", 0, -0.1, float("nan"), float("inf"),
                                 "200000w", datetime.timedelta(0)])
def test_bad_durations(bad: Any) -> None:
    with pytest.raises(ValueError, match="ttl="):
        duration(bad, "ttl")


def test_milliseconds_round_up() -> None:
    assert [duration_ms(x) for x in (1, 0.001, 0.0001, 0.0015)] == [1000, 1, 1, 2]
    assert [format_size(n) for n in (1, 1024, 2**20, 3 * 2**30)] == ["1B", "1KiB", "1MiB", "3GiB"]


def test_targets(tmp_path: Path) -> None:
    assert resolve(None, {}).path is None
    assert resolve("mem://", {}).path is None
    assert resolve(tmp_path, {}).path == str(tmp_path)
    assert resolve(str(tmp_path), {}).path == str(tmp_path)
    assert resolve(f"file://{tmp_path}/a%20b?capacity=64MiB&readonly=1", {}).path == \
        f"{tmp_path}/a b"
    assert resolve("relative", {}).path == str(Path("relative").absolute())
    opened = resolve(tmp_path / "a b?", {"allow_pickle": True})
    again = resolve(opened.url(), {})
    assert (again.path, again.allow_pickle) == (opened.path, True)


@pytest.mark.parametrize(("bad", "error", "words"), [
    ("", ValueError, "empty"), (5, TypeError, "directory"), ("mem://name", ValueError, "no name"),
    ("file://relative", ValueError, "three slashes"), ("redis://x", ValueError, "unknown scheme"),
    ("shm://x", ValueError, "three slashes"), ("anna://h:1", annapy.NodeUnavailable, "cluster"),
    ("shm:///tmp/x", annapy.NodeUnavailable, "host mode"),
    ("mem://?capasity=1", ValueError, r"did you mean 'capacity'"),
    ("mem://?share=1", ValueError, "needs a directory"),
])
def test_bad_targets(bad: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(bad, {})


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="directory of its own"):
        resolve(tmp_path / "file", {})


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "annapy.json"
    config.write_text('{"annapy": {"capacity": "1MiB", "timeout": "1s", "evict": "sieve"}}')
    monkeypatch.setenv("ANNAPY_CONFIG", str(config))
    assert resolve("mem://", {}).capacity == 2**20
    monkeypatch.setenv("ANNAPY_CAPACITY", "2MiB")
    assert resolve("mem://", {}).capacity == 2 * 2**20
    assert resolve("mem://?capacity=3MiB", {}).capacity == 3 * 2**20
    found = resolve("mem://?capacity=3MiB", {"capacity": "4MiB"})
    assert found.capacity == 4 * 2**20
    assert (found.timeout, found.evict) == (1.0, "sieve")
    assert found.explicit["timeout"] == str(config)
    monkeypatch.setenv("ANNAPY_URL", f"file://{tmp_path}/from-env")
    assert resolve(None, {}).path == f"{tmp_path}/from-env"
    monkeypatch.setenv("ANNAPY_CAPACITY", "")
    assert resolve("mem://", {}).capacity == 2**20
    monkeypatch.setenv("ANNAPY_CAPACITY", "lots")
    with pytest.raises(ValueError, match="ANNAPY_CAPACITY='lots'"):
        resolve("mem://", {})


def test_configuration_files(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('capacity = "8MiB"\nurl = "mem://"\n')
    pytest.importorskip("tomllib")
    assert resolve(None, {}, path).capacity == 8 * 2**20
    path.write_text("capacity = ")
    with pytest.raises(ValueError, match="not valid"):
        resolve(None, {}, path)
    path.write_text("nonsense = 1")
    with pytest.raises(ValueError, match="unknown option 'nonsense'"):
        resolve(None, {}, path)
    with pytest.raises(FileNotFoundError):
        resolve(None, {}, tmp_path / "none.toml")
    wrong = tmp_path / "c.json"
    wrong.write_text("[1]")
    with pytest.raises((ValueError, TypeError), match="table"):
        resolve(None, {}, wrong)


@pytest.mark.parametrize(("name", "bad", "error"), [
    ("evict", "lru", ValueError), ("shards", 0, ValueError), ("shards", "x", TypeError),
    ("shards", 1000, ValueError), ("capacity", "1KiB", ValueError), ("ack", "sync", ValueError),
    ("readonly", "perhaps", ValueError), ("readonly", 5, TypeError), ("ttl", -1, ValueError),
    ("commit_every", 0, ValueError), ("timeout", "later", ValueError),
    ("disk_capacity", "1GiB", ValueError), ("readonly", True, ValueError),
    ("ack", "disk", ValueError), ("ack", "upstream", ValueError), ("ack", 3, ValueError),
])
def test_bad_options(name: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        annapy.open("mem://", **{name: bad})


def test_connect_says_what_it_is_for() -> None:
    with pytest.raises(annapy.NodeUnavailable, match="cluster mode"):
        annapy.connect("anna://localhost:7000")
    for bad in ("mem://", "/dir", 5):
        with pytest.raises(ValueError, match=r"annapy.open"):
            annapy.connect(bad)  # type: ignore[arg-type]


def test_the_record_of_a_directory(tmp_path: Path) -> None:
    first = resolve(tmp_path, {"capacity": "8MiB", "ack": "disk"})
    record = agree_with_record(first, {})
    assert record == {"capacity": 8 * 2**20, "ack": "disk"}
    later = resolve(tmp_path, {"evict": "sieve"})
    assert agree_with_record(later, record) == {**record, "evict": "sieve"}
    assert (later.capacity, later.ack) == (8 * 2**20, "disk")
    with pytest.raises(ValueError, match=r"capacity=16MiB from the call.*capacity=8MiB"):
        agree_with_record(resolve(tmp_path, {"capacity": "16MiB"}), record)


def test_the_default_capacity_is_a_quarter_at_most_a_gibibyte(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "memory_limit", lambda: 2 << 30)
    assert options.default_capacity() == 512 << 20
    assert options.effective_capacity(4 << 30) == 1 << 30
    assert options.effective_capacity(8 << 20) == 8 << 20
    monkeypatch.setattr(options, "memory_limit", lambda: 64 << 30)
    assert options.default_capacity() == 1 << 30


@pytest.mark.parametrize(("lines", "files", "expected"), [
    ("0::/a/b\n", {"/sys/fs/cgroup/a/memory.max": 100 << 20}, 100 << 20),
    ("0::/a\n", {"/sys/fs/cgroup/a/memory.max": 90 << 20, "/sys/fs/cgroup/memory.max": 80 << 20},
     80 << 20),
    ("4:cpu:/x\n3:memory:/d\n", {"/sys/fs/cgroup/memory/d/memory.limit_in_bytes": 70 << 20},
     70 << 20),
])
def test_cgroup_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str,
                       files: dict[str, int], expected: int) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(lines)
    real = open

    def fake(path: Any, *how: Any, **more: Any) -> Any:
        return real(cgroup if path == "/proc/self/cgroup" else path, *how, **more)

    monkeypatch.setattr("builtins.open", fake)
    monkeypatch.setattr(options, "_read_int", files.get)
    assert options.memory_limit() == expected


def test_codes_are_those_of_the_core() -> None:
    files = ("cell", "registry", "shard", "stamp")
    text = "".join((CORE / f"{name}.pxd").read_text() for name in files)
    found = {}
    for line in text.splitlines():
        name, equals, rest = line.split("#")[0].partition("=")
        if equals and name.strip().isidentifier():
            found[name.strip()] = rest.strip()
    for name in _codes.__all__:
        if name.startswith(("TAG_", "OP_", "REQ_", "TTL_", "STAMP_")):
            assert eval(found[name]) == getattr(_codes, name), name
