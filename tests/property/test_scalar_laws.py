"""The laws, for every built-in type: by Hypothesis, in a native loop, and in a small world.

The campaign checks 100,000 triples a type and law, 10,000,000 with ANNAPY_PROFILE=long; a failure
names the seed and the call that replays it.
"""
from __future__ import annotations

import itertools
import os
import random

import pytest

from annapy._core import face
from annapy.lattice.base import class_of
from annapy.testing import LawBroken, campaign, check_lattice
from annapy.testing.histories import ACTORS, CHAINS, operation
from annapy.testing.laws import CONCURRENT_SHARE_MIN

LONG = os.environ.get("ANNAPY_PROFILE") == "long"
KINDS = [kind for kind in face.TAGS if kind != "none"]
each = pytest.mark.parametrize("kind", KINDS)


@each
def test_laws_by_hypothesis(kind: str) -> None:
    report = check_lattice(class_of(face.TAGS[kind]))
    print(report)
    assert set(report.examples) == {
        "associative", "commutative", "idempotent", "bottom", "order", "canonical", "codec",
        "hardened", "deltas",
    }


@each
def test_laws_by_campaign(kind: str) -> None:
    tag = face.TAGS[kind]
    examples = 10_000_000 if LONG else 100_000
    report = campaign(class_of(tag), examples)
    print(report)
    assert min(report.examples.values()) >= examples
    assert tag in CHAINS or report.concurrent_share >= CONCURRENT_SHARE_MIN


@each
def test_all_triples_of_a_small_world(kind: str) -> None:
    """Every three of the states that a dozen operations lead to: 1,728 triples."""
    tag, rng = face.TAGS[kind], random.Random(kind)
    world = {b""}
    for _ in range(200):  # a flag has two states, and never a dozen
        if len(world) >= 12:
            break
        base = rng.choice(sorted(world))
        code, arg, stamp = operation(tag, rng, base)
        # A fresh actor each: one that minted from two states could mint one dot twice.
        delta = face.mutate(tag, base, code, arg, rng.getrandbits(40) | 1, stamp)
        world |= {delta, face.join(tag, base, delta)}
    for a, b, c in itertools.product(sorted(world)[:12], repeat=3):
        ab = face.join(tag, a, b)
        assert ab == face.join(tag, b, a)
        assert face.join(tag, ab, c) == face.join(tag, a, face.join(tag, b, c))
        assert face.order(tag, a, b) == (ab == b) | (ab == a) << 1


def test_a_broken_lattice_is_caught_by_the_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Had a join dropped an actor now and then, the campaign would say so, with a seed."""
    join = face.join

    def forgetful(tag: int, a: bytes, b: bytes) -> bytes:
        joined = join(tag, a, b)
        return joined[16:] if len(joined) == 16 * len(ACTORS) else joined

    monkeypatch.setattr(face, "join", forgetful)
    with pytest.raises(LawBroken, match="replay: campaign"):
        campaign(class_of(face.TAGS["gcounter"]), 2_000, seed=1)


