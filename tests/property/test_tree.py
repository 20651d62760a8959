"""Path-copied trees against a sorted dict, and operations on them against flat joins.

Nodes are mallocs of their own here, poisoned when they are freed, so that a version that reads a
node it should not have shows it. `ANNAPY_PROFILE=long` runs 10,000 histories a property.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annapy._core import face
from annapy._core.collection import Tree, Trees
from tests.model import collections as model
from tests.model.encoding import Reader, counted, u64, varint
from tests.property.collections_histories import World, operations

State = dict[bytes, bytes]

# Few distinct keys collide; long common beginnings make heads equal; sizes cross every limit.
ALPHABET = b"\0a\x7f\xff"
SHORT = st.lists(st.sampled_from(list(ALPHABET)), max_size=3).map(bytes)
LONG = st.builds(lambda n, tail: b"common/beginning/" * n + tail, st.integers(0, 12), SHORT)
KEYS = st.one_of(SHORT, LONG, st.integers(0, 400).map(lambda n: n.to_bytes(4, "big")))
PAYLOADS = st.one_of(st.integers(0, 40), st.sampled_from([100, 127, 128, 700, 1600, 5000])).map(
    lambda n: bytes([n % 251]) * n
)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), PAYLOADS)), min_size=1, max_size=60)


def flat(prefix: bytes, entries: State) -> bytes:
    if not prefix and not entries:
        return b""
    body = b"".join(varint(len(k)) + varint(len(v)) + k + v for k, v in sorted(entries.items()))
    return counted(prefix) + varint(len(entries)) + body


def many(n: int, seed: int = 1, size: int = 16) -> State:
    generator = random.Random(seed)
    return {
        generator.randbytes(generator.randint(4, 12)): generator.randbytes(size) for _ in range(n)
    }


def applied(entries: State, changes: list[tuple[bytes, bytes | None]]) -> State:
    after = dict(entries)
    for key, payload in changes:
        if payload is None:
            after.pop(key, None)
        else:
            after[key] = payload
    return after


def check(tree: Tree, prefix: bytes, entries: State) -> None:
    expected = flat(prefix, entries)
    assert tree.flatten() == expected
    assert tree.size == len(expected)
    assert tree.prefix == prefix
    assert len(tree) == len(entries)


@given(
    start=st.dictionaries(KEYS, PAYLOADS, max_size=80),
    steps=st.lists(st.tuples(CHANGES, st.binary(max_size=30), st.integers(0, 5)), max_size=12),
)
def test_versions_equal_dicts(start: State, steps: list[Any]) -> None:
    """Every living version goes on being what it was, whichever others are dropped, in any order;
    in the end nothing is left."""
    trees = Trees()
    versions = [(trees.build(flat(b"", start)), b"", start)]
    for changes, prefix, dropped in steps:
        tree, _, entries = versions[-1]
        entries = applied(entries, changes)
        versions.append((tree.edit(changes, prefix), prefix, entries))
        check(*versions[-1])
        if dropped < len(versions) - 1:
            del versions[dropped]
        del tree
    for version in versions:
        check(*version)
    while versions:
        del versions[len(versions) // 2]
        for version in versions:
            check(*version)
    del version
    assert (trees.slabs, trees.used) == (0, 0)


@given(start=st.dictionaries(KEYS, PAYLOADS, max_size=200), probe=st.lists(KEYS, max_size=20))
def test_search_equals_sorted_list(start: State, probe: list[bytes]) -> None:
    tree = Trees().build(flat(b"p", start))
    keys = sorted(start)
    for key in [*probe, *keys[:20]]:
        rank = sum(k < key for k in keys)
        assert (key in tree) == (key in start)
        assert tree.rank(key) == rank
        rest = [(k, start[k]) for k in keys[rank:]]
        assert tree.items(key) == rest == tree.items(index=rank)
        if key in start:
            assert tree[key] == start[key]
        else:
            with pytest.raises(KeyError):
                tree[key]
    assert tree.items(index=len(keys)) == []


@given(start=st.dictionaries(KEYS, PAYLOADS, max_size=100), data=st.data())
def test_partial_and_back(start: State, data: Any) -> None:
    trees = Trees()
    tree = trees.build(flat(b"before", start))
    keys = sorted(set(data.draw(st.lists(KEYS, max_size=12))))
    touched = {k: start[k] for k in keys if k in start}
    assert tree.partial(keys) == flat(b"before", touched)
    after = data.draw(st.dictionaries(st.sampled_from(keys), PAYLOADS)) if keys else {}
    expected = {k: v for k, v in start.items() if k not in keys} | after
    changed = tree.write(flat(b"after", after), keys)
    check(changed, b"after", expected)
    check(tree, b"before", start)


@given(start=st.dictionaries(KEYS, PAYLOADS, max_size=80), changes=CHANGES, n=st.integers(0, 40))
def test_failed_allocation_changes_nothing(start: State, changes: Any, n: int) -> None:
    trees = Trees()
    tree = trees.build(flat(b"", start))
    before = trees.slabs, trees.used
    trees.fail_after(n)
    try:
        after = tree.edit(changes, b"longer")
    except MemoryError:
        trees.fail_after(-1)
        assert (trees.slabs, trees.used) == before
        check(tree, b"", start)
        after = tree.edit(changes, b"longer")
    check(after, b"longer", applied(start, changes))
    trees.fail_after(n)
    with contextlib.suppress(MemoryError):
        trees.build(flat(b"", start))
    trees.fail_after(-1)
    del tree, after
    assert (trees.slabs, trees.used) == (0, 0)


# --- operations -----------------------------------------------------------------------------

MERGE = 9
COLLECTIONS = [model.GSET, model.ORDERED_SET, model.ORSET, model.MAP, model.ORMAP]
NAMES = {tag: kind for kind, tag in face.TAGS.items()}


def fillers() -> bytes:
    """The argument of one addition that makes a state of several leaves."""
    members = [b"filler %d" % i for i in range(300)]
    return varint(len(members)) + b"".join(counted(m) for m in members)


def start_of(tag: int) -> bytes:
    if tag in {model.MAP, model.ORMAP}:
        state = b""
        for i in range(150):
            field = counted(b"filler %d" % i) + bytes([model.GCOUNTER, model.ADD])
            state = face.apply(tag, state, model.UPDATE, field + u64(i + 1), 5, (1, 5, 0))
        return state
    return face.apply(tag, b"", model.ADD, fillers(), 5)


STARTS = {tag: start_of(tag) for tag in COLLECTIONS}


def step_of(tag: int) -> st.SearchStrategy[Any]:
    number = st.integers(0, 5)
    return st.one_of(
        st.tuples(st.just("here"), operations(tag)),
        st.tuples(st.just("there"), operations(tag)),
        st.tuples(st.sampled_from(["delta", "merge", "pull"]), number),
    )


class Pair:
    """Two replicas of one state: flat ones, and a tree beside the first."""

    def __init__(self, tag: int, state: bytes) -> None:
        self.tag, self.here, self.there = tag, state, state
        self.trees = Trees()
        self.tree = self.trees.build(state)
        self.deltas = [STARTS[tag]]
        self.world = World(tag)
        self.ms = 0

    def operate(self, where: str, op: Any) -> None:
        op = self.world.op(op, self.tag)
        self.ms += 1
        argument, actor, stamp = model.op_bytes(self.tag, op), ord(where[0]), (self.ms, 3, 0)
        old = self.here if where == "here" else self.there
        try:
            delta = face.mutate(self.tag, old, op[0], argument, actor, stamp)
        except TypeError:  # the field has another type
            return
        self.deltas.append(delta)
        if where == "here":
            self.here = face.join(self.tag, old, delta)
            self.tree = self.tree.apply(self.tag, op[0], argument, actor, stamp)
        else:
            self.there = face.join(self.tag, old, delta)

    def receive(self, kind: str, number: int) -> None:
        state = self.there if kind == "pull" else self.deltas[-1 - number % len(self.deltas)]
        self.here = face.join(self.tag, self.here, state)
        if kind == "merge":
            self.tree = self.tree.apply(self.tag, MERGE, face.make_cell(self.tag, state), 1)
        else:
            self.tree = self.tree.join(self.tag, state)


@pytest.mark.parametrize("tag", COLLECTIONS, ids=[NAMES[tag] for tag in COLLECTIONS])
@given(data=st.data())
def test_operations_equal_flat_joins(tag: int, data: Any) -> None:
    """Operations, deltas and whole states both ways: the tree's bytes are the flat join's."""
    pair = Pair(tag, data.draw(st.sampled_from([b"", STARTS[tag]])))
    for kind, what in data.draw(st.lists(step_of(tag), max_size=12)):
        if kind in {"here", "there"}:
            pair.operate(kind, what)
        else:
            pair.receive(kind, what)
        assert pair.tree.flatten() == pair.here
    trees = pair.trees
    del pair
    assert (trees.slabs, trees.used) == (0, 0)


# --- nodes ----------------------------------------------------------------------------------


def records_of(data: bytes) -> dict[int, bytes]:
    reader, found = Reader(data), {}
    while reader:
        node = reader.u64()
        assert node not in found
        found[node] = reader.counted()
    return found


def joined(records: dict[int, bytes]) -> bytes:
    return b"".join(u64(node) + counted(body) for node, body in records.items())


@given(
    start=st.dictionaries(KEYS, PAYLOADS, max_size=200),
    steps=st.lists(st.tuples(CHANGES, st.booleans()), max_size=8),
    data=st.data(),
)
def test_commits_write_what_changed(start: State, steps: list[Any], data: Any) -> None:
    """What a store keeps by adding new nodes and deleting dead ones is, at each commit, exactly
    the nodes of that version; and they load."""
    trees = Trees()
    tree = committed = trees.build(flat(b"c", start))
    stored = records_of(committed.nodes())
    for changes, commit in steps:
        tree = tree.edit(changes)
        start = applied(start, changes)
        if commit:
            stored |= records_of(tree.nodes(committed.last))
            for node in committed.dead(tree):
                del stored[node]
            committed = tree
            assert stored == records_of(tree.nodes())
    shuffled = list(records_of(tree.nodes()).items())
    data.draw(st.randoms()).shuffle(shuffled)
    other = Trees()
    loaded = other.load(joined(dict(shuffled)))
    check(loaded, b"c", start)
    assert loaded.last >= max(node for node, _ in shuffled)
    check(loaded.edit([(b"new", b"1")]), b"c", start | {b"new": b"1"})
    del loaded
    assert (other.slabs, other.used) == (0, 0)


GOOD = Trees().build(flat(b"context", many(600))).nodes()


@settings(max_examples=1000)
@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_nodes_are_refused_or_whole(at: int, bit: int, cut: bool) -> None:
    """Loads what is a tree still (a payload may have changed), refuses all else, leaks nothing."""
    damaged = GOOD[:at] if cut else GOOD[:at] + bytes([GOOD[at] ^ 1 << bit]) + GOOD[at + 1 :]
    trees = Trees()
    try:
        tree = trees.load(damaged)
    except ValueError:
        assert (trees.slabs, trees.used) == (0, 0)
        return
    assert not cut
    entries = tree.items()
    assert [k for k, _ in entries] == sorted({k for k, _ in entries})
    check(trees.build(tree.flatten()), tree.prefix, dict(entries))
    for key, payload in entries:
        assert tree[key] == payload


@given(data=st.data())
def test_wrong_graphs_are_refused(data: Any) -> None:
    """Nodes twice, left out, swapped, made to point at themselves or at another's child."""
    records = records_of(GOOD)
    ids = list(records)
    one, two = data.draw(st.permutations(ids))[:2]
    kind = data.draw(st.sampled_from(["missing", "twice", "swapped", "pointer", "extra"]))
    text = joined(records)
    if kind == "missing":
        text = joined({k: v for k, v in records.items() if k != one})
    elif kind == "twice":
        text += u64(one) + counted(records[one])
    elif kind == "swapped":
        text = joined(records | {one: records[two], two: records[one]})
    elif kind == "pointer":
        inner = next(k for k, v in records.items() if v[0] == 1)
        text = joined(records | {inner: records[inner].replace(u64(ids[-1]), u64(one))})
        if one == ids[-1]:
            return
    else:
        text = joined(records | {max(ids) + 1: records[ids[-1]]})
    trees = Trees()
    with pytest.raises(ValueError, match="nodes"):
        trees.load(text)
    assert trees.slabs == 0


@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    trees = Trees()
    for load in (trees.load, trees.build):
        try:
            tree = load(garbage)
        except ValueError:
            continue
        assert load == trees.build
        assert tree.flatten() == garbage or garbage == b"\0\0"
        del tree
    assert (trees.slabs, trees.used) == (0, 0)
