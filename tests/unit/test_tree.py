"""Trees: what a change costs in nodes, what is freed when, limits, readers beside the owner."""

from __future__ import annotations

import random
import threading

import pytest

from annapy._core import face
from annapy._core.collection import Tree, Trees
from tests.model.encoding import counted, varint

ADD, REMOVE, CLEAR, ORSET = 2, 3, 8, 11


def flat(entries: dict[bytes, bytes], prefix: bytes = b"") -> bytes:
    body = b"".join(varint(len(k)) + varint(len(v)) + k + v for k, v in sorted(entries.items()))
    return counted(prefix) + varint(len(entries)) + body


def numbered(n: int) -> dict[bytes, bytes]:
    return {b"member %09d" % (i * 7919 % 10**9): b"payload of 16 b." for i in range(n)}


def members(names: list[bytes]) -> bytes:
    return varint(len(names)) + b"".join(counted(name) for name in names)


@pytest.mark.parametrize("n", [100, 10_000, 200_000])
def test_a_change_copies_one_path(n: int) -> None:
    trees = Trees(1 << 28)
    tree = trees.build(flat(numbered(n)))
    slabs, used = trees.slabs, trees.used
    for i in range(min(n, 200)):
        after = tree.upsert(b"member %09d new" % (i * 31337), b"x")
        assert trees.slabs - slabs <= tree.height + 1 + 3  # the path, the root, rarely a split
        assert trees.used - used < 16_384
        del after
        assert (trees.slabs, trees.used) == (slabs, used)
        after = tree.remove(b"member %09d" % (i * 7919 % 10**9))
        assert trees.slabs - slabs <= tree.height + 1 + 3
        tree = after
        del after
        slabs, used = trees.slabs, trees.used
    assert tree.flatten() == trees.build(tree.flatten()).flatten()


def test_a_batch_copies_each_node_once() -> None:
    trees = Trees(1 << 28)
    tree = trees.build(flat(numbered(50_000)))
    slabs = trees.slabs
    after = tree.edit([(b"member %09d" % (i * 7919), b"y" * 16) for i in range(2000)])
    assert trees.slabs - slabs <= slabs + 1  # every leaf is touched, none of them twice
    assert len(after) == len(tree)


def test_growing_and_shrinking_again_leaves_nothing() -> None:
    trees = Trees()
    tree = trees.build(b"")
    names = list(numbered(6000))
    random.Random(3).shuffle(names)
    for name in names:
        tree = tree.upsert(name, b"")
    assert tree.height >= 3
    full = trees.slabs
    random.Random(4).shuffle(names)
    for i, name in enumerate(names):
        tree = tree.remove(name)
        if i == 2 * len(names) // 3:
            assert trees.slabs < full * 2 // 3  # small leaves were joined
    assert (tree.height, tree.flatten(), trees.slabs) == (0, b"", 1)


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_additions_one_by_one_leave_full_leaves(order: str) -> None:
    trees = Trees(1 << 26)
    names = sorted(numbered(20_000))
    if order == "descending":
        names.reverse()
    elif order == "random":
        random.Random(5).shuffle(names)
    tree = trees.build(b"")
    for name in names:
        tree = tree.upsert(name, b"payload of 16 b.")
    assert trees.used < tree.size * {"ascending": 1.25, "descending": 1.45, "random": 1.45}[order]


def test_one_successor() -> None:
    trees = Trees()
    tree = trees.build(flat(numbered(50)))
    after = tree.upsert(b"a", b"b")
    with pytest.raises(ValueError, match="status"):
        tree.upsert(b"c", b"d")
    del after
    assert b"c" in tree.upsert(b"c", b"d")


def test_entries_larger_than_a_leaf() -> None:
    trees = Trees()
    entries = numbered(100) | {b"member 5": b"x" * 100_000, b"y" * 70_000: b"", b"": b"z" * 1600}
    tree = trees.build(flat(entries))
    assert tree.flatten() == flat(entries)
    for key in entries:
        tree = tree.edit([(key, b"small")])
        tree = tree.edit([(key, b"L" * 66_000)])
        tree = tree.edit([(key, entries[key])])
    assert tree.flatten() == flat(entries)


def test_operations_on_a_large_set() -> None:
    trees = Trees(1 << 26)
    names = list(numbered(5000))
    state = face.apply(ORSET, b"", ADD, members(names), 9)
    tree = trees.build(state)
    slabs = trees.slabs
    more = tree.apply(ORSET, ADD, members([b"one", names[7]]), 9)
    assert trees.slabs - slabs < 12
    less = more.apply(ORSET, REMOVE, members([names[8], b"not there"]), 9)
    none = less.apply(ORSET, CLEAR, b"", 9)
    assert (len(more), len(less), len(none)) == (5001, 5000, 0)
    assert more.apply(ORSET, REMOVE, members([b"not there"]), 9) is more
    expected = face.apply(ORSET, state, ADD, members([b"one", names[7]]), 9)
    assert more.flatten() == expected
    # A delta that only adds touches what it names; one that removes builds the tree anew.
    delta = face.mutate(ORSET, expected, ADD, members([b"from elsewhere"]), 10)
    removal = face.mutate(ORSET, expected, REMOVE, members([names[9]]), 10)
    tree = trees.build(expected)
    slabs = trees.slabs
    joined = tree.join(ORSET, delta)
    assert (len(joined), trees.slabs - slabs < 12) == (5002, True)
    smaller = joined.join(ORSET, removal)
    assert (len(smaller), trees.slabs - slabs > 50) == (5001, True)
    assert smaller.flatten() == face.join(ORSET, joined.flatten(), removal)


def read_on(tree: Tree, expected: bytes, stop: threading.Event, failures: list[str]) -> None:
    while not stop.is_set():
        if tree.flatten() != expected:
            failures.append("a held version changed")
            return


def test_readers_hold_old_versions_while_the_owner_goes_on() -> None:
    """flatten runs without the GIL; freed nodes are poisoned."""
    trees = Trees()
    tree = trees.build(flat(numbered(3000)))
    stop, failures, readers = threading.Event(), [], []
    generator = random.Random(6)
    names = list(numbered(3000))
    for round_ in range(6):
        reader = threading.Thread(target=read_on, args=(tree, tree.flatten(), stop, failures))
        readers.append(reader)
        reader.start()
        for _ in range(150):
            name = generator.choice(names)
            tree = tree.edit([(name, None)]) if name in tree else tree.edit([(name, b"again")])
        tree = tree.edit([(generator.randbytes(8), b"n") for _ in range(100 + round_)])
    stop.set()
    for reader in readers:
        reader.join()
    del reader, readers
    assert not failures
    slabs = trees.slabs
    copy = trees.build(tree.flatten())
    assert trees.slabs - slabs <= slabs  # all older versions are gone
    del copy, tree
    assert (trees.slabs, trees.used) == (0, 0)
