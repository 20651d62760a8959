"""Many keys: bulk calls, sorted scans, namespaces, views, iteration over memory and disk."""
from __future__ import annotations

from typing import Any

import pytest

import annapy

KEYS = sorted(["", "a", "a:1", "a:2", "ab", "b", "é", "日本", "z" * 600, "z" * 600 + "!", "\udcff"],
              key=lambda k: k.encode("utf-8", "surrogateescape"))


def test_many(s: annapy.Store) -> None:
    s.set_many({"a": 1, b"b": 2}, ttl="1h", tag="t")
    s.set_many([("c", 3)])
    wanted = ["c", b"b", "none", "a"]
    assert s.get_many(wanted) == {"c": 3, b"b": 2, "a": 1}
    assert s.get_many(wanted, snapshot=True) == {"c": 3, b"b": 2, "a": 1}
    out = {"kept": 0}
    assert s.get_many(["a"], out=out) is out
    assert out == {"kept": 0, "a": 1}
    assert s.ttl("a") is not None
    assert s.delete_many(["a", "c", "none"]) == 2
    assert list(s) == ["b"]
    assert s.evict("t") == 1


@pytest.mark.parametrize("flushed", [False, True])
def test_scan_is_sorted_by_bytes(mode: Any, flushed: bool) -> None:
    s = mode.open()
    for n, key in enumerate(reversed(KEYS)):
        s[key] = n
    if flushed:
        s = mode.again(s)
    s["b"] = "again"
    assert [k for k, _ in s.scan()] == KEYS
    assert [k for k, _ in s.scan(reverse=True)] == KEYS[::-1]
    assert [k for k, _ in s.scan(limit=3)] == KEYS[:3]
    assert list(s.scan(limit=0)) == []
    assert [k for k, _ in s.scan("a")] == ["a", "a:1", "a:2", "ab"]
    assert [k for k, _ in s.scan("a", reverse=True, limit=2)] == ["ab", "a:2"]
    assert [k for k, _ in s.scan(start="a:1", stop="b")] == ["a:1", "a:2", "ab"]
    assert [k for k, _ in s.scan(start="a:1", stop="b", reverse=True)] == ["ab", "a:2", "a:1"]
    assert [k for k, _ in s.scan("a", start="0", stop="zz")] == ["a", "a:1", "a:2", "ab"]
    assert [k for k, _ in s.scan("z")] == ["z" * 600, "z" * 600 + "!"]
    assert list(s.scan("none")) == []
    assert dict(s.scan())["b"] == "again"
    assert sorted(s, key=lambda k: k.encode("utf-8", "surrogateescape")) == KEYS
    assert len(s) == len(KEYS)


def test_scan_refuses_nonsense(s: annapy.Store) -> None:
    with pytest.raises(ValueError, match="limit=-1"):
        s.scan(limit=-1)
    with pytest.raises(TypeError, match="limit"):
        s.scan(limit="5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str or bytes"):
        s.scan(5)  # type: ignore[arg-type]


def test_deleted_keys_on_disk_do_not_show(mode: Any) -> None:
    s = mode.open()
    s.update({f"k{n:03}": n for n in range(100)})
    s = mode.again(s)
    for n in range(0, 100, 2):
        del s[f"k{n:03}"]
    rest = [f"k{n:03}" for n in range(1, 100, 2)]
    assert sorted(s) == rest
    assert [k for k, _ in s.scan()] == rest
    assert len(s) == 50
    s = mode.again(s)
    assert sorted(s) == rest
    assert len(s) == 50


def test_clear(s: annapy.Store) -> None:
    s.update({"a:1": 1, "a:2": 2, "b": 3})
    s.clear("a:")
    assert s == {"b": 3}
    s.clear()
    assert len(s) == 0


def test_namespaces(mode: Any) -> None:
    s = mode.open()
    s["other"] = 0
    users = s.namespace("user:")
    users["42"] = 1
    users.counter("n").add(2)
    users["n"] += 1
    assert s["user:42"] == 1
    assert dict(users) == {"42": 1, "n": 3}
    assert len(users) == 2
    assert list(users.scan("4")) == [("42", 1)]
    assert users.namespace("4")["2"] == 1
    assert "other" not in users
    assert sorted(users.keys()) == ["42", "n"]
    assert bool(s.namespace("none")) is False
    with users.batch() as b:
        b["x"] = 1
    assert s["user:x"] == 1
    users.clear()
    assert s == {"other": 0}
    with pytest.raises(ValueError, match=r"4096"):
        s.namespace("n" * 4000)["k" * 97] = 1
    s.namespace("n" * 4000)["k" * 96] = 1
    users.close()
    with pytest.raises(annapy.StoreClosed):
        users["a"]
    assert s["other"] == 0
    again = s.namespace("user:")
    s.close()
    for view in (again, again.namespace("deeper") if not again.closed else again):
        with pytest.raises(annapy.StoreClosed):
            view["a"]


def test_warm(mode: Any, tmp_path: Any) -> None:
    s = mode.open()
    s.update({"a1": 1, "a2": 2, "b": 3})
    s = mode.again(s)
    assert s.warm("a") == 2
    assert s.warm(["b", "none"]) == 1
    assert s.warm() == 3
    assert s.warm(limit=1) == 1
    with annapy.open(tmp_path / "source", capacity="8MiB") as source:
        source.counter("n").add(5)
        source["x"] = [1]
    assert s.warm(f"file://{tmp_path}/source") == 2
    assert s["n"] == 5
    assert s["x"] == [1]


def test_a_snapshot_of_many_cold_keys(mode: Any) -> None:
    s = mode.open()
    expected = {f"k{n}": n for n in range(300)}
    s.update(expected)
    s = mode.again(s)
    assert s.get_many([*expected, "none"], snapshot=True) == expected


def test_stats_and_info(s: annapy.Store) -> None:
    s["k"] = 1
    assert s.stats()["live"] == 1
    info = s.info("k")
    assert info["key"] == "k"
    assert info["ttl"] is None
    assert info["kind"] == "register"
    with pytest.raises(KeyError):
        s.info("none")


def test_miss_views(s: annapy.Store) -> None:
    s["k"] = 1
    view = s.options(errors="miss")
    assert view["k"] == 1
    assert view.get("none", 5) == 5
    with pytest.raises(KeyError):
        view["none"]
    assert "k" in view
    assert type(view.options(errors="raise")) is type(s)
    with pytest.raises(ValueError, match="errors="):
        s.options(errors="ignore")
