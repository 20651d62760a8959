"""A Store is a MutableMapping: CPython's own mapping tests, and what they do not ask."""
from __future__ import annotations

import collections.abc
import unittest
from typing import Any

import pytest

import annapy

try:
    from test import mapping_tests
except ImportError:
    mapping_tests = None  # type: ignore[assignment]

if mapping_tests is not None:
    NAMES = [name for name in dir(mapping_tests.BasicTestMappingProtocol) if name[:5] == "test_"]

    @pytest.mark.parametrize("name", NAMES)
    def test_cpython_mapping_tests(mode: Any, name: str) -> None:
        """With string keys, as CPython runs them for os.environ."""
        case: Any = type("StoreCase", (mapping_tests.BasicTestMappingProtocol,),
                         {"_empty_mapping": lambda self: fresh(mode)})
        result = unittest.TestResult()
        case(name).run(result)
        problems = result.failures + result.errors
        assert not problems, problems[0][1]
        assert result.testsRun == 1
else:

    @pytest.mark.skip(reason="this interpreter has no test.mapping_tests")
    def test_cpython_mapping_tests() -> None:
        """Named, so that the skip shows."""


def fresh(mode: Any) -> annapy.Store:
    """An empty store: in the directory mode a new directory each time."""
    mode.path = mode.path.with_name(f"store-{len(mode.opened)}")
    store: annapy.Store = mode.open(capacity="8MiB")
    return store


def test_is_a_mutable_mapping(s: annapy.Store) -> None:
    assert isinstance(s, collections.abc.MutableMapping)
    s["a"] = 1
    match s:
        case {"a": found}:
            assert found == 1
        case _:
            pytest.fail("a Store does not match a mapping pattern")


def test_keys_are_equal_when_equal_in_utf8(s: annapy.Store) -> None:
    s["é"] = 1
    assert s["é".encode()] == 1
    assert "é".encode() in s
    assert list(s) == ["é"]
    s[b"\xff\xfe"] = 2
    assert s["\udcff\udcfe"] == 2
    assert "\udcff\udcfe" in set(s)
    s[""] = 3
    assert s[b""] == 3
    assert "" in list(s)
    assert len(s) == 3


def test_key_limits(s: annapy.Store) -> None:
    s["k" * 4096] = 1
    assert s["k" * 4096] == 1
    with pytest.raises(ValueError, match=r"4097 bytes.*limit of 4096"):
        s["k" * 4097] = 1
    with pytest.raises(ValueError, match="surrogate"):
        s["\ud800"] = 1
    for bad in (5, None, 1.5, ("a",), bytearray(b"a")):
        with pytest.raises(TypeError, match="str or bytes"):
            s[bad] = 1  # type: ignore[index]
        with pytest.raises(TypeError, match="str or bytes"):
            s.get(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="str or bytes"):
            s.__contains__(bad)


def test_missing_keys_are_plain_key_errors(s: annapy.Store) -> None:
    for call in (lambda: s["no"], lambda: s.pop("no"), lambda: s.ttl("no"), lambda: s.info("no"),
                 s.popitem, lambda: s.__delitem__("no")):
        with pytest.raises(KeyError) as caught:
            call()
        assert type(caught.value) is KeyError
    assert s.get("no") is None
    assert s.get("no", 5) == 5
    assert s.kind("no") is None
    assert s.read("no") is None
    assert s.delete("no") is False
    assert s.touch("no") is False


def test_comparison_is_by_contents(s: annapy.Store) -> None:
    s.update({"a": 1, "b": [1, 2]})
    assert s == {"a": 1, "b": [1, 2]}
    assert {"b": [1, 2], "a": 1} == s
    assert s != {"a": 1}
    assert s != {"a": 1, "b": [2, 1]}
    assert s != 5
    with annapy.open() as other:
        other.update(s)
        assert other == s
    with pytest.raises(TypeError):
        hash(s)
    assert s | {"c": 1} == {"a": 1, "b": [1, 2], "c": 1}
    assert {"a": 0} | s == dict(s)
    s |= {"c": 3}
    assert s["c"] == 3


def test_views(s: annapy.Store) -> None:
    s.update({"a": 1, "ab": 2, "b": 3})
    assert s.keys() & {"a", "z"} == {"a"}
    assert ("a", 1) in s.items()
    assert 3 in s.values()
    assert sorted(s.keys("a")) == ["a", "ab"]
    assert len(s.keys("a")) == 2
    assert "b" not in s.keys("a")
    assert "ab" in s.keys(b"a")
    assert 5 not in s.keys()
    assert sorted(s.values()) == [1, 2, 3]
    assert min(s.items()) == ("a", 1)


def test_iteration_survives_change(s: annapy.Store) -> None:
    for n in range(500):
        s[f"stay:{n}"] = n
        s[f"go:{n}"] = n
    seen = []
    for n, key in enumerate(s):
        seen.append(key)
        if n < 500:
            s.delete(f"go:{n}")
            s[f"new:{n}"] = n
    assert len(seen) == len(set(seen))
    assert {f"stay:{n}" for n in range(500)} <= set(seen)
    for n, _ in enumerate(s.items()):
        s.delete(f"stay:{n}")
    for n, _ in enumerate(s.scan()):
        s.delete(f"new:{n}")


def test_containers_are_fresh_copies(s: annapy.Store) -> None:
    given = {"a": [1]}
    s["k"] = given
    given["a"].append(2)
    got = s["k"]
    got["a"].append(3)
    assert s["k"] == {"a": [1]}


def test_popitem_drains(s: annapy.Store) -> None:
    expected = {f"k{n}": n for n in range(300)}
    s.update(expected)
    got = dict(s.popitem() for _ in range(300))
    assert got == expected
    assert len(s) == 0
    with pytest.raises(KeyError):
        s.popitem()
    s["late"] = 1
    assert s.popitem() == ("late", 1)
    s.update(dict.fromkeys("abc", 1))
    first, _ = s.popitem()
    for key in set("abc") - {first}:    # popitem had its eye on these
        del s[key]
    with pytest.raises(KeyError, match="empty"):
        s.popitem()


def test_update_forms(s: annapy.Store) -> None:
    s.update([("a", 1)], b=2)
    s.update({"c": 3}, other=4, self=5)
    assert s == {"a": 1, "b": 2, "c": 3, "other": 4, "self": 5}


def test_bool_and_repr(s: annapy.Store) -> None:
    assert not s
    s["a"] = 1
    assert s
    assert "annapy.Store" in repr(s)
    s.close()
    assert "closed" in repr(s)


def test_collections_abc_names_are_all_there() -> None:
    for name in collections.abc.MutableMapping.__abstractmethods__ | {
            "get", "pop", "popitem", "setdefault", "update", "clear", "keys", "values", "items"}:
        assert callable(getattr(annapy.Store, name)), name
