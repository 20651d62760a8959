"""Histories of collections: three replicas, operations, messages; annapy beside its twin.

A history is a list of steps drawn by Hypothesis. A replica's operation yields a delta, which it
joins; other replicas receive whole states or single deltas, in any order, late, twice, or never.
After each step the replica's bytes must be the twin's: so joins, deltas, dots, contexts and the
encoding are all compared at every step, and not only where replicas meet.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from annapy._core import face
from tests.model import collections as model

__all__ = ["DOTTED", "TAGS", "World", "histories", "play", "states"]

TAGS = [
    model.GSET,
    model.ORDERED_SET,
    model.ORSET,
    model.MAP,
    model.ORMAP,
    model.MVREGISTER,
    model.CAUSAL,
    model.MULTICAUSAL,
]
DOTTED = [tag for tag in TAGS if isinstance(model.twin(tag), model.Dotted)]
ACTORS = [1, 7, 2**64 - 1]
KEYS = st.sampled_from([b"", b"a", b"ab", b"b", b"longer than eight", b"longer than nine"])
VALUES = st.sampled_from([b"x", b"y", b"z" * 200])


def operations(tag: int, depth: int = 0) -> st.SearchStrategy[Any]:
    """(code, argument) for a type. SET of a causal type has "seen" as a number, see `World.op`."""
    members = st.lists(KEYS, min_size=1, max_size=3)
    clear = st.just((model.CLEAR, None))
    if tag == model.MAXINT:
        return st.tuples(st.just(model.OBSERVE), st.integers(-3, 3))
    if tag == model.GCOUNTER:
        return st.tuples(st.just(model.ADD), st.integers(0, 2))
    if tag == model.LWW:
        return st.tuples(st.just(model.SET), VALUES)
    if tag in {model.GSET, model.ORDERED_SET}:
        return st.tuples(st.just(model.ADD), members)
    if tag == model.ORSET:
        codes = st.sampled_from([model.ADD, model.ADD, model.REMOVE])
        return st.one_of(st.tuples(codes, members), st.tuples(codes, members), clear)
    if tag in {model.MVREGISTER, model.CAUSAL, model.MULTICAUSAL}:
        write = st.tuples(
            st.just(model.SET), st.tuples(st.sampled_from(["own", "none", "past"]), VALUES, KEYS)
        )
        return st.one_of(write, write, write, clear)
    update = updates(tag, depth)
    if tag == model.MAP:
        return update
    remove = st.tuples(st.just(model.REMOVE), members)
    return st.one_of(update, update, update, remove, clear)


def updates(tag: int, depth: int) -> st.SearchStrategy[Any]:
    inner = [model.LWW, model.GCOUNTER, model.MAXINT, model.GSET, model.ORSET, model.MVREGISTER]
    if depth < 2:
        inner += [model.ORMAP, model.MAP]
    return st.tuples(
        st.just(model.UPDATE),
        st.sampled_from(inner).flatmap(
            lambda nested: st.tuples(KEYS, st.just(nested), operations(nested, depth + 1))
        ),
    )


def histories(tag: int, max_size: int = 14) -> st.SearchStrategy[list[Any]]:
    replica = st.integers(0, 2)
    act = st.tuples(st.just("op"), replica, operations(tag))
    pull = st.tuples(st.just("pull"), replica, replica)
    deliver = st.tuples(st.just("deliver"), replica, st.integers(0, 30))
    return st.lists(st.one_of(act, act, pull, deliver), min_size=2, max_size=max_size)


class World:
    """Three replicas of one value, in annapy's bytes and in the twin's terms."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.twin = model.twin(tag)
        self.real: list[bytes] = [b""] * 3
        self.models: list[Any] = [self.twin.bottom] * 3
        self.deltas: list[tuple[bytes, Any]] = []
        self.past: list[Any] = [model.Context()]
        self.stamp = 0

    def op(self, op: Any, tag: int) -> Any:
        """The operation with what its writer had seen filled in."""
        code, arg = op
        if code == model.UPDATE:
            return code, (arg[0], arg[1], self.op(arg[2], arg[1]))
        if code == model.SET and tag != model.LWW:
            seen = {"own": None, "none": model.Context(), "past": self.past[len(self.past) // 2]}
            return code, (seen[arg[0]], arg[1], {arg[2]: self.past[-1], b"k": self.past[0]})
        return op

    def act(self, at: int, op: Any) -> None:
        op = self.op(op, self.tag)
        self.stamp += 1
        stamp = (self.stamp // 2 + 1, ACTORS[at], 0)  # so that some are equal, some early
        argument = model.op_bytes(self.tag, op)
        try:
            expected = self.twin.mutate(self.models[at], op, ACTORS[at], stamp)
        except model.WrongType:
            expected = None
        except model.Superseded:
            expected = self.twin.bottom
        try:
            delta = face.mutate(self.tag, self.real[at], op[0], argument, ACTORS[at], stamp)
        except TypeError:
            assert expected is None
            return
        assert expected is not None
        assert delta == self.twin.encode(expected)
        self.deltas.append((delta, expected))
        self.receive(at, delta, expected)

    def receive(self, at: int, real: bytes, twin: Any) -> None:
        self.real[at] = face.join(self.tag, self.real[at], real)
        self.models[at] = self.twin.join(self.models[at], twin)
        assert self.real[at] == self.twin.encode(self.models[at])
        face.verify(self.tag, self.real[at])
        if self.tag in DOTTED:
            self.past.append(self.models[at][1])

    def step(self, step: Any) -> None:
        kind, at, what = step
        if kind == "op":
            self.act(at, what)
        elif kind == "pull":
            self.receive(at, self.real[what], self.models[what])
        elif self.deltas:
            self.receive(at, *self.deltas[what % len(self.deltas)])


def play(tag: int, history: list[Any]) -> World:
    world = World(tag)
    for step in history:
        world.step(step)
    return world


def states(tag: int, least: int) -> st.SearchStrategy[list[bytes]]:
    """States that one history leaves behind: its replicas and its deltas, at least so many."""

    def of(history: list[Any]) -> list[bytes]:
        world = play(tag, history)
        found = [*world.real, *(delta for delta, _ in world.deltas[-least:])]
        return found if len(found) >= least else [*found, *([b""] * least)]

    return histories(tag).map(of)
