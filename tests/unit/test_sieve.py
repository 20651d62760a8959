"""SIEVE in the engine beside SIEVE as its paper has it, on one zipf trace."""
from __future__ import annotations

import random
from collections import OrderedDict

from annapy._core import face  # noqa: F401  (registers the lattices)
from annapy._core.engine import Engine

SET, LWW = 1, 6
OBJECTS, REQUESTS = 20_000, 150_000


class Sieve:
    """Zhang and others, NSDI 2024: a queue, a visited bit, a hand from the tail to the head."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.visited: OrderedDict[int, bool] = OrderedDict()   # oldest first
        self.order: list[int] = []
        self.hand = 0

    def ask(self, key: int) -> bool:
        if key in self.visited:
            self.visited[key] = True
            return True
        while len(self.visited) >= self.room:
            self._evict()
        self.visited[key] = False
        self.order.append(key)
        return False

    def _evict(self) -> None:
        while True:
            if self.hand >= len(self.order):
                self.order = [key for key in self.order if key in self.visited]
                self.hand = 0
            key = self.order[self.hand]
            self.hand += 1
            if key in self.visited:
                if not self.visited[key]:
                    del self.visited[key]
                    self.order[self.hand - 1] = -1
                    return
                self.visited[key] = False


def zipf(draw: random.Random) -> list[int]:
    weights = [1 / (rank + 1) ** 0.9 for rank in range(OBJECTS)]
    return draw.choices(range(OBJECTS), weights, k=REQUESTS)


def test_the_hit_ratio_is_that_of_a_plain_reference() -> None:
    trace = zipf(random.Random(11))
    engine = Engine(2 << 20, 1, actor=7 << 20 | 1, evict=True)
    value = bytes(400)
    hits = 0
    for key in trace:
        name = b"key:%05d" % key
        if engine.read(name) is not None:
            hits += 1
        else:
            engine.apply(name, SET, LWW, value)
    room = engine.live()
    assert 1000 < room < OBJECTS // 2
    reference = Sieve(room)
    expected = sum(reference.ask(key) for key in trace)
    assert abs(hits - expected) / REQUESTS < 0.01, (hits, expected, room)
