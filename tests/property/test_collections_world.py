"""All triples of a small world: every law of the collections on every three of its states.

The world grows from the bottom by operations and joins of what is there already. Its writers fork
on purpose: one actor goes on from different states and so mints one dot twice, with different
contents, which no history does. The joins must be joins on anything well-formed.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from annapy._core import face
from tests.model import collections as model
from tests.property.collections_histories import TAGS, World

NAMES = {tag: kind for kind, tag in face.TAGS.items()}
STATES = 300 if os.environ.get("ANNAPY_PROFILE") == "long" else 80  # cubed: 27 or half a million
every_type = pytest.mark.parametrize("tag", TAGS, ids=[NAMES[tag] for tag in TAGS])


def nested(tag: int) -> list[Any]:
    """(tag, operation) that an update may carry."""
    found = [
        (model.LWW, (model.SET, b"v")),
        (model.GCOUNTER, (model.ADD, 1)),
        (model.ORSET, (model.ADD, [b"x", b"y"])),
        (model.ORSET, (model.REMOVE, [b"x"])),
        (model.MVREGISTER, (model.SET, (None, b"v", {}))),
        (model.MAP, (model.UPDATE, (b"m", model.ORSET, (model.ADD, [b"x"])))),
    ]
    inner = (model.UPDATE, (b"o", model.GCOUNTER, (model.ADD, 2)))
    found += [(model.ORMAP, inner), (model.ORMAP, (model.REMOVE, [b"o"]))]
    return found if tag == model.MAP else [*found, (model.ORSET, (model.CLEAR, None))]


def operations(tag: int) -> list[Any]:
    if tag in {model.GSET, model.ORDERED_SET}:
        return [(model.ADD, [key]) for key in map(b"%d".__mod__, range(10))]
    if tag == model.ORSET:
        return [(code, [key]) for code in (model.ADD, model.REMOVE) for key in (b"", b"a")]
    if tag in {model.MAP, model.ORMAP}:
        fields = (b"f", b"each its own %d")  # one for all types, and one for each
        updates = [
            (model.UPDATE, (field % of if b"%" in field else field, of, op))
            for of, op in nested(tag)
            for field in fields
        ]
        return updates if tag == model.MAP else [*updates, (model.REMOVE, [b"f"])]
    seen = [None, model.Context(), model.Context([(1, 1)])]
    return [(model.SET, (past, value, {b"k": seen[1]})) for past in seen for value in (b"v", b"w")]


def world_of(tag: int) -> list[bytes]:
    """The same states in every run."""
    rng = random.Random(tag)
    world = [b""]
    for stamp in range(1, 100_000):
        if len(world) == STATES:
            break
        state = rng.choice(world)
        if rng.random() < 0.3:
            made = face.join(tag, state, rng.choice(world))
        else:
            op = rng.choice(operations(tag))
            argument = model.op_bytes(tag, op)
            actor = rng.choice([1, 2])
            try:
                made = face.mutate(tag, state, op[0], argument, actor, (stamp // 3 + 1, actor, 0))
            except TypeError:
                continue
            if rng.random() < 0.6:
                made = face.join(tag, state, made)
        if made not in world:
            world.append(made)
    return world


@every_type
def test_laws_on_all_triples(tag: int) -> None:
    world = world_of(tag)
    assert len(world) == STATES
    joined = {(a, b): face.join(tag, a, b) for a in world for b in world}
    for a in world:
        face.verify(tag, a)
        assert model.judge(tag, a)
        assert joined[a, a] == a
        for b in world:
            ab = joined[a, b]
            face.verify(tag, ab)
            assert ab == joined[b, a]
            assert face.order(tag, a, b) == (ab == b) | (ab == a) << 1
            for c in world:
                assert face.join(tag, ab, c) == face.join(tag, a, joined[b, c])


@every_type
def test_joins_are_the_twins(tag: int) -> None:
    twin = model.twin(tag)
    world = [(state, twin.decode(state)) for state in world_of(tag)]
    for a, model_a in world:
        for b, model_b in world:
            assert face.join(tag, a, b) == twin.encode(twin.join(model_a, model_b))


@every_type
def test_histories_are_concurrent(tag: int) -> None:
    """The laws' strategies are worth something: enough of their pairs are concurrent."""
    rng = random.Random(tag)
    concurrent = pairs = 0
    for _ in range(150):
        world = World(tag)
        for _ in range(12):
            at = rng.randrange(3)
            if rng.random() < 0.75:
                op = rng.choice(operations(tag))
                if op[0] == model.SET:
                    op = (op[0], (rng.choice(["own", "none", "past"]), op[1][1], b"k"))
                world.act(at, named(op))
            else:
                other = rng.randrange(3)
                world.receive(at, world.real[other], world.models[other])
        for at in range(3):
            pairs += 1
            concurrent += face.order(tag, world.real[at], world.real[at - 1]) == 0
    assert concurrent / pairs >= 0.3, f"{NAMES[tag]}: {concurrent} of {pairs} pairs concurrent"


def named(op: Any) -> Any:
    """An operation as `World.op` wants it: what a causal write has seen, by name."""
    code, arg = op
    if code == model.UPDATE:
        return code, (arg[0], arg[1], named(arg[2]) if arg[1] != model.LWW else arg[2])
    if code == model.SET and arg[0] not in {"own", "none", "past"}:
        return code, ("own", arg[1], b"k")
    return op
